"""What a benchmark feeds the networks: checkpoint, engine file, layouts and oracle, made once.

A packaged model and a user's own have their weights; a preset gets random ones. The layout is one
that the user names, or the packaged example, mapped to the network's classes and brought to size. A
batch is that layout, each time moved further to the side.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crn_fast import cascade, checkpoint, layout, models
from crn_fast.checkpoint import Checkpoint
from crn_fast.engine import build_engine, buildable
from crn_fast.errors import Mismatch, Unavailable, UsageError
from crn_fast.extras import why_no_torch
from crn_fast.files import kind_of, make_folder, write_whole
from crn_fast.kernels import cpu
from crn_fast.layout import LabelMap
from crn_fast.palette import LabelSet, label_set
from crn_fast.spec import PRESETS, CascadeSpec
from crn_fast.weights import arrange

PACKAGE = Path(__file__).parents[1]
NETWORKS = (*models.SIZES, *PRESETS)
ORACLES = ("float64", "float32")
RANDOM = {"licence": "none: random weights", "seed": "0"}
"""What checkpoints of random weights say of themselves."""
SCALED = ":"
"""Between a network's name and what all its widths are multiplied by, as in 'street-256:0.5'."""


class Inputs(NamedTuple):
    network: str
    spec: CascadeSpec
    model: Path
    """Checkpoint, .safetensors."""
    engine: Path | None
    """The same packed for the backend native, .crn; None where that cannot run."""
    layout: Path
    """PNG, in the network's label set and size: the first of the batch."""
    labels: Path
    """The batch as .npy, uint8 [N, H, W]."""
    expected: Path
    """RGB [N, K, H, W, 3] before rounding, .npy in the oracle's precision."""
    against: str
    """The oracle, for people."""
    batch: int


