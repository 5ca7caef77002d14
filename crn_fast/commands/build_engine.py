"""`crn-fast build-engine`: a checkpoint becomes an engine file."""

from __future__ import annotations

from pathlib import Path

import click

from crn_fast.commands import Size, backend_options, check_writable, emit, say
from crn_fast.errors import UsageError
from crn_fast.files import kind_of

EPILOG = """\b
Examples:
  crn-fast build-engine run/ckpt.pt
  crn-fast build-engine street.safetensors -o street.crn --backend eager --precision fp32
"""


@click.command(epilog=EPILOG)
@click.argument("checkpoint", metavar="CKPT")
@click.option(
    "-o", "--out", metavar="PATH", help="Engine to write. Default: CKPT's stem + .crn here."
)
@backend_options
@click.option("--size", type=Size(), help="Expected picture size; the network's own, or exit 4.")
@click.option("--force", is_flag=True, help="Replace an engine that exists.")
@click.option("--dry-run", is_flag=True, help="Check everything, write nothing.")
def command(
    checkpoint: str,
    out: str | None,
    backend: str,
    precision: str,
    size: tuple[int, int] | None,
    force: bool,
    dry_run: bool,
) -> None:
    """Compile a checkpoint into an engine file."""
    from crn_fast import backends, models
    from crn_fast import checkpoint as checkpoints
    from crn_fast.engine import build_engine, buildable, check_size

    path = models.resolve(checkpoint)
    stem = path.resolve().name if kind_of(path) == "folder" else path.stem
    target = Path(out or f"{stem}.crn")
    if target.suffix != ".crn":
        raise UsageError(f"-o {target}: an engine's name ends in .crn")
    check_writable(target, force)
    loaded = checkpoints.load(path)
    spec = buildable(loaded)
    check_size(loaded.source, spec, size)
    name, _, passed = backends.choose(backend)
    for reason in passed:
        say(f"passed over {reason}")
    say(
        f"{path}: {spec.size[0]}x{spec.size[1]}, {len(spec.stages)} stages, "
        f"{spec.parameters() / 1e6:.2f} million weights, {spec.flops() / 1e9:.1f} GFLOP a layout; "
        f"backend {name}, precision {precision}"
    )
    if dry_run:
        say(f"would write {target}: {spec.bytes() / 1e6:.1f} MB of weights before they are packed")
        return
    build_engine(loaded, target, backend=name, precision=precision, size=size)
    emit(str(target))
    say(f"next: crn-fast render -m {target} --layout LAYOUT.png")
