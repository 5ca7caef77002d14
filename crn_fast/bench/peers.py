"""What a user might run the same network with instead on a CPU, each with its best known settings.

A peer is a function of the same checkpoint and layouts that gives a `Subject`; importing this file
loads none of their libraries. All are float32 and go from uint8 labels to uint8 pictures. What was
slower when it was tried is left out: layer norm by `var_mean` in eager mode, `freezing` in
torch.compile, the ONNX file in OpenVINO.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crn_fast import checkpoint
from crn_fast.engine import buildable
from crn_fast.errors import Unavailable
from crn_fast.measure.gate import Subject

if TYPE_CHECKING:
    from crn_fast.bench.network import Network, Norm

Peer = Callable[[Path, Path, int], Subject]
"""Checkpoint, labels (.npy, uint8 [N, H, W]), threads -> subject."""


def eager(model: Path, labels: Path, threads: int) -> Subject:
    """PyTorch as it is."""
    from crn_fast.bench import network

    return _torch("eager", _network(model, network.group_norm), labels, threads)


def channels_last(model: Path, labels: Path, threads: int) -> Subject:
    """PyTorch with pixels before channels in memory."""
    from crn_fast.bench import network

    net = _network(model, network.group_norm, channels_last=True)
    return _torch("channels_last", net, labels, threads)


def compiled(model: Path, labels: Path, threads: int) -> Subject:
    """torch.compile in its default mode; with `freezing` it was slower."""
    return _compiled("compiled", "default", model, labels, threads)


def compiled_max(model: Path, labels: Path, threads: int) -> Subject:
    """torch.compile, as `compiled`, that tries out its kernels."""
    return _compiled("compiled_max", "max-autotune-no-cudagraphs", model, labels, threads)


def onnxruntime(model: Path, labels: Path, threads: int) -> Subject:
    """ONNX Runtime's CPU provider."""
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise Unavailable(f"onnxruntime cannot be imported ({error})") from None
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    file = _converted(model, labels, ".onnx")
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    inputs = {"labels": np.load(labels)}
    return Subject(
        "onnxruntime",
        lambda: session.run(["pictures"], inputs)[0],
        f"onnxruntime {ort.__version__}, opset 18, all graph optimisations, {threads} threads",
        lambda: session.run(["rgb"], inputs)[0],
    )


def openvino(model: Path, labels: Path, threads: int) -> Subject:
    """OpenVINO's CPU plugin, of the torch module itself: faster here than by ONNX."""
    try:
        import openvino as ov
    except ImportError as error:
        raise Unavailable(f"openvino cannot be imported ({error})") from None
    ids = np.load(labels)
    properties: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the CPU has it
    }
    graph = ov.Core().read_model(_converted(model, labels, ".xml"))
    request = ov.Core().compile_model(graph, "CPU", properties).create_infer_request()

    def infer(output: int) -> np.ndarray:
        found = request.infer({0: ids}, share_inputs=True, share_outputs=True)
        return np.asarray(found[output])

    version = ov.__version__.partition("-")[0]
    settings = f"openvino {version}, latency hint, one stream, f32, {threads} threads"
    return Subject("openvino", lambda: infer(0), settings, lambda: infer(1))


CPU: dict[str, Peer] = {
    peer.__name__: peer
    for peer in (eager, channels_last, compiled, compiled_max, onnxruntime, openvino)
}


def _converted(model: Path, labels: Path, suffix: str) -> Path:
    """The network in a library's own file beside `labels`, made once, by a process that ends: who
    runs such a file has no torch in memory.
    """
    out = labels.with_name(labels.name.removesuffix(".labels.npy") + suffix)
    made_of = (model, labels, Path(__file__).with_name("network.py"))
    if not out.exists() or out.stat().st_mtime < max(path.stat().st_mtime for path in made_of):
        files = map(str, (model, labels, out))
        command = [sys.executable, "-P", "-m", "crn_fast.bench.peers", *files]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise Unavailable(f"{out.name} cannot be made: {result.stderr.strip()[-300:]}")
    return out


def convert(model: Path, labels: Path, out: Path) -> None:
    """Write the network as .onnx, or as OpenVINO's .xml and .bin, for this size of labels."""
    import torch

    from crn_fast.bench import network

    ids = torch.from_numpy(np.load(labels))
    partial = out.with_stem(f"{out.stem}.partial")
    if out.suffix == ".onnx":
        names: dict[str, Any] = {"input_names": ["labels"], "output_names": ["pictures", "rgb"]}
        with torch.inference_mode():
            torch.onnx.export(
                _network(model, network.manual_norm),
                (ids,),
                partial,
                opset_version=18,
                dynamo=True,
                external_data=False,
                verbose=False,
                **names,
            )
    else:
        import openvino as ov

        net = _network(model, network.group_norm)
        graph = ov.convert_model(net, example_input=ids, input=[list(ids.shape)])
        ov.save_model(graph, partial, compress_to_fp16=False)
        partial.with_suffix(".bin").replace(out.with_suffix(".bin"))
    partial.replace(out)


def _network(model: Path, norm: Norm, channels_last: bool = False) -> Network:
    from crn_fast.bench.network import Network

    loaded = checkpoint.load(model)
    tensors = loaded.tensors
    return Network(buildable(loaded), tensors, norm, channels_last=channels_last).eval()


def _torch(name: str, net: Any, labels: Path, threads: int, settings: str = "") -> Subject:
    import torch

    torch.set_num_threads(threads)
    ids = torch.from_numpy(np.load(labels))

    def run(output: int) -> torch.Tensor:
        with torch.inference_mode():
            found: torch.Tensor = net(ids)[output]
            return found

    settings = f"torch {torch.__version__}, {settings}group_norm, {threads} threads"
    return Subject(name, lambda: run(0), settings, lambda: run(1))


def _compiled(name: str, mode: str, model: Path, labels: Path, threads: int) -> Subject:
    import torch

    from crn_fast.bench import network

    # Before it compiles: kernels are compiled for this number of threads.
    torch.set_num_threads(threads)
    net = torch.compile(_network(model, network.group_norm), mode=mode, dynamic=False)
    return _torch(name, net, labels, threads, f"compile mode {mode}, ")


if __name__ == "__main__":
    convert(*map(Path, sys.argv[1:]))
