"""`crn-fast eval` from outside: a tiny network, tiny judges, figures that can be computed again."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="eval needs torch")
pytest.importorskip("torchmetrics", reason="PSNR and SSIM come from torchmetrics")

import tiny  # noqa: E402
from crn_fast import cli, image, layout  # noqa: E402
from crn_fast.engine import Engine  # noqa: E402
from crn_fast.measure import report  # noqa: E402
from crn_fast.palette import label_set  # noqa: E402
from crn_fast.spec import CascadeSpec  # noqa: E402
from crn_fast.training import segmenter  # noqa: E402
from inception_weights import make_weights  # noqa: E402
from scene import vgg_state  # noqa: E402

CAMVID = label_set("camvid")
SPEC = CascadeSpec((6, 6, 4, 4), (4, 8), classes=12, images=2, upsampling="half_pixel")
NETWORKS = (
    *("--feature-network", "vgg19:vgg.pth", "--fid-network", "inception.pt"),
    *("--segmenter", "segmenter.pt"),
)

Run = Callable[..., tuple[int, str, str]]


def write_pairs(photos: Path, labels: Path, count: int, size: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    for folder in (photos, labels):
        folder.mkdir(parents=True)
    for i in range(count):
        ids = np.kron(rng.integers(0, 12, (5, 9), dtype=np.uint8), np.ones((16, 16), np.uint8))
        found = layout.from_array(ids[: size[0], : size[1]], CAMVID)
        layout.write(found, labels / f"{i}.png")
        photo = layout.colorize(found) // 2 + rng.integers(0, 99, (*size, 3), dtype=np.uint8)
        image.write(photos / f"{i}.png", photo)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("eval")
    write_pairs(root / "data/photos", root / "data/labels", 4, SPEC.size, 0)
    write_pairs(root / "data/train", root / "data/trainlabels", 3, (40, 72), 1)
    write_pairs(root / "one/photos", root / "one/labels", 1, SPEC.size, 0)
    write_pairs(root / "small/photos", root / "small/labels", 2, (30, 70), 0)
    tiny.save_checkpoint(root / "net.safetensors", SPEC)
    torch.save(vgg_state(), root / "vgg.pth")
    torch.save(make_weights(), root / "inception.pt")
    torch.manual_seed(0)
    judge = segmenter.Segmenter(CAMVID, (16, 32), (4, 4, 4))
    segmenter.save(root / "segmenter.pt", judge, {})
    cityscapes = segmenter.Segmenter(label_set("cityscapes"), (16, 32), (4, 4, 4))
    segmenter.save(root / "cityscapes.pt", cityscapes, {})
    recipe = """
        label_set = "{}"
        network = {{ widths = [6], classes = {} }}
        data = [{{ photos = "train", labels = "trainlabels" }}, {{ photos = "gone" }}]
        validation = {{}}
    """
    (root / "recipe.toml").write_text(recipe.format("camvid", 12))
    (root / "other.toml").write_text(recipe.format("cityscapes", 20))
    return root


@pytest.fixture
def run(world: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Call crn-fast there: exit code, stdout, stderr."""
    monkeypatch.chdir(world)
    monkeypatch.setenv("COLUMNS", "120")

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exited:
            cli.main(["eval", "--threads=1", *arguments])
        out, err = capfd.readouterr()
        assert isinstance(exited.value.code, int)
        return exited.value.code, out, err

    return call


def measured(run: Run, *arguments: str) -> dict[str, object]:
    code, out, err = run("net.safetensors", *arguments, "--json")
    assert code == 0, err
    assert out.count("\n") == 1
    facts: dict[str, object] = json.loads(out)
    return facts


def test_every_measure_is_there_with_its_circumstances(run: Run) -> None:
    facts = measured(run, "data", "-c", "recipe.toml", *NETWORKS)
    rows = {row["measure"]: row for row in facts["measures"]}  # type: ignore[attr-defined]
    layers = ("input", *(f"conv{i}_2" for i in range(1, 6)))
    expected = {"PSNR, dB", "SSIM", "FID-8, N=4", "fidelity mIoU", "fidelity accuracy"}
    expected |= {f"{name} {layer}" for name in ("features", "diversity") for layer in layers}
    assert expected <= rows.keys()
    for row in rows.values():
        assert math.isfinite(row["model"]) and math.isfinite(row["baseline"])
    assert rows["fidelity mIoU"]["photos"] is not None and rows["SSIM"]["photos"] is None
    assert (facts["pairs"], facts["pictures"], facts["size"]) == (4, 8, [32, 64])
    assert (facts["backend"], facts["precision"]) == ("native", "fp32")
    for name, path in (
        ("features", "vgg.pth"),
        ("fid", "inception.pt"),
        ("fidelity", "segmenter.pt"),
    ):
        sha256 = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        assert facts["networks"][name]["sha256"] == sha256  # type: ignore[index]
    assert facts["left out"] == {}
    assert "of 3 pairs of the training split (train)" in str(facts["notes"])
    assert "not comparable with published FID" in str(facts["notes"])


