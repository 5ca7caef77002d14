"""A batch that yields NaN: it is named and kept, and the step is not taken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from crn_fast import cli, image  # noqa: E402
from crn_fast.errors import CheckFailed  # noqa: E402
from crn_fast.module import Cascade  # noqa: E402
from crn_fast.palette import label_set  # noqa: E402
from crn_fast.spec import CascadeSpec  # noqa: E402
from crn_fast.training import divergence, objective  # noqa: E402
from crn_fast.training.recipe import Recipe  # noqa: E402
from crn_fast.training.trainer import Trainer  # noqa: E402
from scene import vgg_state, write_pairs  # noqa: E402

CAMVID = label_set("camvid")
RARE = 11
"""A class that one layout alone holds."""
POISON = "photos/3.png"
"""The photo of that layout."""
RECIPE = """label_set = "camvid"
[network]
widths = [8, 8, 6]
classes = 12
[loss]
weights = "vgg19.pth"
calibrate_at = 0
[training]
steps = 20
batch = 2
workers = 0
save_every = 1
flip = true
deterministic = true
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data in which one layout alone holds the class RARE, in a folder that we are in."""
    from PIL import Image

    torch.set_num_threads(1)  # on maps this small, more would wait for each other
    torch.save(vgg_state(), tmp_path / "vgg19.pth")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    root = write_pairs(tmp_path / "data")
    for name in range(5):
        ids = np.full((24, 40), name, np.uint8)
        ids[:, 20:] = RARE if name == 3 else 5
        Image.fromarray(ids).save(root / "labels" / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    return root


def make(root: Path, **tables: dict[str, Any]) -> Trainer:
    """A trainer whose network overflows in float32 wherever it meets the class RARE."""
    from crn_fast.training import recipe as recipes

    found = recipes.read("recipe.toml")
    plain = found.to_dict()
    for table, changed in tables.items():
        plain[table] |= changed
    trainer = Trainer(Recipe.from_dict(plain), Path("data"), Path("run"), CAMVID)
    poison(dict(trainer.model.named_parameters()))
    return trainer


def poison(weights: dict[str, Any]) -> None:
    """Finite weights: nine of them add up to infinity where the class RARE is."""
    with torch.no_grad():
        weights["stages.2.conv1.weight"][:, 8 + RARE] = 3e38


def poisoned_step(trainer: Trainer) -> int:
    """The first step, from 1, whose batch holds the poisonous photo."""
    batch = trainer.recipe.training.batch
    for step in range(trainer.steps):
        names = [trainer.windows[step * batch + i].name for i in range(batch)]
        if any(name.endswith(POISON) for name in names):
            return step + 1
    raise AssertionError("the poisonous photo never comes")


def test_the_batch_is_kept_and_the_step_not_taken(root: Path) -> None:
    trainer = make(root)
    at = poisoned_step(trainer)
    assert at > 1
    with pytest.raises(CheckFailed, match=rf"^step {at}: the loss is nan \(batch: .*{POISON}"):
        list(trainer.run())
    trainer.close()
    assert trainer.step == at - 1
    newest = torch.load("run/ckpt.pt", weights_only=True)
    assert newest["step"] == at - 1

    found = torch.load("run/diverged-0.pt", weights_only=True)
    assert (found["format"], found["step"], found["rank"]) == (divergence.FORMAT, at, 0)
    for name, tensor in newest["model"].items():
        assert torch.equal(found["model"][name], tensor), name  # before the step, and finite
    assert found["photos"][0] != found["photos"][1]
    assert any(name.endswith(POISON) for name in found["photos"])
    assert [n.replace("labels", "photos") for n in found["layouts"]] == found["photos"]
    assert any(np.isnan(value) for value in found["terms"].values())
    assert found["spoilt"] and set(found["spoilt"]) <= set(found["model"])
    for name, window, pixels in zip(
        found["photos"], found["windows"], found["photo_windows"], strict=True
    ):
        y, x, h, w = (window[key] for key in ("top", "left", "height", "width"))
        part = image.read(name)[y : y + h, x : x + w]
        part = part[:, ::-1] if window["mirrored"] else part
        assert pixels.dtype == torch.uint8
        resized = image.resize(part, tuple(pixels.shape[:2])) if h > 16 or w > 32 else part
        np.testing.assert_array_equal(pixels, resized)

    # What is kept is enough to see it happen again.
    model = Cascade(CascadeSpec.from_json(found["spec"]))
    model.load_state_dict(found["model"])
    loss = objective.build_loss(Recipe.from_dict(json.loads(found["recipe"])))
    loss.load_state_dict(found["loss"], strict=False)
    value, terms = objective.compare(
        loss, model(found["ids"]), found["photo_windows"], found["ids"], (1.0,)
    )
    assert value.isnan()
    torch.testing.assert_close(
        terms.tolist(), list(found["terms"].values()), equal_nan=True, rtol=0, atol=0
    )


def test_a_gradient_that_is_no_number_stops_the_run_too(root: Path) -> None:
    trainer = make(root)
    head = trainer.model.get_parameter("head.bias")
    head.register_hook(lambda gradient: gradient * torch.inf)
    before = head.detach().clone()
    with pytest.raises(CheckFailed, match=r"^step 1: 1 weights have a gradient that is no finite"):
        list(trainer.run())
    trainer.close()
    assert torch.equal(head, before)
    assert torch.load("run/diverged-0.pt", weights_only=True)["spoilt"] == ["head.bias"]


def test_a_discriminator_s_loss_counts(root: Path) -> None:
    trainer = make(root, loss={"kind": "pix2pix"}, network={"widths": [8, 8, 8, 6], "base": [3, 5]})
    assert trainer.adversary
    trainer.adversary.judge.discriminator[0].bias.data.fill_(torch.inf)
    with pytest.raises(CheckFailed, match=r"^step 1: the (discriminator's )?loss is nan"):
        list(trainer.run())
    trainer.close()


def test_a_full_disk_takes_nothing_from_the_message(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(root, training={"save_every": 100})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckFailed, match=rf"{POISON}.*could not be kept \(.*No space left"):
        list(trainer.run())
    trainer.close()
    assert not list(Path("run").glob("*.pt"))


def test_the_command_exits_with_7(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trainer = make(root)
    trainer.save()
    trainer.close()
    Path("run").rename("poisoned")
    command = ["train", "data", "-c", "recipe.toml", "--device", "cpu"]
    with pytest.raises(SystemExit) as exited:
        cli.main([*command, "--init-from", "poisoned"])
    assert exited.value.code == 7
    (line,) = (line for line in capfd.readouterr().err.splitlines() if "crn-fast: " in line)
    assert POISON in line
    assert "torch.load('run/diverged-0.pt', weights_only=True)" in line
    assert line.endswith("--init-from run/ckpt.pt --set training.learning_rate=5e-05")


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun needs gloo over POSIX")
def test_every_process_keeps_its_own_part(root: Path) -> None:
    trainer = make(root)
    at = poisoned_step(trainer)
    trainer.save()
    trainer.close()
    Path("run").rename("poisoned")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"),
            *("2", "-m", "crn_fast", "train", "data", "-c", "recipe.toml", "--device", "cpu"),
            *("--init-from", "poisoned"),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300, capture_output=True, text=True,
    )  # fmt: skip
    assert "exitcode  : 7" in done.stderr
    parts = [torch.load(f"run/diverged-{rank}.pt", weights_only=True) for rank in range(2)]
    assert [part["rank"] for part in parts] == [0, 1]
    assert [len(part["photos"]) for part in parts] == [1, 1]
    assert {part["step"] for part in parts} == {at}
    guilty = [any(name.endswith(POISON) for name in part["photos"]) for part in parts]
    unsound = [any(np.isnan(value) for value in part["terms"].values()) for part in parts]
    assert sorted(guilty) == [False, True] and unsound == guilty
    for name, tensor in parts[0]["model"].items():
        assert torch.equal(parts[1]["model"][name], tensor)
    for rank in range(2):
        assert f"torch.load('run/diverged-{rank}.pt'" in done.stderr
