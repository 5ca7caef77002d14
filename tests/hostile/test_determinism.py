"""P19: one hash a backend, whatever the threads, the batch, the process and the way in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tiny
from crn_fast import backends, checkpoint, models
from crn_fast.backends import native
from crn_fast.bench.inputs import random_tensors
from crn_fast.checkpoint import Checkpoint
from crn_fast.cli import main
from crn_fast.engine import Engine, build_engine
from crn_fast.errors import CheckFailed
from crn_fast.kernels import cpu
from crn_fast.kernels.cpu.packing import TILES
from crn_fast.layout import LabelMap, write
from crn_fast.palette import label_set
from crn_fast.spec import PRESETS
from crn_fast.verify import TOLERANCES, blocks, compare
from hostile.campaign import Campaigns, Tally
from hostile.ways import (
    SPEC,
    THREADS,
    Brighter,
    Defective,
    PlaceInBatch,
    Scene,
    SharedSum,
    StaleMemory,
    Way,
    plant,
    sha256,
    ways,
)

pytestmark = pytest.mark.skipif(cpu.available() is not None, reason="needs the compiled module")
ONCE = Path(__file__).with_name("rendered_once.py")
ALONE = Way(2, 1, 0, 0, "engine", "uint8", "render", False)
EAGER_THREADS = 2
"""PyTorch rounds convolutions otherwise on other numbers of threads, so eager's are fixed here."""


def each(scene: Scene, chosen: Iterable[Way], tally: Tally, alone: Way = ALONE) -> None:
    """Count each way as a case, which is wrong where its picture is not that of `alone`."""
    expected = sha256(scene.picture(alone))
    for way in chosen:
        same = sha256(scene.picture(way)) == expected
        tally.case(None if same else f"another picture: {way}")
    tally.figures["SHA-256"] = expected[:8]


def test_native_renders_the_same_in_every_way(campaigns: Campaigns, tmp_path: Path) -> None:
    count = campaigns.count(commit=66, soak=1_000)
    scene = Scene(tmp_path, "native", unrounded=True)
    with campaigns.tried("P19", "native: threads, batch, place, route, form, memory") as tally:
        each(scene, ways(campaigns.rng(191), count), tally)


@pytest.mark.parametrize(
    ("name", "defect"),
    [
        ("a byte is of a sum that the threads share", SharedSum),
        ("a byte is of the place in the batch", PlaceInBatch),
        ("a byte is of what was in memory", StaleMemory),
    ],
)
def test_one_bit_is_noticed(
    name: str, defect: type[Defective], campaigns: Campaigns, tmp_path: Path
) -> None:
    with campaigns.control("P19", f"a renderer of which {name}") as tally:
        each(Scene(tmp_path, "native", defect, unrounded=True), ways(campaigns.rng(192), 55), tally)


@pytest.mark.parametrize("threads", [1, 2])
def test_eager_renders_the_same_on_as_many_threads(
    threads: int, campaigns: Campaigns, tmp_path: Path
) -> None:
    if threads > 1 and not campaigns.soak:
        pytest.skip("slow while other tests run: with --soak")
    torch = pytest.importorskip("torch")
    before, count = torch.get_num_threads(), campaigns.count(commit=11, soak=55)
    alone = replace(ALONE, threads=threads)
    try:
        scene = Scene(tmp_path, "eager")
        with campaigns.tried("P19", f"eager on {threads} threads: all but threads") as tally:
            each(scene, ways(campaigns.rng(193), count, (threads,)), tally, alone)
        scene.defect = PlaceInBatch
        scene.kept.cache_clear()
        with campaigns.control("P19", f"eager on {threads} threads: a byte of the place") as tally:
            each(scene, ways(campaigns.rng(193), 5, (threads,)), tally, alone)
    finally:
        torch.set_num_threads(before)


def once(
    scene: Scene, model: Path, threads: int, environment: dict[str, str], defect: str = ""
) -> str | None:
    """What is wrong with the hash that a process of its own prints, or with how it ended."""
    layout = model.with_name("layout.npy")
    np.save(layout, scene.layout)
    command = [sys.executable, str(ONCE), str(model), scene.backend, str(threads), str(layout)]
    env = {**os.environ, "PYTHONSAFEPATH": "1", **environment}
    ran = subprocess.run(
        [*command, defect], env=env, capture_output=True, text=True, timeout=120, cwd=os.sep
    )
    if ran.returncode:
        return f"exit {ran.returncode}: {ran.stderr[-300:]}"
    same = ran.stdout.strip() == sha256(scene.picture(ALONE))
    return None if same else f"another picture with {environment}, {threads} threads"


