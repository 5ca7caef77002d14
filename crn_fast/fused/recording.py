"""A network's launches, recorded and compiled for GPUs that need not be here: programs and cubins.

The op table runs on paper over an arena that is not there, so that every argument of every launch
is a place. What a launch compiles to is decided by its types and constants; each is compiled once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crn_fast.cascade import CascadeWeights
from crn_fast.fused import frame
from crn_fast.fused.ops import Choices
from crn_fast.fused.program import (
    Argument,
    Box,
    Kernel,
    Launch,
    Program,
    Programs,
    Region,
    used,
)
from crn_fast.kernels.cpu.threads import usable_cpus
from crn_fast.kernels.gpu import ahead
from crn_fast.kernels.gpu import queue as launching
from crn_fast.kernels.gpu.label_pyramid import known_ids

HOST_TYPES = {torch.uint8: 0, torch.float16: 6, torch.float32: 7, torch.bfloat16: 9}
HOST_TYPES |= {torch.float8_e4m3fn: 0}
"""Type of values -> CUtensorMapDataType, whose numbers are not those that the compiler uses."""
Progress = Callable[[str, int, int], None]


class Recording:
    """One number of layouts in one schedule, on paper."""

    def __init__(self, choices: Choices, weights: CascadeWeights, layouts: int) -> None:
        """`weights`: on the CPU, or on `meta` for sizes alone."""
        self.choices, self.layouts = choices, layouts
        plan = frame.rehearse(choices, weights, layouts).plan()
        self.arena = plan.bytes
        arena = torch.empty(plan.bytes, dtype=torch.uint8, device="meta")
        queue = launching.Queue("meta", arena, plan.places)
        self.ends = frame.Ends.made(choices.spec, layouts, "meta")
        known = known_ids(choices.spec.classes)
        self.ends = self.ends._replace(guard=self.ends.guard._replace(known=known))
        self.pictures = frame.run(queue, choices, weights, self.ends)
        self.launches = queue.launches

    def program(
        self,
        names: dict[int, str],
        kernels: dict[str, tuple[int, Kernel, Any]],
    ) -> Program:
        """The program, given `weight_names` and each kernel's number and metadata by `key_of`."""
        launches = []
        for launch in self.launches:
            number, _, metadata = kernels[key_of(launch)]
            signature, _, _ = ahead.describe(launch)
            descriptors = iter(metadata.tensordesc_meta)
            arguments: list[Argument] = []
            for name, kind in signature.items():
                value = launch.arguments[name]
                if kind == "constexpr":
                    continue
                if isinstance(value, launching.Box):
                    arguments.append(self._box(value, next(descriptors), names))
                elif isinstance(value, Tensor):
                    arguments.append(self._region(value, names))
                else:
                    arguments.append(float(value) if kind == "fp32" else int(value))
            launches.append(Launch(number, launch.grid, tuple(arguments)))
        lean = self.choices.lean
        return Program(self.layouts, lean, self.arena, tuple(launches))

    def _region(self, tensor: Tensor, names: dict[int, str]) -> Region:
        size = tensor.numel() * tensor.itemsize
        ends = {
            id(self.ends.labels): "labels",
            id(self.ends.guard.flag): "flag",
            id(self.pictures): "pictures",
        }
        if where := ends.get(id(tensor)):
            return Region(where, 0, size)
        start = int(tensor.storage_offset()) * tensor.itemsize
        if tensor.device.type == "meta":
            return Region("arena", start, size)
        return Region(names[tensor.untyped_storage().data_ptr()], start, size)

    def _box(self, box: launching.Box, metadata: Any, names: dict[int, str]) -> Box:
        tensor = box.tensor
        assert tuple(metadata["block_size"])[-1] <= box.shape[-1] and not metadata["fp4_padded"]
        return Box(
            self._region(tensor, names),
            tuple(tensor.shape),
            tensor.stride(),
            tuple(metadata["block_size"]),
            HOST_TYPES[tensor.dtype],
            int(metadata["swizzle"]),
        )


def weight_tensors(weights: CascadeWeights, classes: int) -> dict[str, Tensor]:
    """All that kernels read, by its name in an engine file."""
    found: dict[str, Tensor] = {"weight.known_ids": known_ids(classes)}
    for i, stage in enumerate(weights.stages):
        for conv, held in (("conv1", stage.conv1), ("conv2", stage.conv2)):
            fields: dict[str, Any] = held._asdict()
            folded = fields.pop("folded")
            if folded is not None:
                fields |= {"folded_weight": folded.weight, "folded_layout": folded.layout}
            for name, value in fields.items():
                if isinstance(value, Tensor) and value.numel():
                    found[f"weight.stages.{i}.{conv}.{name}"] = value
    return found | {
        "weight.head.weight": weights.head.weight,
        "weight.head.bias": weights.head.bias,
    }


