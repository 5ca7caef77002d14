"""The ONNX file: run by ONNX Runtime against the float64 oracle, read by TensorRT-RTX's parser."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import tiny

pytest.importorskip("torch", reason="the oracle needs torch")
pytest.importorskip("onnx", reason="writes ONNX files")
pytest.importorskip("onnxruntime", reason="runs ONNX files")

import onnx
import onnxruntime

from crn_fast import cli, onnx_export
from crn_fast.errors import ResourceError, UsageError
from crn_fast.spec import CascadeSpec


def session(blob: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(blob, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("upsampling", ["align_corners", "half_pixel"])
@pytest.mark.parametrize("batch", [3, None])
@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 0.02), ("fp16", 1.5)])
def test_is_the_network_of_the_oracle(
    precision: str, allowed: float, batch: int | None, upsampling: str
) -> None:
    spec = dataclasses.replace(tiny.SPEC, upsampling=upsampling)
    tensors, labels = tiny.make_checkpoint(spec).tensors, tiny.labels_array(3, spec)
    blob = onnx_export.export(spec, tensors, precision, batch, rgb=True)
    pictures, rgb = session(blob).run(["pictures", "rgb"], {"labels": labels})
    expected = tiny.oracle(tiny.make_checkpoint(spec), labels)
    assert expected.std() > 10
    assert rgb.shape == pictures.shape == (3, spec.images, *spec.size, 3)
    assert np.abs(rgb - expected).max() < allowed
    assert pictures.dtype == np.uint8
    assert np.abs(pictures - expected.clip(0, 255)).max() < allowed + 0.51


def test_one_stage_and_no_other_output() -> None:
    spec = CascadeSpec(widths=(5,), base=(3, 4), classes=12)
    blob = onnx_export.export(spec, tiny.make_checkpoint(spec).tensors)
    (pictures,) = session(blob).run(None, {"labels": tiny.labels_array(1, spec)})
    expected = tiny.oracle(tiny.make_checkpoint(spec), tiny.labels_array(1, spec)).clip(0, 255)
    assert np.abs(pictures - expected).max() < 0.52


def test_it_is_opset_18_without_group_normalization() -> None:
    model = onnx.load_from_string(onnx_export.export(tiny.SPEC, tiny.make_checkpoint().tensors))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert not {n.op_type for n in model.graph.node} & {
        "GroupNormalization",
        "InstanceNormalization",
        "LayerNormalization",
    }


def test_tensorrt_reads_it() -> None:
    """The parser, and what it builds: statistics of the whole map, not of each channel."""
    pytest.importorskip("tensorrt_rtx", reason="parses with TensorRT-RTX")
    import tensorrt_rtx as trt

    from crn_fast.trt.flavour import logger

    log = logger(trt)
    for precision in onnx_export.PRECISIONS:
        blob = onnx_export.export(tiny.SPEC, tiny.make_checkpoint().tensors, precision)
        builder = trt.Builder(log)
        network = builder.create_network(1)
        parser = trt.OnnxParser(network, log)
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        assert parser.parse(blob), errors
        layers = [network.get_layer(i) for i in range(network.num_layers)]
        reductions = [layer for layer in layers if layer.type == trt.LayerType.REDUCE]
        assert len(reductions) == 2 * 2 * len(tiny.SPEC.widths)
        for layer in reductions:
            assert layer.get_input(0).dtype == trt.float32
            assert tuple(layer.get_output(0).shape) == (1, 1, 1, 1)
        found = {(t.name, t.dtype) for t in (network.get_input(0), network.get_output(0))}
        assert found == {("labels", trt.uint8), ("pictures", trt.uint8)}
        assert builder.build_serialized_network(network, builder.create_builder_config())


def test_what_it_refuses() -> None:
    tensors = tiny.make_checkpoint().tensors
    with pytest.raises(UsageError, match="precision is 'bf16'"):
        onnx_export.export(tiny.SPEC, tensors, "bf16")
    with pytest.raises(UsageError, match="batch is 0"):
        onnx_export.export(tiny.SPEC, tensors, batch=0)
    huge = CascadeSpec(widths=(4096, 4096, 4096))
    with pytest.raises(ResourceError, match="one file holds 2 GB"):
        onnx_export.export(huge, {})


def test_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.save_checkpoint(Path("net.safetensors"))

    def run(*arguments: str) -> tuple[int | str | None, str]:
        with pytest.raises(SystemExit) as exited:
            cli.main(["export", *arguments])
        return exited.value.code, capfd.readouterr().err

    assert run("onnx", "net.safetensors", "--batch", "any")[0] == 0
    session(Path("net.onnx").read_bytes())
    assert run("onnx", "net.safetensors")[0] == 2
    assert run("onnx", "net.safetensors", "--batch", "none", "--force")[0] == 2
    assert run("triton-server", "net.safetensors", "-o", "repository")[0] == 0
    folder = Path("repository/net")
    session((folder / "1" / "model.onnx").read_bytes())
    text = (folder / "config.pbtxt").read_text()
    for part in ('backend: "onnxruntime"', "max_batch_size: 8", "dims: [ 12, 20 ]"):
        assert part in text
    code, err = run("triton-server", "net.safetensors", "-o", "repository")
    assert (code, "exists already" in err) == (2, True)
    for name in ("../out", "a/b", "..", ""):
        code, err = run("triton-server", "net.safetensors", "-o", "repository", "--name", name)
        assert (code, "not a path" in err) == (2, True)
    assert run("triton-server", "net.safetensors", "-o", "no/where/at/all")[0] == 0
