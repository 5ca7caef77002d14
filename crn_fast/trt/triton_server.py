"""A model repository of Triton Inference Server: a folder with a configuration and a version 1.

Source: docs.nvidia.com, Triton Inference Server user guide, "Model Repository" and "Model
Configuration". Nothing here was tried with a server.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from crn_fast.errors import Mismatch
from crn_fast.files import check_folder, make_folder, write_whole
from crn_fast.spec import CascadeSpec
from crn_fast.trt.build import About
from crn_fast.trt.network import LABELS, PICTURES

MAX_BATCH = 8
"""Layouts that the server may put together for a network that takes any number."""


def check_served(source: str, about: About) -> None:
    """Mismatch unless the server can run the plan."""
    if about.flavour != "tensorrt":
        raise Mismatch(
            f"{source}: holds a plan of TensorRT-RTX, and Triton Inference Server runs those of "
            "TensorRT; export the checkpoint instead, which is served as ONNX"
        )


def write(
    folder: Path,
    spec: CascadeSpec,
    content: bytes,
    file: str,
    backend: str,
    batch: tuple[int, int],
) -> None:
    """Write a model's folder whole or not at all; it must not exist.

    Args:
        folder: the model's, named as the model, inside the repository, which is made.
        spec: the network.
        content: what the server runs.
        file: its name, 'model.plan' or 'model.onnx'.
        backend: of the server: 'tensorrt' or 'onnxruntime'.
        batch: fewest and most layouts at a time.

    Raises:
        ResourceError: it cannot be written.
    """
    make_folder(folder.parent)
    check_folder(folder)
    text = configuration(folder.name, spec, backend, batch).encode()
    try:
        make_folder(folder / "1")
        write_whole(folder / "1" / file, lambda stream: stream.write(content))
        write_whole(folder / "config.pbtxt", lambda stream: stream.write(text))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def configuration(name: str, spec: CascadeSpec, backend: str, batch: tuple[int, int]) -> str:
    """The model's config.pbtxt.

    Where the number of layouts is fixed, the server must not batch: it is the first dimension.
    """
    height, width = spec.size
    fixed = batch[0] == batch[1]
    first = [batch[0]] if fixed else []
    batching = "" if fixed else "dynamic_batching { }\n"

    def tensor(kind: str, name: str, dims: list[int]) -> str:
        shape = ", ".join(map(str, [*first, *dims]))
        return f'{kind} [ {{ name: "{name}" data_type: TYPE_UINT8 dims: [ {shape} ] }} ]\n'

    return (
        f'name: "{name}"\nbackend: "{backend}"\nmax_batch_size: {0 if fixed else batch[1]}\n'
        + tensor("input", LABELS, [height, width])
        + tensor("output", PICTURES, [spec.images, height, width, 3])
        + batching
    )
