"""`crn-fast info`: what a file is, and whether it is whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from crn_fast.commands import emit, reading_options, say
from crn_fast.errors import BadInput
from crn_fast.files import kind_of, require_file

if TYPE_CHECKING:
    from crn_fast.baselines.spec import BaselineSpec
    from crn_fast.palette import LabelSet
    from crn_fast.spec import CascadeSpec

EPILOG = """\b
Examples:
  crn-fast info run/ckpt.pt
  crn-fast info street.crn --json
  crn-fast info street.png --labels camvid
"""


@click.command(epilog=EPILOG)
@click.argument("path", metavar="PATH")
@click.option(
    "--labels",
    "label_set",
    default="camvid",
    show_default=True,
    metavar="NAME|FILE.toml",
    help="Label set, when PATH is a layout.",
)
@reading_options
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
def command(path: str, label_set: str, encoding: Any, unknown: Any, as_json: bool) -> None:
    """Describe a checkpoint, engine, layout or run folder, and check its checksums."""
    from crn_fast import models

    file = models.resolve(path)
    if kind_of(file) == "folder":
        file = file / "ckpt.pt"
    require_file(file, "a checkpoint, engine or layout, or a run folder with a ckpt.pt")
    with file.open("rb") as stream:
        head = stream.read(16)
    if head.startswith(b"PK"):
        facts, following = _checkpoint(file)
    elif head[8:9] == b"{":  # the length of a header, and the header: a safetensors file
        facts, following = _container(file)
    elif head.startswith(b"\x89PNG"):
        facts, following = _layout(file, label_set, encoding, unknown), "crn-fast render --layout"
    else:
        raise BadInput(
            f"{file}: neither a checkpoint, an engine nor a PNG layout; the authors' TensorFlow "
            "checkpoints are read by crn-fast convert"
        )
    if as_json:
        emit(facts)
    else:
        width = max(map(len, facts))
        for key, value in facts.items():
            emit(f"{key:<{width}}  {value}")
    say(f"next: {following} {quote(str(file))}")


def _container(file: Path) -> tuple[dict[str, Any], str]:
    from crn_fast import container, manifest

    if container.read_metadata(file).get("format") == manifest.FORMAT:
        return _engine(file), "crn-fast render --layout LAYOUT.png -m"
    return _checkpoint(file)


def _engine(file: Path) -> dict[str, Any]:
    from crn_fast import container, trust
    from crn_fast.manifest import Manifest

    _, metadata = container.read(file)
    manifest = Manifest.from_metadata(str(file), metadata)
    return {
        "file": str(file),
        "kind": "engine",
        **_network(manifest.spec, manifest.labels),
        "backend": manifest.backend,
        "precision": manifest.precision,
        "target": manifest.target,
        "checkpoint": manifest.checkpoint_sha256,
        "sha256": trust.digest(metadata),
        "built with": ", ".join(f"{k} {v}" for k, v in manifest.built_with.items()),
        **_notes(manifest.notes),
        "checksums": "all match",
    }


def _checkpoint(file: Path) -> tuple[dict[str, Any], str]:
    from crn_fast import checkpoint

    loaded = checkpoint.load(file)
    dtypes = sorted({str(tensor.dtype) for tensor in loaded.tensors.values()})
    cascade = loaded.kind == checkpoint.KIND
    following = "crn-fast build-engine" if cascade else "crn-fast render --layout LAYOUT.png -m"
    facts = {
        "file": str(file),
        "kind": "checkpoint",
        **_network(loaded.spec, loaded.labels),
        "stored as": ", ".join(dtypes),
        "sha256": loaded.sha256(),
        **_notes(loaded.notes),
        "checksums": "all match",
    }
    return facts, following


def _network(spec: CascadeSpec | BaselineSpec, labels: LabelSet) -> dict[str, Any]:
    from crn_fast.spec import CascadeSpec

    if isinstance(spec, CascadeSpec):
        stages = f"{len(spec.stages)} from {spec.base[0]}x{spec.base[1]}, {spec.upsampling}"
        shape = {"stages": stages, "widths": " ".join(map(str, spec.widths))}
    else:
        shape = {"network": f"{spec.kind}, to compare with", "width": str(spec.width)}
    return {
        "picture": f"{spec.size[0]}x{spec.size[1]}, {spec.images} a layout",
        **shape,
        "weights": f"{spec.parameters():,}",
        "cost": f"{spec.flops() / 1e9:.1f} GFLOP a layout",
        "labels": f"{labels.name}, {labels.classes} classes",
    }


def _notes(notes: Mapping[str, str]) -> dict[str, str]:
    """What a file says of itself: kept apart from what was found, no control characters."""
    return {
        f"note: {''.join(filter(str.isprintable, name))}": "".join(filter(str.isprintable, text))
        for name, text in notes.items()
    }


def _layout(file: Path, label_set: str, encoding: Any, unknown: Any) -> dict[str, Any]:
    import numpy as np

    from crn_fast import layout, palette

    labels = layout.read(file, palette.label_set(label_set), encoding=encoding, unknown=unknown)
    counts = np.bincount(labels.array.ravel(), minlength=labels.labels.classes)
    shares = {
        name: f"{count / labels.array.size:.1%}"
        for name, count in zip(labels.labels.names, counts, strict=True)
        if count
    }
    height, width = labels.size
    return {
        "file": str(file),
        "kind": "layout",
        "size": f"{height}x{width}",
        "labels": labels.labels.name,
        "encoding": labels.encoding,
        **shares,
    }