def prepare(
    network: str,
    folder: Path,
    source: Path | None = None,
    oracle: str = "float64",
    *,
    batch: int = 1,
    base: tuple[int, int] | None = None,
) -> Inputs:
    """Make what is missing in `folder`.

    Args:
        network: one of `NETWORKS`, one of them with a factor ('street-256:0.5': random weights), or
            the path of a checkpoint.
        folder: kept between runs; several GB for the large networks.
        source: a layout, in the network's label set (Cityscapes for a preset); None: a packaged
            one.
        oracle: 'float64', or for quick trials 'float32'.
        batch: layouts at a time.
        base: size of the first stage in place of the network's own, which makes the same weights a
            network for other pictures.

    Raises:
        UsageError: an unknown network.
        BadInput, Mismatch: the checkpoint or layout cannot be read.
    """
    make_folder(folder)
    name, loaded = load(network, folder)
    spec = buildable(loaded)
    if base is not None and base != spec.base:
        spec = dataclasses.replace(spec, base=base)
        loaded = dataclasses.replace(loaded, spec=spec)
    stem = name if base is None else f"{name}.{spec.size[0]}x{spec.size[1]}"
    model = folder / f"{stem}.safetensors"
    if not model.exists() or checkpoint.load(model).sha256() != loaded.sha256():
        _say(f"making {model}")
        checkpoint.save(model, loaded)
    engine = None if cpu.available() else model.with_suffix(".crn")
    if engine and (
        not engine.exists() or engine.stat().st_mtime < max(_changed(), model.stat().st_mtime)
    ):
        _say(f"making {engine}")
        build_engine(model, engine, backend="native")
    first = _layout(network, loaded, source)
    picture = folder / f"{stem}.png"
    layout.write(first, picture)
    moved = (np.roll(first.array, i * spec.size[1] // batch, axis=1) for i in range(batch))
    ids = np.ascontiguousarray(np.stack(list(moved)))
    labels = folder / f"{stem}{f'.batch{batch}' if batch > 1 else ''}.labels.npy"
    # Not again where it is the same: what peers convert must not look older than its input.
    if not labels.exists() or not np.array_equal(np.load(labels), ids):
        write_whole(labels, lambda stream: np.save(stream, ids))
    expected = folder / f"{stem}.{oracle}.{_digest(loaded, ids)}.npy"
    if not expected.exists():
        _say(f"making {expected}: the reference in {oracle}, once")
        synthesize(loaded, labels, expected, oracle)
    against = f"{oracle}{', eager' if oracle == 'float32' else ''}"
    return Inputs(name, spec, model, engine, picture, labels, expected, against, batch)


def _digest(loaded: Checkpoint, ids: np.ndarray) -> str:
    """Of all that decides an oracle, its code included."""
    code = "".join((PACKAGE / f).read_text() for f in ("kernels/reference.py", "cascade.py"))
    digest = hashlib.sha256(loaded.sha256().encode() + ids.tobytes() + code.encode())
    return digest.hexdigest()[:12]


def load(network: str, folder: Path) -> tuple[str, Checkpoint]:
    """A network and its name; that of a user's file is the file's.

    Raises:
        UsageError: it is neither known nor a file.
    """
    if network in models.SIZES:
        return network, checkpoint.load(models.path_of(network))
    if network in PRESETS:
        made = folder / f"{network}.safetensors"
        return network, checkpoint.load(made) if made.exists() else random_checkpoint(network)
    name, _, factor = network.rpartition(SCALED)
    if name in NETWORKS:
        return network.replace(SCALED, "-width-"), _scaled(load(name, folder)[1], float(factor))
    if kind_of(network) == "missing":
        raise UsageError(f"model {network!r} is neither a file nor one of {', '.join(NETWORKS)}")
    return Path(network).resolve().stem, checkpoint.load(network)


def synthesize(loaded: Checkpoint, labels: Path, out: Path, precision: str) -> None:
    """Run the reference ops in a precision, and keep the pictures as they are before rounding.

    Raises:
        Unavailable: torch is not installed.
    """
    if reason := why_no_torch():
        raise Unavailable(f"the reference that pictures are checked against needs torch; {reason}")
    import torch

    from crn_fast.kernels import reference

    spec = buildable(loaded)
    dtype = getattr(torch, precision)
    tensors = {name: torch.from_numpy(np.array(t)).to(dtype) for name, t in loaded.tensors.items()}
    weights, batch = arrange(spec, tensors), torch.from_numpy(np.load(labels))
    with torch.inference_mode():  # one by one, to take less memory
        each = [cascade.synthesize(reference, spec, weights, ids[None]) for ids in batch]
        rgb = torch.cat(each).numpy()
    write_whole(out, lambda stream: np.save(stream, rgb))


def random_tensors(spec: CascadeSpec, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights whose activations and pictures are sane, named as in `spec.tensors`.

    Convolutions by He et al. 2015 for the leaky ReLU; norms near the identity, so that scale and
    shift count; a head that makes grey levels well within 0..255.
    """
    rng = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    for name, shape in spec.tensors().items():
        values = rng.standard_normal(shape, np.float32)
        if name == "head.weight":
            values *= 0.3 / np.sqrt(shape[1])
        elif name.endswith("weight"):
            values *= np.sqrt(2 / (1 + 0.2**2) / np.prod(shape[1:]))
        else:
            values = values * 0.1 + np.float32(name.endswith("gamma"))
        tensors[name] = values.astype(np.float32)
    return tensors


def random_checkpoint(network: str) -> Checkpoint:
    """A preset's network with `random_tensors`."""
    spec = PRESETS[network]
    return Checkpoint(spec, label_set("cityscapes"), random_tensors(spec), dict(RANDOM))


def _changed() -> float:
    """When packing last changed: an older engine file may be packed in another way."""
    sources = [PACKAGE / "container.py", PACKAGE / "engine.py", PACKAGE / "backends" / "native.py"]
    sources += (PACKAGE / "kernels" / "cpu").glob("packing.*")
    return max(path.stat().st_mtime for path in sources)


def _scaled(loaded: Checkpoint, factor: float) -> Checkpoint:
    """The same network with all widths multiplied, and random weights."""
    spec = buildable(loaded)
    widths = tuple(max(1, round(width * factor)) for width in spec.widths)
    spec = dataclasses.replace(spec, widths=widths)
    return Checkpoint(spec, loaded.labels, random_tensors(spec), dict(RANDOM))


def _layout(network: str, loaded: Checkpoint, source: Path | None) -> LabelMap:
    size = buildable(loaded).size
    if source is not None:
        found = layout.read(source, loaded.labels)
    else:
        fitting = [name for name, own in models.SIZES.items() if own == size]
        example = models.example_of(fitting[0] if fitting else models.DEFAULT)
        found = _mapped(layout.read(example, label_set(models.LABEL_SET)), loaded.labels)
    return layout.fit(found, size, "nearest")


def _mapped(found: LabelMap, labels: LabelSet) -> LabelMap:
    """In another label set; where that has no such classes, the same shapes of some classes."""
    if found.labels.names == labels.names:
        return found
    try:
        return layout.convert(found, labels)
    except Mismatch:
        return layout.from_array(found.array % labels.classes, labels, source=found.source)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
