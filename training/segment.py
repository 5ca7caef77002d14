"""Trains the segmenter: `python -m crn_fast.training.segment DATA --out segmenter.pt`.

Random windows of real photos, cross-entropy, AdamW. Takes about 15 minutes on one CPU core for data
like CamVid; the defaults are the recipe.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click
import torch
import torch.nn.functional as F
from torch import Tensor

from crn_fast.errors import CheckFailed, CrnError
from crn_fast.palette import label_set
from crn_fast.training import data
from crn_fast.training import recipe as recipes
from crn_fast.training.segmenter import SIZE, WIDTHS, Segmenter, save

ZOOM = (0.5, 1.0)
BRIGHTNESS = 0.3


class Progress(NamedTuple):
    step: int
    steps: int
    loss: float


def train(
    windows: data.Windows,
    steps: int,
    *,
    widths: tuple[int, int, int] = WIDTHS,
    learning_rate: float = 2e-3,
    max_time: float = math.inf,
    device: str = "cpu",
    tell: Callable[[Progress], None] = lambda progress: None,
) -> Segmenter:
    """Train a segmenter by cross-entropy, void left out, rare classes weighted up.

    Args:
        windows: of photos and layouts; batch, augmentation and seed are its recipe's.
        steps: over which the learning rate falls to 0 by a cosine.
        widths: as `Segmenter`.
        learning_rate: AdamW's, at the start.
        max_time: seconds; the learning rate falls with whichever of time and steps is further.
        device: a torch device.
        tell: called after each step.

    Raises:
        BadInput: the data cannot be read.
        CheckFailed: the loss is not a finite number.
    """
    labels = windows.labels
    torch.manual_seed(windows.recipe.seed)
    mean, deviation, weight = _statistics(windows)
    model = Segmenter(labels, windows.size, widths, mean, deviation).train()
    # A quarter less time a step than in torch's own layout, measured on a CPU.
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=1e-4)
    void = -100 if labels.void is None else labels.void
    since, done = time.monotonic(), 0.0
    for step, samples in enumerate(data.batches(windows, 0, steps), start=1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1 + math.cos(math.pi * done)) / 2
        photos = torch.stack([_resized(sample.photo, windows.size) for sample in samples])
        target = torch.stack(
            [data.fit_labels(sample.labels, windows.size, labels.classes) for sample in samples]
        )
        scores = model(photos.to(device, memory_format=torch.channels_last))
        loss = F.cross_entropy(
            scores, target.long().to(device), weight.to(device), ignore_index=void
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if not math.isfinite(value := loss.item()):
            names = ", ".join(sample.name for sample in samples)
            raise CheckFailed(f"step {step}: the loss is {value} (batch: {names})")
        tell(Progress(step, steps, value))
        done = max(step / steps, (time.monotonic() - since) / max_time)
        if done >= 1:
            break
    return model.eval()


def _resized(photo: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 [h, w, 3] -> float [3, H, W]."""
    x = photo.movedim(-1, 0)[None].float()
    return F.interpolate(x, size, mode="bilinear", antialias=True)[0]


def _statistics(
    windows: data.Windows, most: int = 64
) -> tuple[tuple[float, ...], tuple[float, ...], Tensor]:
    """Of at most so many pairs: mean and deviation of R, G, B, and each class's weight.

    The weight is 1 / log(1.02 + the class's share of pixels).
    Source of the weights: Paszke et al. 2016, ENet, section 5.2.
    """
    total, squares = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    pixels, counts = 0, torch.zeros(windows.labels.classes)
    members = [pair for pairs in windows.pairs for pair in pairs]
    for pair in members[:: math.ceil(len(members) / most)]:
        sample = windows.window(pair)
        values = sample.photo.reshape(-1, 3).double()
        total, squares = total + values.sum(0), squares + values.square().sum(0)
        pixels += len(values)
        counts += torch.bincount(sample.labels.flatten(), minlength=windows.labels.classes)
    mean = total / pixels
    deviation = (squares / pixels - mean.square()).clamp_min(1).sqrt()
    return (
        tuple(mean.tolist()),
        tuple(deviation.tolist()),
        1 / torch.log(1.02 + counts / counts.sum()),
    )


@click.command()
@click.argument("root", metavar="DATA", type=click.Path(path_type=Path))
@click.option("--photos", default="photos", show_default=True, help="Folder below DATA.")
@click.option("--layouts", default="labels", show_default=True, help="Folder below DATA.")
@click.option("--labels", default="camvid", show_default=True, help="Label set: NAME|FILE.toml.")
@click.option("--out", default="segmenter.pt", show_default=True, type=click.Path(path_type=Path))
@click.option("--steps", default=2000, show_default=True, type=click.IntRange(min=1))
@click.option("--batch", default=8, show_default=True, type=click.IntRange(min=2))
@click.option("--workers", default=2, show_default=True, type=click.IntRange(min=0))
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.")
@click.option(
    "--max-time",
    default=math.inf,
    type=click.FloatRange(min=0, min_open=True),
    help="Finish after this many seconds.",
)
@click.option("--seed", default=0, show_default=True)
@click.option("--licence", default="", help="What the data asks to be said; kept with the weights.")
def command(
    root: Path,
    photos: str,
    layouts: str,
    labels: str,
    out: Path,
    steps: int,
    batch: int,
    workers: int,
    threads: int | None,
    max_time: float,
    seed: int,
    licence: str,
) -> None:
    """Train a segmenter on the photos and layouts below DATA."""
    if threads:
        torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    source = recipes.Source(photos=photos, labels=layouts, zoom=ZOOM)
    settings = recipes.TrainingRecipe(
        batch=batch, flip=True, brightness=BRIGHTNESS, workers=workers, seed=seed
    )
    windows = data.Windows(root, (source,), label_set(labels), SIZE, settings)
    click.echo(f"{len(windows.pairs[0])} pairs of photo and layout; {device}", err=True)
    last = time.monotonic()

    def tell(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last > 10 or progress.step == progress.steps:
            last = time.monotonic()
            click.echo("step {}/{}  loss {:.4f}".format(*progress), err=True)

    model = train(windows, steps, max_time=max_time, device=device, tell=tell)
    save(out, model, {"steps": str(steps), "data": photos, "licence": licence})
    click.echo(str(out))


if __name__ == "__main__":
    try:
        command(prog_name="python -m crn_fast.training.segment")
    except CrnError as failure:
        click.echo(f"crn_fast.training.segment: {failure}", err=True)
        sys.exit(failure.exit_code)
