"""`crn-fast engine`: what can be done with an engine file besides rendering."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Any

import click

from crn_fast.commands import check_writable, emit, say, trust_option

EPILOG = """\b
Examples:
  crn-fast engine extract street.crn -o street.plan
  crn-fast engine kernels street.crn
  crn-fast engine rebuild street.crn street.safetensors --force
"""


@click.group(epilog=EPILOG)
def command() -> None:
    """Take an engine file apart, or build it again."""


@command.command(epilog="\b\nExample:\n  crn-fast engine extract street.crn -o street.plan")
@click.argument("engine", metavar="ENGINE")
@click.option("-o", "--out", metavar="PATH", help="Default: ENGINE's stem + .plan here.")
@click.option("--force", is_flag=True, help="Replace a file that exists.")
@trust_option
def extract(engine: str, out: str | None, force: bool) -> None:
    """Write the bare TensorRT plan of an engine, as trtexec takes it."""
    from crn_fast.files import write_whole

    target = Path(out or f"{Path(engine).stem}.plan")
    check_writable(target, force)
    plan = _plan(engine)
    write_whole(target, lambda stream: stream.write(plan))
    emit(target)
    say(f"next: trtexec --loadEngine={quote(str(target))}")


@command.command(epilog="\b\nExample:\n  crn-fast engine kernels street.crn --json")
@click.argument("engine", metavar="ENGINE")
@click.option("--json", "as_json", is_flag=True, help="One JSON document a kernel.")
@trust_option
def kernels(engine: str, as_json: bool) -> None:
    """List the kernels of a TensorRT-RTX plan, with the bytes that each reads and writes."""
    from crn_fast.trt import plan

    found = plan.read(_plan(engine))
    for kernel in found.kernels:
        if as_json:
            fields = {"name": kernel.name, "label": kernel.label, "blocks": kernel.blocks}
            emit(fields | {"bytes": kernel.bytes})
        else:
            emit(f"{kernel.bytes / 1e6:10.2f} MB  {kernel.name}  {kernel.label}".rstrip())
    total = sum(kernel.bytes for kernel in found.kernels)
    say(
        f"{len(found.kernels)} kernels, {total / 1e9:.2f} GB read and written, "
        f"{f'{found.workspace / 1e6:.0f} MB' if found.workspace else 'unknown'} of GPU memory, "
        f"built for {', '.join(found.accelerators)}"
    )


@command.command(epilog="\b\nExample:\n  crn-fast engine rebuild street.crn ckpt.pt --force")
@click.argument("engine", metavar="ENGINE")
@click.argument("checkpoint", metavar="CKPT")
@click.option("-o", "--out", metavar="PATH", help="Default: ENGINE itself, with --force.")
@click.option("--force", is_flag=True, help="Replace a file that exists.")
@click.option("--verify/--no-verify", default=None, help="As of build-engine.")
def rebuild(
    engine: str, checkpoint: str, out: str | None, force: bool, verify: bool | None
) -> None:
    """Build an engine again, as it was asked for, from the checkpoint that it was made of.

    Its payload is not run, so it may be anybody's. --tune is not repeated.
    """
    from crn_fast import checkpoint as checkpoints
    from crn_fast import container, models
    from crn_fast.engine import build_engine
    from crn_fast.errors import Mismatch
    from crn_fast.manifest import Manifest
    from crn_fast.verify import Check

    manifest = Manifest.from_metadata(engine, container.read_metadata(engine))
    target = Path(out or engine)
    check_writable(target, force)
    loaded = checkpoints.load(models.resolve(checkpoint))
    if (found := loaded.sha256()) != manifest.checkpoint_sha256:
        raise Mismatch(
            f"{checkpoint}: its SHA-256 is {found}; {engine} was built from "
            f"{manifest.checkpoint_sha256}: `crn-fast build-engine {quote(checkpoint)}`"
        )
    options = _options(manifest.target, manifest.built_with.get("batch", ""))
    if "tensorrt" in manifest.built_with:
        options.pop("targets", None)  # unlike TensorRT-RTX it builds for the GPU that is here
    check = Check(verify, manifest.backend, str(target), loaded, "targets" in options)
    build_engine(
        loaded,
        target,
        backend=manifest.backend,
        precision=manifest.precision,
        options=options,
        verify=None if check.reason else check,
    )
    say(str(check))
    emit(target)
    say(f"next: crn-fast render -m {quote(str(target))} --layout LAYOUT.png")


def _options(target: str, batch: str) -> dict[str, Any]:
    """What a manifest's target and batch were asked for by."""
    options: dict[str, Any] = {}
    names = target.split(",")
    if target != "any" and all(name.removeprefix("sm_").isdecimal() for name in names):
        options["targets"] = tuple(names)
    low, _, high = batch.partition(" to ")
    if low.isdecimal():
        options["batch"] = (int(low), int(high or low))
    return options


def _plan(engine: str) -> bytes:
    """The plan of a TensorRT engine file that may be trusted."""
    from crn_fast.backends import trt
    from crn_fast.engine import read_file

    manifest, packed = read_file(engine)
    trt.about_of(engine, manifest.backend, packed)
    plan: bytes = packed["plan"].tobytes()
    return plan
