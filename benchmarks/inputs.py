"""What a benchmark feeds the networks: checkpoint, engine file, layout and oracle, made once.

A packaged model has its own weights and example layout. A preset gets random weights and a layout
that the user names, or the packaged one, mapped to Cityscapes' classes and brought to size.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

import crn_fast
from crn_fast import cascade, checkpoint, layout, models
from crn_fast.checkpoint import Checkpoint
from crn_fast.engine import build_engine, buildable
from crn_fast.errors import UsageError
from crn_fast.files import make_folder, write_whole
from crn_fast.kernels import reference
from crn_fast.layout import LabelMap
from crn_fast.palette import label_set
from crn_fast.spec import PRESETS, CascadeSpec
from crn_fast.weights import arrange

NETWORKS = (*models.SIZES, *PRESETS)
ORACLES = ("float64", "float32")


class Inputs(NamedTuple):
    network: str
    spec: CascadeSpec
    model: Path
    """Checkpoint, .safetensors."""
    engine: Path
    """The same packed for the backend native, .crn."""
    layout: Path
    """PNG, in the network's label set and size."""
    labels: Path
    """The same as .npy, uint8 [1, H, W]."""
    expected: Path
    """RGB [1, K, H, W, 3] before rounding, .npy in the oracle's precision."""
    against: str
    """The oracle, for people."""


def prepare(network: str, folder: Path, source: Path | None, oracle: str = "float64") -> Inputs:
    """Make what is missing in `folder`.

    Args:
        network: one of `NETWORKS`.
        folder: kept between runs; several GB for the large networks.
        source: a layout, in the network's label set (Cityscapes for a preset); None: a packaged
            one.
        oracle: 'float64', or for quick trials 'float32'.

    Raises:
        UsageError: an unknown network.
        BadInput, Mismatch: the layout cannot be read or mapped.
    """
    if network not in NETWORKS:
        raise UsageError(f"--network {network}: expected one of {', '.join(NETWORKS)}")
    make_folder(folder)
    model = folder / f"{network}.safetensors"
    if not model.exists():
        _say(f"making {model}")
        checkpoint.save(model, _checkpoint(network))
    engine = model.with_suffix(".crn")
    if not engine.exists() or engine.stat().st_mtime < _changed():
        _say(f"making {engine}")
        build_engine(model, engine, backend="native")
    loaded = checkpoint.load(model)
    spec = buildable(loaded)
    ids = _layout(network, loaded, source)
    picture = folder / f"{network}.png"
    labels = folder / f"{network}.labels.npy"
    layout.write(ids, picture)
    # Not again where it is the same: what peers convert must not look older than its input.
    if not labels.exists() or not np.array_equal(np.load(labels), ids.array[None]):
        write_whole(labels, lambda stream: np.save(stream, ids.array[None]))
    code = "".join(Path(str(m.__file__)).read_text() for m in (reference, cascade))
    digest = hashlib.sha256(loaded.sha256().encode() + ids.array.tobytes() + code.encode())
    expected = folder / f"{network}.{oracle}.{digest.hexdigest()[:12]}.npy"
    if not expected.exists():
        _say(f"making {expected}: the reference in {oracle}, once")
        synthesize(loaded, labels, expected, oracle)
    against = f"{oracle}{', eager' if oracle == 'float32' else ''}"
    return Inputs(network, spec, model, engine, picture, labels, expected, against)


def synthesize(loaded: Checkpoint, labels: Path, out: Path, precision: str) -> None:
    """Run the reference ops in a precision, and keep the pictures as they are before rounding."""
    import torch

    spec = buildable(loaded)
    dtype = getattr(torch, precision)
    tensors = {name: torch.from_numpy(np.array(t)).to(dtype) for name, t in loaded.tensors.items()}
    with torch.inference_mode():
        ids = torch.from_numpy(np.load(labels))
        rgb = cascade.synthesize(reference, spec, arrange(spec, tensors), ids).numpy()
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


def random_checkpoint(network: str, seed: int = 0) -> Checkpoint:
    """A preset's network with `random_tensors`."""
    spec = PRESETS[network]
    notes = {"licence": "none: random weights", "seed": str(seed)}
    return Checkpoint(spec, label_set("cityscapes"), random_tensors(spec, seed), notes)


def _changed() -> float:
    """When packing last changed: an older engine file may be packed in another way."""
    package = Path(str(crn_fast.__file__)).parent
    sources = [package / "container.py", package / "engine.py", package / "backends" / "native.py"]
    sources += (package / "kernels" / "cpu").glob("packing.*")
    return max(path.stat().st_mtime for path in sources)


def _checkpoint(network: str) -> Checkpoint:
    if network in models.SIZES:
        return checkpoint.load(models.path_of(network))
    return random_checkpoint(network)


def _layout(network: str, loaded: Checkpoint, source: Path | None) -> LabelMap:
    if source is not None:
        found = layout.read(source, loaded.labels)
    else:
        fitting = [name for name, size in models.SIZES.items() if size == loaded.spec.size]
        example = models.example_of(fitting[0] if fitting else models.DEFAULT)
        found = layout.read(example, label_set(models.LABEL_SET))
        if found.labels.names != loaded.labels.names:
            found = layout.convert(found, loaded.labels)
    return layout.fit(found, loaded.spec.size, "nearest")


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
