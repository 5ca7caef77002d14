"""`crn-fast info`: what a file is, and whether it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from crn_fast.commands import emit
from crn_fast.errors import BadInput

EPILOG = """\b
Examples:
  crn-fast info run/ckpt.pt
  crn-fast info street.crn --json
  crn-fast info street.png --labels camvid
"""


@click.command(epilog=EPILOG)
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--labels",
    "label_set",
    default="cityscapes",
    show_default=True,
    metavar="NAME|FILE.toml",
    help="Label set, when PATH is a layout.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
def command(path: Path, label_set: str, as_json: bool) -> None:
    """Describe a checkpoint, engine, layout or run folder, and check its checksums."""
    facts = _facts(path, label_set)
    if as_json:
        emit(facts)
        return
    width = max(map(len, facts))
    for key, value in facts.items():
        emit(f"{key:<{width}}  {value}")


def _facts(path: Path, label_set: str) -> dict[str, Any]:
    from crn_fast import models

    path = models.resolve(str(path))
    if path.is_dir():
        path = path / "ckpt.pt"
    if not path.exists():
        raise BadInput(f"{path}: no such file; expected a checkpoint, engine, layout or run folder")
    if path.suffix == ".crn":
        return _engine(path)
    if path.suffix in (".pt", ".safetensors"):
        return _checkpoint(path)
    return _layout(path, label_set)


def _engine(path: Path) -> dict[str, Any]:
    from crn_fast import container
    from crn_fast.engine import Manifest

    _, metadata = container.read(path)
    manifest = Manifest.from_metadata(str(path), metadata)
    return {
        "file": str(path),
        "kind": "engine",
        **_network(manifest.spec, manifest.labels),
        "backend": manifest.backend,
        "precision": manifest.precision,
        "target": manifest.target,
        "checkpoint": manifest.checkpoint_sha256,
        "built with": ", ".join(f"{k} {v}" for k, v in manifest.built_with.items()),
        **manifest.notes,
        "checksums": "all match",
    }


def _checkpoint(path: Path) -> dict[str, Any]:
    from crn_fast import checkpoint

    loaded = checkpoint.load(path)
    dtypes = sorted({str(tensor.dtype) for tensor in loaded.tensors.values()})
    return {
        "file": str(path),
        "kind": "checkpoint",
        **_network(loaded.spec, loaded.labels),
        "stored as": ", ".join(dtypes),
        "sha256": loaded.sha256(),
        **loaded.notes,
        "checksums": "all match",
    }


def _network(spec: Any, labels: Any) -> dict[str, Any]:
    return {
        "picture": f"{spec.size[0]}x{spec.size[1]}, {spec.images} a layout",
        "stages": f"{len(spec.stages)} from {spec.base[0]}x{spec.base[1]}, {spec.upsampling}",
        "widths": " ".join(map(str, spec.widths)),
        "weights": f"{spec.parameters():,}",
        "cost": f"{spec.flops() / 1e9:.1f} GFLOP a layout",
        "labels": f"{labels.name}, {labels.classes} classes",
    }


def _layout(path: Path, label_set: str) -> dict[str, Any]:
    import numpy as np

    from crn_fast import layout, palette

    labels = layout.read(path, palette.label_set(label_set))
    counts = np.bincount(labels.array.ravel(), minlength=labels.labels.classes)
    shares = {
        name: f"{count / labels.array.size:.1%}"
        for name, count in zip(labels.labels.names, counts, strict=True)
        if count
    }
    height, width = labels.array.shape
    return {
        "file": str(path),
        "kind": "layout",
        "size": f"{height}x{width}",
        "labels": labels.labels.name,
        "encoding": labels.encoding,
        **shares,
    }
