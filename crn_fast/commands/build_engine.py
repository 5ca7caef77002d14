"""`crn-fast build-engine`: a checkpoint becomes an engine file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from crn_fast.commands import Size, backend_options, check_writable, emit, interactive, say
from crn_fast.errors import UsageError
from crn_fast.files import ending_in, kind_of

if TYPE_CHECKING:
    from crn_fast.backends import Backend

EPILOG = """\b
Examples:
  crn-fast build-engine run/ckpt.pt
  crn-fast build-engine street.safetensors -o street.crn --backend eager --precision fp32
  crn-fast build-engine street.safetensors --backend native --tune
  crn-fast build-engine street.safetensors --backend trt --target sm_89 --target sm_120
  crn-fast build-engine street.safetensors --backend fused --target sm_90 --batch 4
"""
QUIET_SECONDS = 10
"""Between lines of progress where no bar can be drawn."""


class Batch(click.ParamType[tuple[int, int]]):
    """N layouts at a time, or N-M."""

    name = "N|N-M"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        low, _, high = str(value).partition("-")
        if not all(n.isdecimal() and len(n) < 7 for n in (low, high or low)):
            self.fail(f"{value!r}: expected a number of layouts, or two, as in 1-8")
        return int(low), int(high or low)


@click.command(epilog=EPILOG)
@click.argument("checkpoint", metavar="CKPT")
@click.option(
    "-o", "--out", metavar="PATH", help="Engine to write. Default: CKPT's stem + .crn here."
)
@backend_options
@click.option("--size", type=Size(), help="Expected picture size; the network's own, or exit 4.")
@click.option(
    "--target",
    "targets",
    metavar="this|sm_NN",
    multiple=True,
    help="GPU to build for; may be repeated. Default: this, the backend's own choice here.",
)
@click.option("--batch", type=Batch(), help="Layouts at a time, for backends that fix it.")
@click.option(
    "--timing-cache",
    metavar="PATH|off",
    help="Where TensorRT keeps its measurements between builds. Default: in the user's cache.",
)
@click.option(
    "--tune",
    is_flag=True,
    help="native, fused: time each convolution's tiles here, take the fastest.",
)
@click.option(
    "--verify/--no-verify",
    default=None,
    help="Render held layouts and compare with float32 before the engine is kept; exit 7 if they "
    "differ. Default: wherever the engine can run here.",
)
@click.option("--force", is_flag=True, help="Replace an engine that exists.")
@click.option("--dry-run", is_flag=True, help="Check everything, write nothing.")
def command(
    checkpoint: str,
    out: str | None,
    backend: str,
    precision: str,
    size: tuple[int, int] | None,
    targets: tuple[str, ...],
    batch: tuple[int, int] | None,
    timing_cache: str | None,
    tune: bool,
    verify: bool | None,
    force: bool,
    dry_run: bool,
) -> None:
    """Compile a checkpoint into an engine file."""
    from crn_fast import backends, models
    from crn_fast import checkpoint as checkpoints
    from crn_fast.engine import build_engine, buildable, check_options, check_size
    from crn_fast.verify import Check

    path = models.resolve(checkpoint)
    stem = path.resolve().name if kind_of(path) == "folder" else path.stem
    target = Path(out or f"{stem}.crn")
    if target.suffix != ".crn":
        error = UsageError(f"-o {target}: an engine's name ends in .crn")
        raise error.instead_of(str(target), *ending_in(target, ".crn"))
    check_writable(target, force)
    loaded = checkpoints.load(path)
    spec = buildable(loaded)
    check_size(loaded.source, spec, size)
    name, chosen, passed = backends.choose(backend, building=True)
    options = _options(targets, batch, tune)
    check_options(name, chosen, precision, options)
    check = Check(verify, name, str(target), loaded, "targets" in options)
    for reason in passed:
        say(f"passed over {reason}")
    say(
        f"{path}: {spec.size[0]}x{spec.size[1]}, {len(spec.stages)} stages, "
        f"{spec.parameters() / 1e6:.2f} million weights, {spec.flops() / 1e9:.1f} GFLOP a layout; "
        f"backend {name}, precision {precision}"
    )
    if dry_run:
        if chosen.EXECUTABLE:
            say(chosen.estimate(spec, precision, **options))
        say(f"would write {target}: {spec.bytes() / 1e6:.1f} MB of weights before they are packed")
        say(f"would not verify it: {check.reason}" if check.reason else "would verify it")
        return
    with _progress(chosen, timing_cache) as more:
        build_engine(
            loaded,
            target,
            backend=name,
            precision=precision,
            size=size,
            options=options | more,
            verify=None if check.reason else check,
        )
    say(str(check))
    emit(target)
    say(f"next: crn-fast render -m {quote(str(target))} --layout LAYOUT.png")


def _options(targets: tuple[str, ...], batch: tuple[int, int] | None, tune: bool) -> dict[str, Any]:
    """What the user asked for besides the precision, as `build_engine` takes it."""
    options: dict[str, Any] = {}
    names = tuple(dict.fromkeys(part for text in targets for part in text.split(",")))
    if "" in names:
        raise UsageError("--target: a name is empty; expected this or sm_NN, as in sm_89")
    if named := tuple(name for name in names if name != "this"):
        if "this" in names:
            raise UsageError("--target this: cannot be combined with GPUs by name")
        options["targets"] = named
    if batch:
        options["batch"] = batch
    if tune:
        options["tune"] = True
    return options


@contextmanager
def _progress(chosen: Backend, timing_cache: str | None) -> Iterator[dict[str, Any]]:
    """The options that say how a build goes, not what it gives: for a backend that takes them."""
    more: dict[str, Any] = {}
    if "timing_cache" in chosen.OPTIONS or timing_cache:
        default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        path = Path(timing_cache) if timing_cache else default / "crn_fast" / "timing.cache"
        more["timing_cache"] = None if timing_cache == "off" else path
    if "progress" not in chosen.OPTIONS:
        yield more
        return
    with _bar() as tell:
        yield more | {"progress": tell}


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each phase on a terminal; elsewhere a line every ten seconds."""
    if not interactive():
        last = time.monotonic()

        def line(phase: str, done: int, steps: int) -> None:
            nonlocal last
            if time.monotonic() - last >= QUIET_SECONDS:
                last = time.monotonic()
                say(f"{phase}: {done} of {steps}")

        yield line
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def draw(phase: str, done: int, steps: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=steps)
            bars.update(tasks[phase], completed=done, total=steps, visible=done < steps)

        yield draw
