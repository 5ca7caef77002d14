"""Trained weights on disk: what `train` writes (ckpt.pt) and what travels (.safetensors).

Both give a `Checkpoint`: spec, label set and float tensors by name. The .safetensors form needs no
torch; the .pt form also holds what training needs to resume. Both are hashed throughout.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from crn_fast import container, torch_file
from crn_fast.baselines.spec import KINDS, BaselineSpec
from crn_fast.errors import BadInput, Mismatch, Unavailable
from crn_fast.extras import why_no_torch
from crn_fast.files import kind_of, require_file
from crn_fast.palette import LabelSet
from crn_fast.spec import CascadeSpec
from crn_fast.weights import check_tensors

FORMAT = "crn_fast.checkpoint"
VERSION = 1
KIND = "cascade"


@dataclass(frozen=True)
class Checkpoint:
    """A network with its weights.

    Raises:
        BadInput: tensors are missing, unexpected or of another shape than the spec's.
        Mismatch: the label set has another number of classes than the spec.
    """

    spec: CascadeSpec | BaselineSpec
    labels: LabelSet
    tensors: Mapping[str, np.ndarray]
    """Named as in the spec's `tensors`; float32 or float16."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What else a file says of itself: licence, steps, data."""
    source: str = "checkpoint"

    def __post_init__(self) -> None:
        if self.labels.classes != self.spec.classes:
            raise Mismatch(
                f"{self.source}: the network takes {self.spec.classes} classes, but its label set "
                f"{self.labels.name} has {self.labels.classes}"
            )
        check_tensors(self.source, self.spec, self.tensors)

    @property
    def kind(self) -> str:
        """'cascade', or the kind of baseline."""
        return self.spec.kind if isinstance(self.spec, BaselineSpec) else KIND

    def sha256(self) -> str:
        """Of the network alone: spec, label set and every tensor, whichever file they came from."""
        network = {"spec": self.spec.to_json(), "labels": self.labels.to_json()}
        hashes = {name: container.tensor_sha256(t) for name, t in self.tensors.items()}
        return container.metadata_sha256({**network, **hashes})


def load(path: str | Path) -> Checkpoint:
    """Load a ckpt.pt or .safetensors file; a run folder means its ckpt.pt.

    Raises:
        BadInput: missing, damaged, truncated, a pickle that is no checkpoint, of another version,
            or with tensors that do not fit its spec.
        Unavailable: a .pt file, and torch is not installed.
        ResourceError: out of memory.
    """
    path = Path(path)
    if kind_of(path) == "folder":
        path = path / "ckpt.pt"
    require_file(path, "a checkpoint (.pt or .safetensors), or a run folder with a ckpt.pt")
    with open(path, "rb") as stream:
        archive = torch_file.is_archive(stream)
    if archive:
        return of_training(path, load_training(path))
    if path.suffix == ".pt":
        raise BadInput(
            f"{path}: not a checkpoint: a .pt file is a zip archive, and this is none; "
            "it is truncated, damaged or of another kind"
        )
    tensors, metadata = container.read(path)
    return _checkpoint(path, metadata, tensors)


def save(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a .safetensors file: tensors, spec, label set and notes, all hashed.

    Raises:
        ResourceError: the file cannot be written.
    """
    container.write(path, checkpoint.tensors, header(checkpoint))


def header(checkpoint: Checkpoint) -> dict[str, str]:
    """What every checkpoint says of itself besides its tensors."""
    return {
        "format": FORMAT,
        "version": str(VERSION),
        "kind": checkpoint.kind,
        "spec": checkpoint.spec.to_json(),
        "labels": checkpoint.labels.to_json(),
        "notes": json.dumps(dict(checkpoint.notes)),
    }


def load_training(path: str | Path) -> dict[str, Any]:
    """Load a whole ckpt.pt: `header`, 'model' and what training resumes from.

    Every value's hash is checked, and nothing but tensors and plain values is ever unpickled: see
    `torch_file`.

    Raises:
        BadInput, Unavailable, ResourceError: as `load`.
    """
    if reason := why_no_torch():
        raise Unavailable(
            f"{path}: reading a .pt file needs torch; {reason}; or convert it where torch is: "
            f"`crn-fast convert {quote(str(path))} {quote(Path(path).stem)}.safetensors`"
        )
    import torch

    state = torch_file.read(path)
    if not isinstance(state.get("model"), dict):
        raise BadInput(f"{path}: a torch file, but not a checkpoint that crn_fast train wrote")
    for name, tensor in state["model"].items():
        floats = isinstance(tensor, torch.Tensor) and tensor.dtype in (torch.float32, torch.float16)
        if not floats:
            raise BadInput(
                f"{path}: its model's {str(name)[:80]!r} is no float32 or float16 tensor"
            )
    return state


def of_training(path: Path, state: Mapping[str, Any]) -> Checkpoint:
    """The network in what `load_training` gave; raises as `load`."""
    tensors = {name: tensor.detach().numpy() for name, tensor in state["model"].items()}
    return _checkpoint(path, state, tensors)


def _checkpoint(path: Path, fields: Mapping[str, Any], tensors: Mapping[str, Any]) -> Checkpoint:
    if fields.get("format") != FORMAT:
        named = quote(str(path)), quote(str(path.with_suffix(".crn")))
        raise BadInput(
            f"{path}: not a checkpoint (its format is {fields.get('format')!r:.40}); an engine is "
            + (
                "made of one: give that"
                if path.suffix == ".crn"
                else f"known by its ending: `mv -n {' '.join(named)}`"
            )
        )
    if (version := str(fields.get("version"))) != str(VERSION):
        raise BadInput(
            f"{path}: checkpoint version {version:.40}; this crn_fast reads {VERSION}: write it "
            "again with this version, or install the one that wrote it"
        )
    found = fields.get("kind")
    if found not in (KIND, *KINDS):
        raise BadInput(f"{path}: holds a network of kind {found!r:.40}; expected {KIND!r}")
    try:
        form = CascadeSpec if found == KIND else BaselineSpec
        spec = form.from_json(fields["spec"])
        labels = LabelSet.from_json(fields["labels"])
        notes = container.json_table(fields["notes"], "notes")
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: its header cannot be read ({error})") from None
    return Checkpoint(spec, labels, tensors, notes, source=str(path))
