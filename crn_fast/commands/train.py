"""`crn-fast train`: photos and layouts become a checkpoint."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crn_fast.commands import emit, interactive, say
from crn_fast.errors import Interrupted, Unavailable

if TYPE_CHECKING:
    from crn_fast.training.trainer import Progress

PLAIN_EVERY = 10.0
"""Seconds between lines of progress where no bar can be drawn."""

EPILOG = """\b
Examples:
  crn-fast train camvid -c street-256 --set loss.weights=vgg19-dcbb9e9d.pth --out run
  crn-fast train camvid -c my.toml --set training.batch=2 --out run --max-time 3600
  crn-fast train camvid -c my.toml --out run --resume

The weights of the feature network are yours to fetch: torchvision's vgg19 .pth, MatConvNet's
imagenet-vgg-verydeep-19.mat, or a distilled network's .pt.
"""


@click.command(epilog=EPILOG)
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "-c",
    "--config",
    default="street-256",
    show_default=True,
    help="Recipe: a .toml file or a shipped recipe's name.",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one value of the recipe."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="run",
    show_default=True,
    help="Folder of the run.",
)
@click.option("--resume", is_flag=True, help="Continue the run in --out.")
@click.option(
    "--init-from",
    type=click.Path(path_type=Path),
    metavar="CKPT",
    help="Begin with these weights where they fit.",
)
@click.option(
    "--max-time", type=float, metavar="SECONDS", help="Save and stop after this long (exit 75)."
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to train.",
)
@click.option(
    "--licence",
    default="",
    metavar="TEXT",
    help="What the data asks to be said of a model; kept with it.",
)
def command(
    data: Path,
    config: str,
    overrides: tuple[str, ...],
    out: Path,
    resume: bool,
    init_from: Path | None,
    max_time: float | None,
    device: str,
    licence: str,
) -> None:
    """Train a network on the photos and layouts in the folder DATA."""
    try:
        import torch
    except ImportError:
        raise Unavailable("training needs torch: pip install 'crn-fast[train]'") from None

    from crn_fast.palette import label_set
    from crn_fast.training import recipe as recipes
    from crn_fast.training.trainer import Trainer

    since = time.monotonic()
    recipe = recipes.read(config, overrides)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise Unavailable("--device cuda: this torch sees no GPU; use --device cpu")
    trainer = Trainer(
        recipe,
        data,
        out,
        label_set(recipe.label_set),
        device,
        resume=resume,
        init_from=init_from,
        licence=licence,
    )
    pairs, steps = sum(map(len, trainer.windows.pairs)), recipe.training.steps
    say(f"{pairs} pairs of photo and layout; {device}; step {trainer.step} of {steps}")
    with _stop_on_signals() as stopping, _Display(trainer.step, steps) as show:
        for progress in trainer.run():
            show(progress)
            late = max_time is not None and time.monotonic() - since > max_time
            if (stopping() or late) and progress.step < progress.steps:
                trainer.save()
                raise Interrupted(
                    f"{out}/ckpt.pt: saved at step {progress.step} of {progress.steps}; "
                    "the same command with --resume goes on"
                )
    emit(str(out / "ckpt.pt"))
    say(f"next: crn-fast build-engine {out / 'ckpt.pt'}")


@contextmanager
def _stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C and SIGTERM ask for a stop instead of striking mid-step; a second one strikes."""
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        asked.append(number)
        signal.signal(number, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Display:
    """A bar on a terminal, else a line every ten seconds; called with each `Progress`."""

    def __init__(self, step: int, steps: int) -> None:
        self.step, self.steps, self.last = step, steps, 0.0
        self.bar: Any = None

    def __enter__(self) -> Callable[[Progress], None]:
        if interactive():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            columns = (
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[line]}"),
            )
            self.bar = Progress(*columns, console=Console(stderr=True))
            self.task = self.bar.add_task("train", total=self.steps, completed=self.step, line="")
            self.bar.start()
        return self._show

    def __exit__(self, *error: object) -> None:
        if self.bar:
            self.bar.stop()

    def _show(self, progress: Progress) -> None:
        line = (
            f"loss {progress.loss:.4f}  {progress.images_per_second:.1f} images/s  "
            f"data wait {progress.data_wait:.0%}"
        )
        if self.bar:
            self.bar.update(self.task, completed=progress.step, line=line)
        elif time.monotonic() - self.last > PLAIN_EVERY or progress.step == progress.steps:
            self.last = time.monotonic()
            say(f"step {progress.step}/{progress.steps}  {line}")
