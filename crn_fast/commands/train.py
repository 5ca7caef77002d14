"""`crn-fast train`: photos and layouts become a checkpoint."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from crn_fast.commands import emit, interactive, say
from crn_fast.errors import CrnError, Interrupted, Unavailable
from crn_fast.extras import why_no_torch

if TYPE_CHECKING:
    from crn_fast.training.trainer import Progress, Trainer

PLAIN_EVERY = 10.0
"""Seconds between lines of progress where no bar can be drawn."""

EPILOG = """\b
Examples:
  crn-fast train DATA --set loss.weights=vgg19-dcbb9e9d.pth --out run
  crn-fast train DATA --set label_set=camvid --set network.classes=12 --set loss.weights=vgg.pth
  crn-fast train DATA -c my.toml --set training.batch=2 --out run --max-time 3600
  crn-fast train DATA -c my.toml --out run --resume
  torchrun --standalone --nproc-per-node 2 -m crn_fast train DATA -c my.toml --out run

Without -c, DATA holds photos/ and labels/, files paired by name. The weights of the feature network
are yours to fetch: torchvision's vgg19 .pth, MatConvNet's imagenet-vgg-verydeep-19.mat, or a
distilled network's .pt (loss.extractor=distilled).
"""


@click.command(epilog=EPILOG)
@click.argument("data", metavar="DATA")
@click.option(
    "-c",
    "--config",
    default="folder",
    show_default=True,
    metavar="RECIPE",
    help="A .toml file, or a shipped recipe's name.",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a value of the recipe."
)
@click.option("--out", default="run", show_default=True, metavar="RUN", help="The run's folder.")
@click.option("--resume", is_flag=True, help="Continue the run in --out.")
@click.option("--init-from", metavar="CKPT", help="Begin with these weights where they fit.")
@click.option(
    "--precision", type=click.Choice(["fp32", "tf32", "bf16"]), help="Instead of the recipe's."
)
@click.option(
    "--max-time",
    type=click.FloatRange(0, 1e9),
    metavar="SECONDS",
    help="Save and stop after this long (exit 75).",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Instead of the recipe's.")
@click.option("--deterministic", is_flag=True, help="Repeat bit for bit, at some cost.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to train.",
)
@click.option(
    "--licence", metavar="TEXT", help="What the data asks to be said of a model; kept with it."
)
@click.option("--check/--no-check", default=True, help="Read every pair before the first step.")
def command(
    data: str,
    config: str,
    overrides: tuple[str, ...],
    out: str,
    resume: bool,
    init_from: str | None,
    precision: str | None,
    max_time: float | None,
    seed: int | None,
    deterministic: bool,
    device: str,
    licence: str | None,
    check: bool,
) -> None:
    """Train a network on the photos and layouts in the folder DATA."""
    with _Stop(max_time) as stop:
        if reason := why_no_torch():
            raise Unavailable(f"training needs torch; {reason}")
        import torch

        from crn_fast.palette import label_set
        from crn_fast.training import recipe as recipes
        from crn_fast.training.preflight import FaultyData
        from crn_fast.training.trainer import Trainer

        options = {"precision": precision, "seed": seed, "deterministic": deterministic or None}
        chosen = [f"training.{k}={str(v).lower()}" for k, v in options.items() if v is not None]
        recipe = recipes.read(config, [*overrides, *chosen])
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        elif device == "cuda" and not torch.cuda.is_available():
            raise Unavailable("--device cuda: this torch sees no GPU; use `--device cpu`")
        try:
            trainer = Trainer(
                recipe,
                Path(data),
                Path(out),
                label_set(recipe.label_set),
                device,
                resume=resume,
                init_from=Path(init_from) if init_from else None,
                licence=licence,
                check=check,
                warn=say,
            )
        except FaultyData as error:
            for line in error.table if len(error.table) > 1 else ():
                click.echo(line, err=True)
            raise
        stop.training = True
        first = trainer.processes.first
        try:
            if first:
                say(
                    f"{len(trainer.windows)} pairs of photo and layout; {trainer.device}; "
                    f"step {trainer.step} of {trainer.steps}"
                )
            with _Display(trainer, first) as show:
                for progress in trainer.run(stop):
                    show(progress)
        finally:
            trainer.close()
        if trainer.step < trainer.steps:
            if not first:
                raise click.exceptions.Exit(Interrupted.exit_code)
            raise Interrupted(
                f"{out}/ckpt.pt: saved at step {trainer.step} of {trainer.steps}; the same command "
                "with `--resume` goes on"
            )
        if not first:
            return
        from crn_fast.training.plots import loss_curve

        say(f"learning curve: {loss_curve(Path(out))}")
        emit(Path(out) / "ckpt.pt")
        following = "render --layout LAYOUT.png -m" if recipe.baseline else "build-engine"
        say(f"next: crn-fast {following} {quote(str(Path(out) / 'ckpt.pt'))}")


class _Stop:
    """Whether to stop: after `max_time` seconds, or as Ctrl-C or SIGTERM came.

    Before training begins they end the command, as there is nothing to save. After that Ctrl-C
    strikes at once if either came before; another SIGTERM does not, for torchrun sends one to the
    processes that a cluster's manager has sent one already.
    """

    def __init__(self, max_time: float | None) -> None:
        self.until = math.inf if max_time is None else time.monotonic() + max_time
        self.asked = self.training = False

    def __call__(self) -> bool:
        return self.asked or time.monotonic() > self.until

    def __enter__(self) -> _Stop:
        numbers = (signal.SIGINT, signal.SIGTERM)
        self.before = {number: signal.signal(number, self._ask) for number in numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if not self.asked or kind is None or issubclass(kind, CrnError):
            return
        if not self.training:
            raise Interrupted("stopped before the first step; the same command begins again")
        # Of several processes some may have left before training began, which the others hear of by
        # an error of the network in their first step.
        if "RANK" in os.environ and issubclass(kind, RuntimeError):
            raise Interrupted(
                "stopped, as the other processes left; the same command with `--resume` goes on"
            )

    def _ask(self, number: int, frame: object) -> None:
        strikes = number == signal.SIGINT if self.asked else not self.training
        self.asked = True
        if strikes:
            raise KeyboardInterrupt


class _Display:
    """A bar on a terminal, else a line every ten seconds; called with each `Progress`."""

    def __init__(self, trainer: Trainer, visible: bool) -> None:
        self.step, self.steps, self.visible = trainer.step, trainer.steps, visible
        self.last = 0.0
        self.bar: Any = None

    def __enter__(self) -> Callable[[Progress], None]:
        if self.visible and interactive():
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
        if not self.visible:
            return
        speed = progress.speed
        line = (
            f"loss {progress.loss:.4f}  {speed.images_per_second:.1f} images/s  "
            f"{speed.tflops:.2f} TFLOP/s  utilisation {speed.utilisation:.0%}  "
            f"data wait {speed.data_wait:.0%}  {speed.memory_gb:.1f} GB"
        )
        if self.bar:
            self.bar.update(self.task, completed=progress.step, line=line)
        elif time.monotonic() - self.last > PLAIN_EVERY or progress.step == progress.steps:
            self.last = time.monotonic()
            say(f"step {progress.step}/{progress.steps}  {line}")
