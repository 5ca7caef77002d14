"""`crn-fast export`: a network for other programs to run."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import click

from crn_fast.commands import check_writable, emit, say, trust_option
from crn_fast.errors import UsageError

if TYPE_CHECKING:
    from crn_fast.checkpoint import Checkpoint
    from crn_fast.spec import CascadeSpec

EPILOG = """\b
Examples:
  crn-fast export onnx street-1024 -o street.onnx
  crn-fast export triton-server street-1024 -o repository
"""


@click.group(epilog=EPILOG)
def command() -> None:
    """Write a network as ONNX, or as a model repository of Triton Inference Server."""


@command.command(
    epilog="\b\nExample:\n  crn-fast export onnx run/ckpt.pt -o street.onnx --batch any"
)
@click.argument("checkpoint", metavar="CKPT")
@click.option("-o", "--out", metavar="PATH", help="Default: CKPT's stem + .onnx here.")
@click.option("--precision", type=click.Choice(["fp32", "fp16"]), default="fp32", show_default=True)
@click.option("--batch", default="1", metavar="N|any", help="Layouts at a time.  [default: 1]")
@click.option("--force", is_flag=True, help="Replace a file that exists.")
def onnx(checkpoint: str, out: str | None, precision: str, batch: str, force: bool) -> None:
    """Write a checkpoint as one ONNX file, opset 18: uint8 labels in, uint8 pictures out."""
    from crn_fast import onnx_export
    from crn_fast.files import write_whole

    layouts = _layouts(batch)
    loaded, name = _load(checkpoint)
    target = Path(out or f"{name}.onnx")
    check_writable(target, force)
    blob = onnx_export.export(_spec(loaded), loaded.tensors, precision, layouts)
    write_whole(target, lambda stream: stream.write(blob))
    emit(target)
    path = str(target)
    say(f"next: trtexec --onnx={quote(path)}, or onnxruntime.InferenceSession({path!r})")


@command.command(
    "triton-server",
    epilog="\b\nExamples:\n  crn-fast export triton-server street-1024 -o repository\n"
    "  crn-fast export triton-server street.crn -o repository",
)
@click.argument("model", metavar="CKPT|ENGINE")
@click.option("-o", "--out", metavar="FOLDER", required=True, help="The model repository.")
@click.option("--name", help="The model's name there. Default: the file's stem.")
@trust_option
def triton_server(model: str, out: str, name: str | None) -> None:
    """Add a model to a repository of Triton Inference Server.

    A checkpoint is served as ONNX, an engine of TensorRT as its plan.
    """
    from crn_fast import onnx_export
    from crn_fast.engine import read_file
    from crn_fast.files import kind_of
    from crn_fast.spec import CascadeSpec
    from crn_fast.trt import triton_server as repository

    if Path(model).suffix == ".crn":
        from crn_fast.backends import trt

        manifest, packed = read_file(model)
        about = trt.about_of(model, manifest.backend, packed)
        repository.check_served(model, about)
        assert isinstance(manifest.spec, CascadeSpec)  # it was read from a file
        stem, spec, blob = Path(model).stem, manifest.spec, packed["plan"].tobytes()
        file, backend, batch = "model.plan", "tensorrt", about.batch
    else:
        loaded, stem = _load(model)
        spec = _spec(loaded)
        blob = onnx_export.export(spec, loaded.tensors, "fp32", None)
        file, backend, batch = "model.onnx", "onnxruntime", (1, repository.MAX_BATCH)
    if name is not None and (name in ("", ".", "..") or Path(name).name != name):
        raise UsageError(f"--name {name!r}: expected the name of a folder, not a path")
    target = Path(out) / (name or stem)
    if kind_of(target) != "missing":
        raise UsageError(f"{target}: exists already; give another --name, or remove it")
    repository.write(target, spec, blob, file, backend, batch)
    emit(target)
    say(f"next: tritonserver --model-repository={quote(out)}")


def _layouts(text: str) -> int | None:
    if text == "any":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise UsageError(f"--batch {text!r}: expected 1 to 1024, or any")
    return int(text)


def _load(path: str) -> tuple[Checkpoint, str]:
    """A checkpoint and the stem that its exports are named by."""
    from crn_fast import checkpoint, models
    from crn_fast.files import kind_of

    found = models.resolve(path)
    loaded = checkpoint.load(found)
    return loaded, found.resolve().name if kind_of(found) == "folder" else found.stem


def _spec(loaded: Checkpoint) -> CascadeSpec:
    from crn_fast.engine import buildable

    return buildable(loaded)