@pytest.mark.parametrize("backend", ["native", "eager"])
def test_processes_render_the_same(backend: str, campaigns: Campaigns, tmp_path: Path) -> None:
    count = campaigns.count(commit=2 if backend == "native" else 0, soak=20)
    if not count:
        pytest.skip("starting PyTorch takes seconds: with --soak")
    pytest.importorskip("torch") if backend == "eager" else None
    scene, rng = Scene(tmp_path, backend), campaigns.rng(194)
    with campaigns.tried("P19", f"{backend}: a process each, hash seeds, poisoned malloc") as tally:
        for i in range(count):
            environment = {
                "PYTHONHASHSEED": str(rng.integers(0, 2**32)),
                "MALLOC_PERTURB_": str(rng.integers(0, 256)),
                "OMP_NUM_THREADS": str(rng.integers(1, 9)),
            }
            threads = int(rng.integers(1, 17)) if backend == "native" else EAGER_THREADS
            model = (scene.engine, scene.checkpoint)[i % 2]
            tally.case(once(scene, model, threads, environment))
    with campaigns.control("P19", f"{backend}: a byte is of the process", "another pict") as tally:
        tally.case(once(scene, scene.engine, EAGER_THREADS, {"PYTHONHASHSEED": "1"}, "HashSeed"))


def doors(scene: Scene, folder: Path) -> Iterable[tuple[str, np.ndarray]]:
    """The first picture by every way into the package that there is here."""
    layout, out, many = folder / "layout.png", folder / "picture.png", folder / "layouts"
    many.mkdir()
    for path in (layout, many / "one.png", many / "two.png"):
        write(LabelMap(scene.layout, label_set("camvid")), path)
    command = ["-q", "render", "-m", str(scene.engine), "--threads", "3", "--images", "1"]
    for source, made in ((layout, out), (many, folder / "made")):
        with pytest.raises(SystemExit, match="0"):
            main([*command, "--layout", str(source), "-o", str(made)])
    for path in (out, *(folder / "made").glob("*.png")):
        yield f"command line, {path.stem}", np.asarray(Image.open(path))
    if find_spec("fastapi") and find_spec("uvicorn"):
        from crn_fast.serve.worker import Opener
        from serving import running

        with running(Opener((str(scene.engine),), {"threads": 3})) as server:
            body = server.render(scene.layout).body
        pictures = np.frombuffer(body, np.uint8).reshape(-1, *scene.spec.size, 3)
        yield "server", pictures[0]


def same_by(found: Iterable[tuple[str, np.ndarray]], expected: np.ndarray, tally: Tally) -> None:
    for name, picture in found:
        same = sha256(picture) == sha256(expected)
        tally.case(None if same else f"{name}: another picture")


def test_every_door_gives_the_same_picture(
    campaigns: Campaigns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path, "native")
    expected = scene.picture(ALONE)[0]
    with campaigns.tried("P19", "command line, folder and server beside the library") as tally:
        same_by(doors(scene, tmp_path), expected, tally)
    assert tally.cases >= 3
    opened = Engine.open

    def planted(*args: Any, **named: Any) -> Engine:
        engine = opened(*args, **named)
        plant(engine, Defective)
        return engine

    monkeypatch.setattr(Engine, "open", planted)
    (tmp_path / "again").mkdir()
    with campaigns.control("P19", "other engines on the command line") as tally:
        same_by(islice(doors(scene, tmp_path / "again"), 3), expected, tally)
    assert len(tally.failures) == tally.cases == 3


