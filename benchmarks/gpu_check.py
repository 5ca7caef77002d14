"""The parts of gpu_check.sh: what the backend `fused` does on a GPU, checked first, then timed.

    python benchmarks/gpu_check.py PART FOLDER [ARGUMENTS]

Rows are appended to FOLDER/rows.jsonl as they come. A part that times something first looks for
the marks that the correctness of the kernels and of that frame left in FOLDER, and refuses without
them. Written without a GPU at hand.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import gpu_peers
from crn_fast import cascade, checkpoint, layout, models
from crn_fast.backends import fused
from crn_fast.bench.inputs import random_tensors
from crn_fast.cuda import driver
from crn_fast.errors import BadInput, CheckFailed, CrnError
from crn_fast.fused import program
from crn_fast.fused import tune as tuner
from crn_fast.fused.just_in_time import FusedRenderer
from crn_fast.fused.ops import FusedOps
from crn_fast.fused.runtime import ProgramRenderer
from crn_fast.kernels import reference
from crn_fast.kernels.gpu.queue import Queue
from crn_fast.kernels.gpu.tuning import Shape
from crn_fast.measure import machine, pairs, rows
from crn_fast.measure.gate import Checked, Passed, Subject
from crn_fast.measure.rows import Origin, Row
from crn_fast.measure.timer import Timing
from crn_fast.spec import PRESETS, CascadeSpec
from crn_fast.weights import arrange

NETWORK = "1024p"
TRAINED = "street-1024"
LIMITS = {"fp32": 0.1, "tf32": 4.0, "fp16": 4.0, "bf16": 30.0, "fp8": 80.0}
"""Grey levels that a picture of random weights may be off by before rounding: a gate against
wrong kernels, not a promise. What it was off by is in the rows."""
TRAINED_LIMITS = {"fp32": 0.1, "tf32": 2.0, "fp16": 2.0, "bf16": 16.0, "fp8": 40.0}
TESTS = ("tests-conv", "tests-refine", "tests-head", "tests-pyramid", "tests-fused")
AGAIN = 20
"""Runs of one input that must all give the same bits."""
STREAMED = 40
"""Frames of a video loop."""
ROTATION = 4
"""Different inputs, taken by turns, so that no frame finds the last one's in a cache."""
REPEATS = 20
"""Replays of one stage a timing, as one is shorter than the clock is good for."""
TUNED = (
    Shape("fp16", 64, 128, 1024, 0, 1024),
    Shape("fp16", 256, 512, 512, 0, 512),
    Shape("fp16", 1024, 2048, 32, 0, 32),
)
TRIALS = 3
"""Tiles a shape, as each has to be compiled."""
PACKAGES = ("crn-fast", "torch", "triton", "numpy", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12")


def environment(folder: Path) -> None:
    """What the machine is: driver, clocks, limits, versions."""
    query = "name,driver_version,pstate,clocks.sm,clocks.mem,clocks.max.sm,power.limit,power.draw"
    query += ",temperature.gpu,clocks_event_reasons.active,memory.total,compute_mode"
    asked = subprocess.run(
        ["nvidia-smi", f"--query-gpu={query}", "--format=csv"], capture_output=True, text=True
    )
    facts = {
        "nvidia-smi": asked.stdout.strip().splitlines() or asked.stderr.strip(),
        "capability": torch.cuda.get_device_capability(),
        "cudnn": torch.backends.cudnn.version(),
        "cuda": torch.version.cuda,
        "versions": machine.versions(PACKAGES),
        "machine": dataclasses.asdict(machine.describe(torch.cuda.get_device_name())),
    }
    text = json.dumps(facts, indent=1)
    (folder / "environment.json").write_text(text)
    print(text)


def ceilings(folder: Path) -> None:
    """The best this GPU does: matrix products of half precision and fp8, and a copy."""
    found: dict[str, float] = {}
    side = 8192
    for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(side, side, device="cuda", dtype=dtype) for _ in range(2))
        found[name] = 2 * side**3 / _best(lambda a=a, b=b: a @ b) / 1e9
    try:
        a = torch.randn(side, side, device="cuda").to(torch.float8_e4m3fn)
        one = torch.ones((), device="cuda")

        def product() -> Tensor:
            return torch._scaled_mm(a, a.t(), one, one, out_dtype=torch.float16)

        found["fp8"] = 2 * side**3 / _best(product) / 1e9
    except (RuntimeError, AttributeError) as error:
        print(f"fp8: not measured ({error})")
    x = torch.randn(1 << 28, device="cuda")
    y = torch.empty_like(x)
    found["copy"] = 2 * x.numel() * 4 / _best(lambda: y.copy_(x)) / 1e9
    (folder / "ceilings.json").write_text(json.dumps(found))
    print(found)


