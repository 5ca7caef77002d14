"""Engine files of somebody else: code that must not reach a driver, and weights full of malice.

`kept_out` and `survived` are the subjects. No GPU is needed: what would hand code to TensorRT or
the driver is replaced by what remembers that it was asked to.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

Payload = tuple[dict[str, np.ndarray], dict[str, str]]


@cache
def CODE() -> dict[str, Payload]:  # noqa: N802
    """A sound engine of each backend that is code: tensors and metadata, not signed.

    The code is as long as what describes it, so that their bytes can be swapped.
    """
    import tiny
    from crn_fast.backends import fused, trt
    from crn_fast.fused.program import CUBIN, Kernel, Launch, Program, Programs, Region
    from crn_fast.manifest import Manifest
    from crn_fast.trt.build import About

    rng, made = np.random.default_rng(0), tiny.make_checkpoint()
    about = About("tensorrt_rtx", "1.7.1.116", "sm_80 and later", "fp16", (1, 1))
    described = _row(about.to_bytes())
    plan = {"plan": rng.integers(0, 256, described.size, np.uint8), "about": described}
    launch = Launch(0, (1, 1, 1), (Region("arena", 0, 16), Region("weight.w", 0, 64)))
    programs = Programs(
        (Kernel(0, "kernel", 4, 0, ("ptr", "ptr")),), (Program(1, False, 256, (launch,)),)
    )
    program = programs.to_bytes()
    cubins = {
        "about": _row(fused.About("fp16", "3.6.0", ("sm_90",), 1, {}).to_bytes()),
        "sm_90.program": _row(program),
        "sm_90.cubin.0": _row(CUBIN + rng.bytes(len(program) - len(CUBIN))),
        "weight.w": rng.normal(size=16).astype(np.float32),
    }
    found: dict[str, Payload] = {}
    for name, packed, facts in (
        ("trt", plan, trt.describe(plan)),
        ("fused", cubins, fused.describe(cubins)),
    ):
        manifest = Manifest(
            *(made.spec, made.labels, name, facts["precision"], facts["target"], made.sha256()),
            *({}, {}),
        )
        found[name] = packed, manifest.to_metadata()
    return found


def _row(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


class Attack(NamedTuple):
    backend: str
    kind: str
    """Of `FORGED`, or of `readers.KINDS`."""
    at: int
    what: int
    trusting: bool = False
    """Against an engine that trusts whoever signed: the control."""


def kept_out(attack: Attack) -> str | None:
    """What was wrong with how a foreign or damaged engine was taken."""
    from crn_fast import trust
    from crn_fast.engine import Engine
    from crn_fast.errors import CrnError
    from hostile import readers

    name, whole = readers.files()[attack.backend]
    path = readers.scratch() / f"foreign-{name}"
    if attack.kind in FORGED:
        FORGED[attack.kind](attack, path)
    else:
        damage = readers.Damage(attack.backend, attack.kind, attack.at, attack.what)
        path.write_bytes(readers.KINDS[attack.kind](damage, whole))
    reached = _listen()
    checks = mock.patch.object(trust, "check", lambda source, tensors, metadata: dict(tensors))
    trust._vouched.clear()
    if attack.kind == "another is vouched for":
        trust.vouch("ab" * 32)
    try:
        if attack.trusting:
            with checks:
                Engine.open(path)
        else:
            Engine.open(path)
    except CrnError as error:
        told = str(error)
        if reached:
            return f"{attack}: reached the driver ({told!r:.200})"
        return None if path.name in told and "\n" not in told else f"{attack}: said {told!r:.200}"
    packed, _ = CODE()[attack.backend]
    same = reached and not readers.differences(packed, reached[0])
    return None if same and attack.kind not in FORGED else f"{attack}: reached the driver"


@cache
def _listening() -> list[Mapping[str, np.ndarray]]:
    """What was handed to a driver in this process, from now on."""
    from crn_fast.backends import fused, trt

    reached: list[Mapping[str, np.ndarray]] = []

    def load(spec: Any, packed: Mapping[str, np.ndarray], *rest: Any) -> Any:
        reached.append(packed)
        return SimpleNamespace(device="stand-in", precision="fp16")

    for backend in (trt, fused):
        for name, stand_in in (
            ("load", load),
            ("available", lambda: None),
            ("available_to_open", lambda: None),
        ):
            setattr(backend, name, stand_in)
    return reached


def _listen() -> list[Mapping[str, np.ndarray]]:
    reached = _listening()
    reached.clear()
    return reached


def _changed(attack: Attack) -> dict[str, np.ndarray]:
    """The payload with a byte of its code otherwise."""
    packed, _ = CODE()[attack.backend]
    name = "plan" if attack.backend == "trt" else "sm_90.cubin.0"
    code = packed[name].copy()
    code[4 + attack.at % (len(code) - 4)] ^= 1 + attack.what % 255
    return {**packed, name: code}


def _kept(attack: Attack) -> dict[str, str]:
    """The signature of the engine that was built here."""
    from crn_fast import container, trust
    from hostile import readers

    name, _ = readers.files()[attack.backend]
    found = container.read_metadata(readers.scratch() / name)
    return {trust.SIGNATURE: found[trust.SIGNATURE]}


def _write(path: Path, packed: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    from crn_fast import container

    container.write(path, packed, metadata)


def _not_signed(attack: Attack, path: Path) -> None:
    _write(path, _changed(attack), CODE()[attack.backend][1])


def _signature_of_another(attack: Attack, path: Path) -> None:
    _write(path, _changed(attack), CODE()[attack.backend][1] | _kept(attack))


def _signature_made_up(attack: Attack, path: Path) -> None:
    kept = _kept(attack)["signature"]
    made_up = ("", "0" * 64, "\u0661" * 64, f"{attack.what:064x}", kept.upper(), kept + "0")
    signature = {"signature": made_up[attack.at % len(made_up)]}
    _write(path, _changed(attack), CODE()[attack.backend][1] | signature)


def _other_key(attack: Attack, path: Path) -> None:
    """Signed as it should be, with the key of another user."""
    from crn_fast import container, trust

    with mock.patch.object(trust, "_key", return_value=b"another user's key, of 32 bytes.."):
        container.write(path, _changed(attack), CODE()[attack.backend][1], trust.sign)


def _manifest_changed(attack: Attack, path: Path) -> None:
    packed, metadata = CODE()[attack.backend]
    changes = (
        {"target": "sm_80"},
        {"notes": '{"a":"b"}'},
        {"checkpoint_sha256": "0" * 64},
        {"spec": json.dumps(json.loads(metadata["spec"]) | {"upsampling": "align_corners"})},
        {"backend": "fused" if attack.backend == "trt" else "trt"},
        {"new": "field"},
    )
    _write(path, packed, metadata | changes[attack.at % len(changes)] | _kept(attack))


def _says_it_is_no_code(attack: Attack, path: Path) -> None:
    packed, metadata = CODE()[attack.backend]
    other = ("native", "eager")[attack.at % 2]
    _write(path, packed, metadata | {"backend": other} | _kept(attack))


def _weights_that_say_they_are_code(attack: Attack, path: Path) -> None:
    import tiny
    from crn_fast.backends import native

    made = tiny.make_checkpoint()
    packed = native.pack(made.spec, made.tensors, "auto")
    _write(path, packed, CODE()[attack.backend][1] | _kept(attack))


FORGED = {
    "not signed": _not_signed,
    "signature of another engine": _signature_of_another,
    "signature made up": _signature_made_up,
    "signed with another key": _other_key,
    "another is vouched for": _not_signed,
    "manifest changed": _manifest_changed,
    "says it is no code": _says_it_is_no_code,
    "weights that say they are code": _weights_that_say_they_are_code,
}
"""Files with every hash made right again, by what is wrong with them."""

VALUES = (np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, -0.0, 1e30)


class Weights(NamedTuple):
    seed: int
    fragile: bool = False
    """Whether they are rendered with the planted defect: the control."""


def survived(weights: Weights) -> str | None:
    """What was wrong with how a downloaded engine or checkpoint, its hashes right, was rendered.

    It may be refused, or make any picture; the process must live.
    """
    import tiny
    from crn_fast.engine import Engine
    from crn_fast.errors import CrnError
    from hostile import readers

    seed = weights.seed
    rng = np.random.default_rng(seed)
    path, spec = _malicious(rng, readers.scratch())
    fragile = _fragile() if weights.fragile else nullcontext()
    try:
        with fragile, Engine.open(path, threads=1 + seed % 3) as engine:
            if engine.spec.size[0] > 64:
                return None
            labels = rng.integers(0, engine.spec.classes, (1, *engine.spec.size), dtype=np.uint8)
            found = engine.render(labels)
    except CrnError as error:
        return None if "\n" not in str(error) else f"{seed}: said {error}"
    right = found.dtype == np.uint8 and found.shape == (1, spec.images, *spec.size, 3)
    return None if right or spec != tiny.SPEC else f"{seed}: gave {found.dtype} {found.shape}"


def _fragile() -> Any:
    """A planted defect: weights that are not finite end the process."""
    from crn_fast.backends import native

    right = native.load

    def load(spec: Any, packed: Mapping[str, np.ndarray], *rest: Any) -> Any:
        if not all(np.isfinite(tensor).all() for tensor in packed.values()):
            os.abort()
        return right(spec, packed, *rest)

    return mock.patch.object(native, "load", load)


def _malicious(rng: np.random.Generator, folder: Path) -> tuple[Path, Any]:
    import dataclasses

    import tiny
    from crn_fast import checkpoint, container
    from crn_fast.backends import native
    from crn_fast.manifest import Manifest

    made = tiny.make_checkpoint()
    backend = ("native", "eager")[int(rng.integers(2))]
    native_ones = native.pack(made.spec, made.tensors, "auto")
    tensors = native_ones if backend == "native" else made.tensors
    packed = {name: np.array(tensor) for name, tensor in tensors.items()}
    for _ in range(int(rng.integers(1, 4))):
        name = str(rng.choice(list(packed)))
        packed[name] = _malice(rng, packed[name])
    if rng.integers(4) == 0:
        one, other = rng.choice(list(packed), 2)
        packed[one], packed[other] = packed[other], packed[one]
    if rng.integers(6) == 0:
        packed[str(rng.choice(["stages.0.conv1.table", "head.table", "x", ""]))] = np.ones(
            3, np.float32
        )
    if rng.integers(6) == 0:
        del packed[str(rng.choice(list(packed)))]
    spec = made.spec
    if rng.integers(3) == 0:
        changes = (
            {"widths": tuple(int(n) for n in rng.integers(1, 40, int(rng.integers(1, 5))))},
            {"base": tuple(int(n) for n in rng.integers(1, 9, 2))},
            {"classes": int(rng.integers(1, 256))},
            {"images": int(rng.integers(1, 9))},
            {"upsampling": "align_corners"},
        )
        spec = dataclasses.replace(spec, **changes[int(rng.integers(len(changes)))])
    if rng.integers(3) == 0:
        path = folder / "malice.safetensors"
        head = checkpoint.header(made) | {"spec": spec.to_json()}
        container.write(path, packed, head)
        return path, spec
    path = folder / "malice.crn"
    manifest = Manifest(spec, made.labels, backend, "auto", "any", made.sha256(), {}, {})
    container.write(path, packed, manifest.to_metadata())
    return path, spec


@np.errstate(all="ignore")
def _malice(rng: np.random.Generator, array: np.ndarray) -> np.ndarray:
    """Another tensor in a tensor's place: of other values, another shape, another type."""
    if not array.size:
        return np.ones(3, np.float32)
    match int(rng.integers(7)):
        case 0:
            return np.full_like(array, VALUES[int(rng.integers(len(VALUES)))])
        case 1:
            bits = rng.integers(0, 1 << 32, array.size, dtype=np.uint32)
            return bits.view(np.float32).reshape(array.shape)
        case 2:
            changed = array.copy()
            changed.reshape(-1)[int(rng.integers(array.size))] = rng.choice(VALUES)
            return changed
        case 3:
            shape = list(array.shape)
            axis = int(rng.integers(len(shape)))
            shape[axis] = int(rng.choice([0, 1, shape[axis] - 1, shape[axis] + 1, 9, 36, 64]))
            return np.ones(shape, np.float32)
        case 4:
            return np.ascontiguousarray(array.T)
        case 5:
            return array.reshape(-1)
        case _:
            return array.astype(rng.choice([np.float16, np.uint8]))