def as_array(tensor: Tensor) -> np.ndarray:
    """For a container, which has no bfloat16 and no fp8: those as their bytes."""
    tensor = tensor.contiguous()
    if tensor.dtype not in (torch.uint8, torch.float16, torch.float32):
        tensor = tensor.view(torch.uint8)
    array: np.ndarray = tensor.numpy()
    return array


def compile_all(
    recordings: Sequence[Recording], arch: int, progress: Progress, phase: str
) -> tuple[dict[str, tuple[int, Kernel, Any]], list[bytes]]:
    """Compile each distinct launch once, on all CPUs: kernels by `key_of`, and the cubins.

    Raises:
        ValueError: a kernel needs what programs do not hold.
    """
    distinct = {key_of(launch): launch for held in recordings for launch in held.launches}
    done = 0
    cubins: dict[bytes, int] = {}
    kernels: dict[str, tuple[int, Kernel, Any]] = {}
    with ThreadPoolExecutor(usable_cpus()) as pool:
        progress(phase, 0, len(distinct))
        compiled = pool.map(lambda launch: ahead.compile_launch(launch, arch), distinct.values())
        for (key, launch), made in zip(distinct.items(), compiled, strict=True):
            number = cubins.setdefault(made.asm["cubin"], len(cubins))
            kernel = _kernel(launch, made.metadata, number)
            kernels[key] = (len(kernels), kernel, made.metadata)
            done += 1
            progress(phase, done, len(distinct))
    return kernels, list(cubins)


def _kernel(launch: launching.Launch, metadata: Any, cubin: int) -> Kernel:
    signature, _, _ = ahead.describe(launch)
    descriptors = [kind for kind in signature.values() if kind.startswith("tensordesc")]
    plain = (
        metadata.global_scratch_size == metadata.profile_scratch_size == 0
        and metadata.num_ctas == 1
        and not metadata.launch_cooperative_grid
        and not metadata.launch_pdl
        and len(descriptors) == len(metadata.tensordesc_meta)
    )
    if not plain:
        raise ValueError(f"{metadata.name} wants scratch memory, clusters or no tensor maps")
    parameters = [_parameter(kind) for kind in signature.values() if kind != "constexpr"]
    return Kernel(cubin, metadata.name, metadata.num_warps, metadata.shared, tuple(parameters))


def _parameter(kind: str) -> str:
    if kind.startswith("tensordesc"):
        axes = kind[kind.index("[") : kind.index("]")]
        return f"map{axes.count(',') + 1}"
    return "ptr" if kind.startswith("*") else kind


def key_of(launch: launching.Launch) -> str:
    """Equal for launches of the same machine code."""
    described = ahead.describe(launch)
    return repr((launch.kernel.__name__, described, launch.warps, launch.stages))


def record(
    choices: Choices,
    weights: CascadeWeights,
    layouts: Sequence[int],
    progress: Progress = lambda phase, done, steps: None,
) -> dict[str, np.ndarray]:
    """The tensors of an engine file for one target.

    Args:
        choices: which tile each convolution takes, for the target's architecture.
        weights: on the CPU, not folded.
        layouts: numbers of layouts at a time; 1 gets the lean schedule besides, if it is leaner.
        progress: called with what is done, the steps done and their number.
    """
    target = f"sm_{choices.arch}"
    folded = choices.fold(weights)
    recordings = [Recording(choices, folded, n) for n in layouts]
    lean = Recording(choices.leaner(), folded, 1)
    if all(lean.arena < held.arena for held in recordings):
        recordings.append(lean)
    kernels, cubins = compile_all(recordings, choices.arch, progress, f"compile {target}")
    tensors = weight_tensors(folded, choices.spec.classes)
    names = {tensor.untyped_storage().data_ptr(): name for name, tensor in tensors.items()}
    # The table of ids is made anew by each recording.
    for held in recordings:
        names[held.ends.guard.known.untyped_storage().data_ptr()] = "weight.known_ids"
    programs = tuple(held.program(names, kernels) for held in recordings)
    found = Programs(tuple(kernel for _, kernel, _ in kernels.values()), programs)
    packed = {f"{target}.program": np.frombuffer(found.to_bytes(), np.uint8)}
    packed |= {f"{target}.cubin.{i}": np.frombuffer(c, np.uint8) for i, c in enumerate(cubins)}
    needed = used(target, found)
    return packed | {name: as_array(t) for name, t in tensors.items() if name in needed}