def _best(run: Callable[[], Any], tries: int = 30) -> float:
    """Seconds of the fastest of several runs."""
    best = float("inf")
    for i in range(tries + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        if i >= 3:
            best = min(best, start.elapsed_time(end) / 1e3)
    return best


def frame(folder: Path, precision: str, upsampling: Any) -> None:
    """Whole pictures against float32: random weights of the authors' network, and a trained one."""
    spec = dataclasses.replace(PRESETS[NETWORK], upsampling=upsampling)
    tensors, labels = random_tensors(spec), patches(spec, 0)
    _compare(folder, NETWORK, spec, tensors, labels, precision, LIMITS[precision])
    trained = checkpoint.load(models.path_of(TRAINED))
    assert isinstance(trained.spec, CascadeSpec)
    if upsampling == trained.spec.upsampling:
        ids = layout.read(models.example_of(TRAINED), trained.labels).array[None]
        limit = TRAINED_LIMITS[precision]
        _compare(folder, TRAINED, trained.spec, trained.tensors, ids, precision, limit)


def _compare(
    folder: Path,
    network: str,
    spec: CascadeSpec,
    tensors: Any,
    labels: np.ndarray,
    precision: str,
    limit: float,
) -> None:
    expected = oracle(spec, tensors, labels)
    render = just_in_time(spec, tensors, precision)
    first = render(labels)
    passed = Passed(f"fused {precision}", first, expected, limit, "float32")
    for _ in range(AGAIN):
        if not np.array_equal(render(labels), first):
            raise CheckFailed(f"{network} {precision}: two runs of one input differ")
    weights = sum(array.nbytes for array in fused.prepare(spec, tensors, precision).values())
    facts = {
        "network": network,
        "upsampling": spec.upsampling,
        "precision": precision,
        "largest": passed.error.largest,
        "relative": passed.error.relative,
        "psnr": passed.error.psnr,
        "buffers": render.frame(1).bytes,
        "weights": weights,
    }
    print(json.dumps(facts), flush=True)
    with (folder / "quality.jsonl").open("a") as stream:
        stream.write(json.dumps(facts) + "\n")


def just_in_time(spec: CascadeSpec, tensors: Any, precision: str) -> FusedRenderer:
    """The route of checkpoints: Triton compiles, torch runs."""
    render = fused.load(spec, fused.prepare(spec, tensors, precision), precision, None, None)
    assert isinstance(render, FusedRenderer)
    return render


def engine(folder: Path, network: str, precision: str) -> None:
    """An engine file through the real driver, with each package, against the route of checkpoints.

    The same kernels, compiled apart: the pictures' hashes are compared, and must be near float32.
    """
    spec = PRESETS[network]
    tensors, labels = random_tensors(spec), patches(spec, 0)
    expected = oracle(spec, tensors, labels)
    render = just_in_time(spec, tensors, precision)
    pictures = render(labels)
    del render
    torch.cuda.empty_cache()
    packed = fused.pack(spec, tensors, precision, batch=(1, 2))
    fused.check("the engine", spec, packed)
    for package, implementation in driver.IMPLEMENTATIONS.items():
        try:
            import_module(package)
        except Exception as error:  # a package without its libraries raises what it likes
            print(f"{package}: not run ({error})", flush=True)
            continue
        target = "sm_{}{}".format(*torch.cuda.get_device_capability())
        programs = program.read("the engine", spec, packed, target)
        run = ProgramRenderer(spec, programs, packed, target, precision, implementation(0))
        first = run(labels)
        found = Passed(f"engine {package}", first, expected, LIMITS[precision], "float32")
        stream = run.stream(iter([labels] * STREAMED))
        start = time.perf_counter()
        # To the stream's end, whatever comes: it holds the renderer until then.
        same = all([np.array_equal(held, first) for held in stream])  # noqa: C419
        seconds = (time.perf_counter() - start) / STREAMED
        born = torch.from_numpy(labels).cuda()
        same = same and np.array_equal(run.render_device(born), first)
        try:
            run.render_device(torch.full_like(born, 200))
            raised = False
        except BadInput:
            raised = True
        facts = {
            "network": network,
            "precision": precision,
            "package": package,
            "device": run.device,
            "bytes": run.bytes,
            "sha256": hashlib.sha256(first).hexdigest(),
            "sha256 just in time": hashlib.sha256(pictures).hexdigest(),
            "largest": found.error.largest,
            "psnr": found.error.psnr,
            "milliseconds a frame, with uploads and downloads": seconds * 1e3,
        }
        print(json.dumps(facts), flush=True)
        with (folder / "engines.jsonl").open("a") as lines:
            lines.write(json.dumps(facts) + "\n")
        if not same or not raised:
            raise CheckFailed(f"{package}: repeats equal {same}, wrong ids found {raised}")
        if not np.array_equal(first, pictures):
            raise CheckFailed(f"{package}: not the picture of the route of checkpoints")


def tune(folder: Path) -> None:
    """The tuner on a few convolutions of the authors' network; says what it would take."""
    require(folder, "tests-conv", "tests-refine")
    major, minor = torch.cuda.get_device_capability()
    arch, chosen = 10 * major + minor, {}
    for shape in TUNED:
        bench = tuner.Bench(shape, torch.device("cuda", 0), tuner.on_gpu)
        tiles = tuner.candidates(shape, arch)[:TRIALS]
        tile = tuner.fastest_tile(shape, tiles, bench)
        chosen[shape.key] = {"rule": str(tiles[0]), "fastest": str(tile), "tried": len(tiles)}
        print(f"{shape.key}: {tile}", flush=True)
    (folder / "tuned.json").write_text(json.dumps(chosen, indent=1))


def oracle(spec: CascadeSpec, tensors: Any, labels: np.ndarray) -> np.ndarray:
    """Pictures of the eager ops in float32, before rounding."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    weights = arrange(spec, {name: torch.from_numpy(t).cuda() for name, t in tensors.items()})
    with torch.inference_mode():
        ids = torch.from_numpy(labels).cuda()
        found: np.ndarray = cascade.synthesize(reference, spec, weights, ids).cpu().numpy()
    torch.cuda.empty_cache()
    return found


def patches(spec: CascadeSpec, seed: int) -> np.ndarray:
    """uint8 [1, H, W]: rectangles of classes, as layouts have them."""
    rng = np.random.default_rng(seed)
    height, width = spec.size
    ids = np.zeros((1, height, width), np.uint8)
    for _ in range(400):
        top, left = rng.integers(0, height), rng.integers(0, width)
        tall, wide = rng.integers(1, height // 4 + 2), rng.integers(1, width // 4 + 2)
        ids[0, top : top + tall, left : left + wide] = rng.integers(0, spec.classes)
    return ids


def times(folder: Path, upsampling: Any) -> None:
    """Suite `gpu frame`: label map to RGB on the device, ours in each precision, and eager."""
    require(folder, *TESTS, *(f"frame-{p}-{upsampling}" for p in ("fp16", "bf16")))
    spec = dataclasses.replace(PRESETS[NETWORK], upsampling=upsampling)
    tensors, labels = random_tensors(spec), patches(spec, 0)
    expected = oracle(spec, tensors, labels)
    subjects = []
    for precision in ("fp16", "bf16", "fp8"):
        if passed(folder, f"frame-{precision}-{upsampling}"):
            subjects.append((ours(spec, tensors, precision), LIMITS[precision]))
    forward = gpu_peers.Written(spec, tensors, torch.float16)
    subjects.append((peer("eager fp16 channels_last", spec, forward), LIMITS["fp16"]))
    report(folder, spec, subjects, expected, "fp16")


def compiled(folder: Path, upsampling: Any) -> None:
    """Suite `gpu frame`: against torch.compile, whose compilation may take its whole time."""
    require(folder, *TESTS, f"frame-fp16-{upsampling}")
    spec = dataclasses.replace(PRESETS[NETWORK], upsampling=upsampling)
    tensors, labels = random_tensors(spec), patches(spec, 0)
    expected = oracle(spec, tensors, labels)
    os.environ.setdefault("TORCHINDUCTOR_LOOP_REINDEXING_AFTER_FUSION", "1")
    for mode in ("reduce-overhead", "max-autotune-no-cudagraphs"):
        forward = gpu_peers.Written(spec, tensors, torch.float16)
        fast = torch.compile(forward, mode=mode)
        subjects = [
            (ours(spec, tensors, "fp16"), LIMITS["fp16"]),
            (peer(f"torch.compile {mode}", spec, fast), LIMITS["fp16"]),
        ]
        report(folder, spec, subjects, expected, "fp16")


def ours(spec: CascadeSpec, tensors: Any, precision: str) -> Subject:
    render = just_in_time(spec, tensors, precision)
    held = render.frame(1)
    inputs = rotation(spec)

    def run() -> Tensor:
        pictures = held.render(next(inputs))
        torch.cuda.synchronize()
        return pictures

    return Subject(f"fused {precision}", run, "one CUDA graph", fetch=fetch)


def peer(name: str, spec: CascadeSpec, forward: Callable[[Tensor], Tensor]) -> Subject:
    inputs = rotation(spec)

    def run() -> Tensor:
        with torch.inference_mode():
            pictures = forward(next(inputs))
        torch.cuda.synchronize()
        return pictures

    return Subject(name, run, "channels_last, padded layout, cudnn.benchmark", fetch=fetch)


def fetch(pictures: Tensor) -> np.ndarray:
    array: np.ndarray = pictures.cpu().numpy()
    return array


def rotation(spec: CascadeSpec) -> Any:
    """Label maps on the device by turns; the first one again at every `ROTATION`-th."""

    def turns() -> Any:
        maps = [torch.from_numpy(patches(spec, seed)).cuda() for seed in range(ROTATION)]
        while True:
            yield from maps

    return turns()


def report(
    folder: Path,
    spec: CascadeSpec,
    subjects: Sequence[tuple[Subject, float]],
    expected: np.ndarray,
    precision: str,
) -> None:
    """Gate, then time by turns, and append the rows."""
    origin = origin_of()
    case = {"network": NETWORK, "upsampling": spec.upsampling, "batch": 1}
    checked = []
    for subject, limit in subjects:
        try:
            checked.append(Checked(subject, expected, limit, "float32"))
        except (CrnError, RuntimeError) as error:
            reason = str(error).splitlines()[0][:300]
            rows.append(
                folder / "rows.jsonl",
                [Row("gpu frame", case, subject.name, subject.settings, origin, reason=reason)],
            )
            print(f"{subject.name}: {reason}", flush=True)
    # The last run of all is checked again, so the rounds must end on the first input.
    timings, failures, _ = pairs.interleave(checked, 10 * ROTATION, ROTATION)
    limits = json.loads((folder / "ceilings.json").read_text())
    for name, timing in timings.items():
        ratios = {
            other: pairs.ratio(held, timing) for other, held in timings.items() if other != name
        }
        rate = spec.flops() / timing.spread.median / 1e9
        kind = "fp8" if "fp8" in name else "bf16" if "bf16" in name else precision
        row = rows.measured(
            *("gpu frame", case, timing, origin),
            operations=spec.flops(),
            ratios=ratios,
            ceilings=limits,
            shares={kind: rate / limits[kind]} if kind in limits else {},
        )
        rows.append(folder / "rows.jsonl", [row])
        print(f"{name}: {timing.spread.median * 1e3:.3f} ms, {rate / 1e3:.0f} TFLOP/s", flush=True)
    for name, reason in failures.items():
        failed = Row("gpu frame", case, name, "", origin, reason=reason)
        rows.append(folder / "rows.jsonl", [failed])
        print(f"{name}: {reason}", flush=True)


def stages(folder: Path, precision: str, upsampling: Any) -> None:
    """Suite `gpu stages`: each convolution, with its passes, against cuDNN with the same passes."""
    require(folder, *TESTS, f"frame-{precision}-{upsampling}")
    spec = dataclasses.replace(PRESETS[NETWORK], upsampling=upsampling)
    tensors, labels = random_tensors(spec), patches(spec, 0)
    render = just_in_time(spec, tensors, precision)
    held, origin = render.frame(1), origin_of()
    held.render(torch.from_numpy(labels).cuda())
    recorder = gpu_peers.Recorder(FusedOps(Queue("cuda:0"), render.choices))
    with torch.inference_mode():
        cascade.render(recorder, spec, render.weights, held.labels)
    limits = json.loads((folder / "ceilings.json").read_text())
    for lap in recorder.laps:
        stage = spec.stages[lap.stage]
        channels = (stage.features + stage.classes) if lap.op == "refine" else stage.channels
        operations = 2 * 9 * channels * stage.channels * stage.height * stage.width
        case = {"network": NETWORK, "stage": lap.stage, "op": lap.op, "upsampling": upsampling}
        case |= {"precision": precision, "size": f"{stage.height}x{stage.width}"}
        runs = (partial(lap.ours, render.choices), partial(lap.cudnn, lap.kernel()))
        try:
            with torch.inference_mode():
                found, expected = (lap.values(run()) for run in runs)
                limit = 0.05 * float(expected.std())
                proof = Passed(lap.op, found, expected, limit, "cuDNN + passes", pictures=False)
                replays = [gpu_peers.graph(run) for run in runs]
            seconds: list[list[float]] = [[], []]
            for _ in range(12):
                for taken, replay in zip(seconds, replays, strict=True):
                    taken.append(gpu_peers.elapsed(replay, REPEATS))
        except (CrnError, RuntimeError) as error:
            reason = str(error).splitlines()[0][:300]
            rows.append(
                folder / "rows.jsonl",
                [Row("gpu stages", case, "fused", "", origin, reason=reason)],
            )
            print(f"stage {lap.stage} {lap.op}: {reason}", flush=True)
            continue
        timings = [
            Timing(name, "CUDA graph, alone", proof, taken[2:])
            for name, taken in zip(("fused", "cuDNN + passes"), seconds, strict=True)
        ]
        for timing, other in zip(timings, timings[::-1], strict=True):
            rate = operations / timing.spread.median / 1e9
            row = rows.measured(
                *("gpu stages", case, timing, origin),
                operations=operations,
                ratios={other.name: pairs.ratio(other, timing)},
                ceilings=limits,
                shares={precision: rate / limits[precision]} if precision in limits else {},
            )
            rows.append(folder / "rows.jsonl", [row])
        print(
            f"stage {lap.stage} {lap.op:<7} {case['size']:>10}: "
            + ", ".join(f"{t.name} {t.spread.median * 1e3:.4f} ms" for t in timings),
            flush=True,
        )


def origin_of() -> Origin:
    return Origin(
        run=f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}-{os.getpid()}",
        command="bash benchmarks/gpu_check.sh",
        machine=machine.describe(torch.cuda.get_device_name()),
        versions=machine.versions(PACKAGES),
        commit=machine.commit(Path(__file__).parents[1]),
    )


def passed(folder: Path, part: str) -> bool:
    return (folder / f"passed.{part}").exists()


def require(folder: Path, *parts: str) -> None:
    """Refuse to time what is not known to be right.

    Raises:
        CheckFailed: a part did not pass.
    """
    missing = [part for part in parts if not passed(folder, part)]
    if missing:
        raise CheckFailed(f"no time is taken, as these did not pass: {', '.join(missing)}")


PARTS = (environment, ceilings, frame, engine, tune, stages, times, compiled)


def main() -> None:
    part, folder, *arguments = sys.argv[1:]
    torch.backends.cudnn.benchmark = True
    {function.__name__: function for function in PARTS}[part](Path(folder), *arguments)


if __name__ == "__main__":
    main()
