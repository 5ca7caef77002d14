"""`crn-fast convert`: a checkpoint of any kind becomes .safetensors."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import click

from crn_fast.commands import check_writable, emit, say
from crn_fast.errors import UsageError
from crn_fast.files import ending_in

if TYPE_CHECKING:
    from crn_fast.checkpoint import Checkpoint

EPILOG = """\b
Examples:
  crn-fast convert run/ckpt.pt street.safetensors --half
  crn-fast convert result_1024p/model.ckpt cityscapes-1024p.safetensors

The authors' TensorFlow checkpoints are named by their prefix, their .index file or their folder.
"""


@click.command(epilog=EPILOG)
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST", type=click.Path(path_type=Path))
@click.option(
    "--labels",
    "label_set",
    metavar="NAME|FILE.toml",
    help="Label set of a TensorFlow checkpoint. Default: cityscapes.",
)
@click.option("--half", is_flag=True, help="Store the weights as float16.")
@click.option("--licence", metavar="TEXT", help="What the training data asks to be said.")
@click.option("--force", is_flag=True, help="Replace a file that exists.")
def command(
    source: str, target: Path, label_set: str | None, half: bool, licence: str | None, force: bool
) -> None:
    """Convert a checkpoint to .safetensors, which needs no torch to read."""
    import numpy as np

    from crn_fast import checkpoint

    if target.suffix != ".safetensors":
        error = UsageError(f"{target}: the file to write ends in .safetensors")
        raise error.instead_of(str(target), *ending_in(target, ".safetensors"))
    check_writable(target, force)
    if target.exists() and Path(source).exists() and target.samefile(source):
        raise UsageError(f"{target}: is the checkpoint itself; name another file")
    loaded = _load(source, label_set)
    if half:
        # An overflow becomes an infinity, which `Checkpoint` refuses by name.
        with np.errstate(over="ignore"):
            tensors = {name: tensor.astype(np.float16) for name, tensor in loaded.tensors.items()}
        loaded = dataclasses.replace(loaded, tensors=tensors)
    if licence:
        loaded = dataclasses.replace(loaded, notes={**loaded.notes, "licence": licence})
    checkpoint.save(target, loaded)
    emit(target)
    say(f"next: crn-fast build-engine {quote(str(target))}")


def _load(source: str, label_set: str | None) -> Checkpoint:
    from crn_fast import authors, checkpoint, models, palette
    from crn_fast.errors import Mismatch
    from crn_fast.files import kind_of

    path = models.resolve(source)
    ours = path.suffix in (".pt", ".safetensors") or kind_of(path / "ckpt.pt") == "file"
    if not ours:
        spec, tensors, ignored = authors.read(path)
        say(f"{source}: {len(tensors)} tensors; left out {len(ignored)} optimizer variables")
        labels = palette.label_set(label_set or "cityscapes")
        return checkpoint.Checkpoint(spec, labels, tensors, source=source)
    loaded = checkpoint.load(path)
    if label_set and palette.label_set(label_set).names != loaded.labels.names:
        raise Mismatch(f"{source}: has its own label set, {loaded.labels.name}; drop --labels")
    return loaded
