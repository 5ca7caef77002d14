"""The authors' TensorFlow checkpoints: their variables' names and shapes, and those as ours.

Their network is written down in the names and shapes of its variables, so the spec is derived from
these and never from a file's name. The file format itself is `tf_bundle`'s.

Source: the authors' code, github.com/CQFIO/PhotographicImageSynthesis (TensorFlow 1, 2017).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from crn_fast.errors import BadInput
from crn_fast.spec import CascadeSpec
from crn_fast.tf_bundle import Bundle

_VARIABLE = re.compile(r"g_([1-9]\d{0,4})_conv(1|2|100)/(weights|biases|LayerNorm/(beta|gamma))")
_OPTIMIZER = re.compile(r"(.*/Adam(_1)?|beta[12]_power|global_step)", re.DOTALL)
_LEAVES = {
    "weight": "weights",
    "bias": "biases",
    "gamma": "LayerNorm/gamma",
    "beta": "LayerNorm/beta",
}
"""The last part of a name: ours, and the authors'."""


def read(
    path: str | os.PathLike[str], *, base_width: int | None = None
) -> tuple[CascadeSpec, dict[str, NDArray[np.float32]], list[str]]:
    """Read one of the authors' checkpoints as our spec and tensors.

    Args:
        path: prefix, .index file, .data file or folder, as `tf_bundle.Bundle` takes it.
        base_width: width of the first stage in pixels, which no variable tells; by default twice
            its height, as in the authors' networks.

    Returns:
        The spec; float32 tensors named, shaped and ordered as `CascadeSpec.tensors`; and the names
        of the optimizer's variables, which were left out.

    Raises:
        BadInput: not a checkpoint, damaged, or its variables are not those of a whole network.
    """
    bundle = Bundle(path)
    ignored = [name for name in bundle.variables if _OPTIMIZER.fullmatch(name)]
    shapes = {name: v.shape for name, v in bundle.variables.items() if name not in set(ignored)}
    try:
        spec = derive_spec(shapes, base_width=base_width)
    except BadInput as error:
        raise BadInput(f"{bundle.prefix}.index: {error}") from None
    return spec, {ours: _as_ours(bundle, theirs) for ours, theirs in _names(spec).items()}, ignored


def variables(spec: CascadeSpec) -> dict[str, tuple[int, ...]]:
    """The name and shape of every variable with which the authors' code would save this network.

    Convolutions are HWIO, layer norm's gamma and beta [C], the head's weights [1, 1, C, 3K].
    """
    ours = spec.tensors()
    shapes: dict[str, tuple[int, ...]] = {}
    for name, variable in _names(spec).items():
        shape = ours[name]
        if len(shape) == 4:
            shape = (*shape[2:], shape[1], shape[0])
        elif len(shape) == 2:
            shape = (1, 1, shape[1], shape[0])
        shapes[variable] = shape
    return shapes


def derive_spec(
    shapes: Mapping[str, tuple[int, ...]], *, base_width: int | None = None
) -> CascadeSpec:
    """The spec of the network that has these variables, without the optimizer's.

    Args:
        shapes: name and shape of every variable, as `variables` gives them.
        base_width: as for `read`.

    Raises:
        BadInput: variables are missing, unexpected or of another shape; the message lists the
            first of them and says how many there are.
    """
    found = {int(match[1]) for match in map(_VARIABLE.fullmatch, shapes) if match}
    if not found:
        raise BadInput(
            "holds no variable such as g_4_conv1/weights; expected a checkpoint of the authors' "
            f"network, found {_listed(sorted(shapes))}"
        )
    lowest, highest = min(found), max(found)
    heights = [lowest << i for i in range((highest // lowest).bit_length())]
    convs = [f"g_{height}_conv1/weights" for height in heights]
    head = f"g_{heights[-1]}_conv100/weights"
    if missing := [name for name in (*convs, head) if name not in shapes]:
        raise BadInput(f"missing variables: {_listed(missing)}")
    if flat := [f"{name} {shapes[name]}" for name in (*convs, head) if len(shapes[name]) != 4]:
        raise BadInput(f"variables without four dimensions: {_listed(flat)}")
    spec = CascadeSpec(
        widths=tuple(shapes[name][3] for name in convs),
        base=(lowest, 2 * lowest if base_width is None else base_width),
        classes=shapes[convs[0]][2],
        images=shapes[head][3] // 3,
        upsampling="align_corners",
    )
    _check_shapes(shapes, variables(spec))
    return spec


def _names(spec: CascadeSpec) -> dict[str, str]:
    """Our name of every tensor, in our order, and the authors' name of the same."""
    names = {}
    for name in spec.tensors():
        *place, leaf = name.split(".")
        stage, conv = (-1, "conv100") if place == ["head"] else (int(place[1]), place[2])
        names[name] = f"g_{spec.stages[stage].height}_{conv}/{_LEAVES[leaf]}"
    return names


def _as_ours(bundle: Bundle, name: str) -> NDArray[np.float32]:
    """One of the authors' variables in our layout: HWIO to OIHW, [1, 1, C, 3K] to [3K, C]."""
    value = bundle.read(name)
    if value.dtype != np.float32:
        raise BadInput(f"{bundle.prefix}.index: {name} is {value.dtype}; expected float32")
    if value.ndim == 4:
        value = value.transpose(3, 2, 0, 1)
    if "_conv100/" in name and value.ndim == 4:
        value = value[:, :, 0, 0]
    return np.ascontiguousarray(value, np.float32)


def _check_shapes(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    wrong = [
        f"{name} {found[name]} instead of {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    faults = {
        "missing": [name for name in expected if name not in found],
        "unexpected": sorted(set(found) - set(expected)),
        "of another shape": wrong,
    }
    if any(faults.values()):
        texts = [f"{kind} variables: {_listed(names)}" for kind, names in faults.items() if names]
        raise BadInput(f"{'; '.join(texts)}; expected those of one whole network, {len(expected)}")


def _listed(names: Iterable[str]) -> str:
    """The first few names, and how many there are."""
    names = list(names)
    first = ", ".join(f"{n if n.isprintable() else repr(n):.100}" for n in names[:3])
    return f"{first or 'none'}{', ...' if len(names) > 3 else ''} ({len(names)} in all)"
