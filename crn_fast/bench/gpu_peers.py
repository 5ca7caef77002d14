"""What a user might run the same network with instead on an NVIDIA GPU, at its best known settings.

As `peers`, but half precision, channels last, the layout's channels padded to a multiple of eight,
and from an array of labels in the host's memory to one of pictures there. Written without a GPU at
hand. TensorRT is not among them: the backend `trt` is TensorRT.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from crn_fast import checkpoint
from crn_fast.backends import sees_gpu
from crn_fast.engine import buildable
from crn_fast.errors import Unavailable
from crn_fast.measure.gate import Subject


def eager_fp16(model: Path, labels: Path, threads: int) -> Subject:
    """PyTorch as it is, with cuDNN choosing its kernels by trial."""
    return _subject("eager_fp16", model, labels, lambda network: network, "eager")


def compiled_fp16(model: Path, labels: Path, threads: int) -> Subject:
    """torch.compile that tries out its kernels, launched one by one."""
    return _compiled("compiled_fp16", "max-autotune-no-cudagraphs", model, labels)


def compiled_fp16_graph(model: Path, labels: Path, threads: int) -> Subject:
    """torch.compile that tries out its kernels, launched as one CUDA graph."""
    return _compiled("compiled_fp16_graph", "max-autotune", model, labels)


GPU = {peer.__name__: peer for peer in (eager_fp16, compiled_fp16, compiled_fp16_graph)}


def _compiled(name: str, mode: str, model: Path, labels: Path) -> Subject:
    def compile(network: Any) -> Any:
        import torch

        return torch.compile(network, mode=mode, dynamic=False)

    return _subject(name, model, labels, compile, f"compile mode {mode}")


def _subject(
    name: str, model: Path, labels: Path, prepare: Callable[[Any], Any], settings: str
) -> Subject:
    if not sees_gpu():
        raise Unavailable("no NVIDIA GPU that torch sees")
    import torch

    from crn_fast.bench.network import Network, fused_norm

    torch.backends.cudnn.benchmark = True
    loaded, ids = checkpoint.load(model), torch.from_numpy(np.load(labels))
    half = (fused_norm, torch.float16, 8, True)
    network = Network(buildable(loaded), loaded.tensors, *half).eval().to("cuda")
    run = prepare(network)

    def pictures(output: int) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = run(ids.cuda())[output].cpu().numpy()  # which waits for the GPU
            return found

    said = f"torch {torch.__version__}, {settings}, fp16, channels_last, cudnn.benchmark"
    return Subject(name, lambda: pictures(0), said, lambda: pictures(1))