def test_psnr_is_of_these_pictures_and_photos(run: Run) -> None:
    facts = measured(run, "data", "--metrics", "psnr")
    engine = Engine.open("net.safetensors")
    values, colors = [], np.zeros((12, 3))
    pairs = [
        (layout.read(f"data/labels/{i}.png", CAMVID).array, image.read(f"data/photos/{i}.png"))
        for i in range(4)
    ]
    for c in np.unique([ids for ids, _ in pairs]):
        colors[c] = np.concatenate([photo[ids == c] for ids, photo in pairs]).mean(0)
    baseline = []
    for ids, photo in pairs:
        painted = np.floor(colors[ids] + 0.5)
        errors = [np.square(p - photo.astype(float)).mean() for p in engine.render(ids)[0]]
        values.append(np.mean([10 * np.log10(255**2 / error) for error in errors]))
        baseline.append(10 * np.log10(255**2 / np.square(painted - photo).mean()))
    (row,) = facts["measures"]  # type: ignore[misc]
    assert row["model"] == pytest.approx(np.mean(values), rel=1e-6)
    assert row["baseline"] == pytest.approx(np.mean(baseline), rel=1e-6)
    each = [pair["psnr"]["model"] for pair in facts["each"]]  # type: ignore[attr-defined]
    np.testing.assert_allclose(each, values, rtol=1e-6)
    assert "evaluated pairs themselves" in str(facts["notes"])


def test_photos_are_reduced_but_never_enlarged(run: Run) -> None:
    large = ("--photos", "train", "--layouts", "trainlabels", "--metrics", "psnr")
    each = measured(run, "data", *large)["each"]
    assert {tuple(pair["size"]) for pair in each} == {(32, 64)}  # type: ignore[attr-defined]
    each = measured(run, "small", "--metrics", "psnr", "--limit", "1")["each"]
    assert [pair["size"] for pair in each] == [[30, 60]]  # type: ignore[attr-defined]


def test_the_table_is_for_people(run: Run) -> None:
    code, out, err = run("net.safetensors", "data", "--feature-network", "vgg19:vgg.pth")
    assert code == 0, err
    for part in ("trivial baseline", "real photos", "PSNR, dB", "features conv5_2", "4 pairs"):
        assert part in out
    assert "fid left out: it needs --fid-network" in err
    assert "fidelity left out: it needs --segmenter" in err
    assert "native, fp32 on" in err


def test_one_pair_is_too_few_for_fid(run: Run) -> None:
    facts = measured(run, "one", "--fid-network", "inception.pt")
    assert "at least 2 pairs" in facts["left out"]["fid"]  # type: ignore[index]
    code, out, err = run(
        "net.safetensors", "one", "--metrics", "fid", "--fid-network", "inception.pt"
    )
    assert (code, out) == (3, "") and "at least 2 pairs, found 1" in err


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        ("data --metrics psnr,lpips", 2, ["lpips", "fidelity"]),
        ("data --metrics features", 2, ["features", "--feature-network"]),
        ("data --metrics diversity", 2, ["diversity", "--feature-network"]),
        ("data --metrics fid", 2, ["fid", "--fid-network"]),
        ("data --metrics fidelity", 2, ["fidelity", "--segmenter"]),
        ("data --feature-network vgg.pth", 2, ["vgg.pth", "KIND:PATH"]),
        ("data --feature-network lpips:vgg.pth", 2, ["lpips:vgg.pth", "vgg19 or distilled"]),
        ("data --feature-network vgg19:none.pth", 3, ["none.pth", "no such file"]),
        ("data --feature-network vgg19:inception.pt", 3, ["inception.pt", "vgg19"]),
        ("data --fid-network vgg.pth", 3, ["vgg.pth", "Inception"]),
        ("data --segmenter none.pt", 3, ["none.pt", "no such file"]),
        ("data --segmenter vgg.pth", 3, ["vgg.pth"]),
        ("data --segmenter cityscapes.pt", 4, ["cityscapes.pt", "camvid"]),
        ("nowhere", 3, ["nowhere/photos", "no such folder"]),
        ("data --photos train", 3, ["has no partner"]),
        ("data -c none.toml", 3, ["none.toml", "no such"]),
        ("data -c other.toml", 4, ["cityscapes", "camvid"]),
        ("data -c recipe.toml --photos train", 2, ["--photos", "-c"]),
        ("small --feature-network vgg19:vgg.pth", 4, ["30x60", "32x32"]),
        ("data --limit 0", 2, ["limit"]),
        ("data --device 7", 8, ["--device 7"]),
    ],
)
def test_mistakes(run: Run, arguments: str, code: int, parts: list[str]) -> None:
    found, out, err = run("net.safetensors", *arguments.split())
    assert (found, out) == (code, ""), err
    assert "Traceback" not in err
    for part in parts:
        assert part in err.strip().splitlines()[-1]


def test_ids_outside_the_label_set_are_named(run: Run, tmp_path: Path) -> None:
    write_pairs(tmp_path / "photos", tmp_path / "labels", 2, SPEC.size, 0)
    Image.fromarray(np.full(SPEC.size, 19, np.uint8)).save(tmp_path / "labels" / "1.png")
    code, out, err = run("net.safetensors", str(tmp_path))
    assert (code, out) == (3, "") and "1.png" in err.splitlines()[-1]


def test_without_torchmetrics_it_says_what_needs_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    code, out, err = run("net.safetensors", "data")
    assert (code, out) == (8, "") and "crn-fast[train]" in err


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory")])
def test_out_of_memory_is_exit_5(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def exhausted(*_: object) -> None:
        raise error

    monkeypatch.setattr("crn_fast.measure.evaluate.evaluate", exhausted)
    code, out, err = run("net.safetensors", "data", "--metrics", "psnr")
    assert (code, out) == (5, "") and "out of memory while measuring pictures of 32x64" in err


def test_what_is_no_number_is_null() -> None:
    found = report.plain({"a": [math.inf, 1.5, {"b": math.nan}], "c": "inf", "d": 3})
    assert found == {"a": [None, 1.5, {"b": None}], "c": "inf", "d": 3}