def test_instruction_sets_and_tiles(
    campaigns: Campaigns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has one hash; between them float32 rounds otherwise, by a level at most."""
    hashes: set[str] = set()
    pictures = []
    with campaigns.tried("P19", "each instruction set and tile: one hash") as tally:
        for isa in cpu.instruction_sets():
            for tile in TILES:
                monkeypatch.setenv(cpu.ISA_VARIABLE, isa)
                monkeypatch.setenv(native.TILE_VARIABLE, str(tile))
                folder = tmp_path / f"{isa}-{tile}"
                folder.mkdir()
                scene = Scene(folder, "native", unrounded=True)
                each(scene, ways(campaigns.rng(195), campaigns.count(2, 55)), tally)
                hashes.add(tally.figures.pop("SHA-256"))
                scene.unrounded = False
                pictures.append(scene.picture(replace(ALONE, route="opened again")))
                tally.case(too_far(pictures))
        tally.figures["hashes"] = f"{len(hashes)} of {len(pictures)} choices"
        tally.figures["levels apart"] = str(apart(pictures))
    scene.defect = Brighter
    defect = "an instruction set whose values are two levels off"
    with campaigns.control("P19", defect, "levels apart") as tally:
        tally.case(too_far([pictures[0], scene.picture(replace(ALONE, route="opened again"))]))


def apart(pictures: list[np.ndarray]) -> int:
    """Levels between the first and the others, at most."""
    return max(int(np.abs(p.astype(int) - pictures[0]).max()) for p in pictures)


def too_far(pictures: list[np.ndarray]) -> str | None:
    levels = apart(pictures)
    return f"{levels} levels apart" if levels > TOLERANCES["fp32"].levels else None


@pytest.mark.parametrize("backend", ["native", "eager"])
def test_the_authors_network_renders_the_same(
    backend: str, campaigns: Campaigns, tmp_path: Path
) -> None:
    """At 1024x2048, with random weights, on other numbers of threads and in other company."""
    if not campaigns.soak:
        pytest.skip("takes minutes: with --soak")
    pytest.importorskip("torch") if backend == "eager" else None
    spec = PRESETS["1024p"]
    made = Checkpoint(spec, label_set("cityscapes"), random_tensors(spec), {})
    build_engine(made, tmp_path / "net.crn", backend=backend)
    del made
    other, layout = (blocks(spec.classes, spec.size, (16, 32), seed) for seed in (1, 2))
    turns = {"native": [(2, [layout]), (3, [layout]), (2, [other, layout])]}
    turns["eager"] = [(EAGER_THREADS, [layout])] * 2
    expected = None
    with campaigns.tried("P19", f"{backend} at 1024x2048: threads, batch, opened again") as tally:
        for threads, batch in turns[backend]:
            with Engine.open(tmp_path / "net.crn", threads=threads) as engine:
                found = sha256(engine.render(np.stack(batch))[-1])
            expected = expected or found
            tally.case(None if found == expected else f"another picture, {threads} threads")
        tally.figures["SHA-256"] = str(expected)[:8]


def test_backends_agree(campaigns: Campaigns, tmp_path: Path) -> None:
    """To a level of 255 in float32, and two in fp16 and bf16, which are emulated in torch."""
    torch = pytest.importorskip("torch")
    networks = {"toy": tiny.calm_checkpoint(SPEC)}
    if campaigns.soak:
        networks["street-256"] = checkpoint.load(models.path_of("street-256"))
    with campaigns.tried("P19", "backends beside native in float32") as tally:
        for name, made in networks.items():
            layout = tiny.labels_array(campaigns.count(1, 5), made.spec)
            expected = rendered("native", made, layout)
            counts = THREADS if campaigns.soak else (1,)
            by_threads = [rendered("eager", made, layout, threads) for threads in counts]
            others = [("eager", "fp32", picture) for picture in by_threads]
            if campaigns.soak:
                hashes = {sha256(picture) for picture in by_threads}
                tally.figures[f"{name}, hashes of eager on {THREADS} threads"] = str(len(hashes))
                others += emulated(made, torch.from_numpy(layout))
            for backend, precision, found in others:
                agrees(f"{name}, {backend} {precision}", precision, found, expected, tally)
    defect = "a backend whose values are two levels off"
    with campaigns.control("P19", defect, "levels apart") as tally:
        wrong = Brighter(lambda labels: expected)(layout)
        agrees("defective", "fp32", wrong, expected, tally)


def agrees(
    where: str, precision: str, found: np.ndarray, expected: np.ndarray, tally: Tally
) -> None:
    allowed = "fp32" if precision == "fp32" else "fp16"  # bf16 as well
    try:
        levels, psnr = compare(where, *flat(found, expected), allowed, "native")
    except CheckFailed as error:
        tally.case(str(error))
        return
    tally.case()
    tally.figures[where] = f"{levels} levels, {psnr:.1f} dB"


def flat(*batches: np.ndarray) -> list[np.ndarray]:
    """All pictures of each batch [N, K, H, W, 3] in a row."""
    return [batch.reshape(-1, *batch.shape[2:]) for batch in batches]


def rendered(backend: str, made: Checkpoint, layout: np.ndarray, threads: int = 1) -> np.ndarray:
    chosen = backends.get(backend)
    packed = chosen.prepare(made.spec, made.tensors, "fp32")
    return chosen.load(made.spec, packed, "fp32", None, threads)(layout)


def emulated(made: Checkpoint, layout: object) -> list[tuple[str, str, np.ndarray]]:
    try:
        import fused_emulated
    except ImportError:  # benchmarks/ is not in the sdist
        return []
    return [
        ("fused (emulated)", p, fused_emulated.render(made, layout, p).numpy())
        for p in ("fp16", "bf16")
    ]
