"""The loop: it learns, it resumes where it stopped, and its files are whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from crn_fast import checkpoint, cli, image  # noqa: E402
from crn_fast.errors import BadInput, CheckFailed, Mismatch  # noqa: E402
from crn_fast.palette import label_set  # noqa: E402
from crn_fast.training.recipe import Recipe  # noqa: E402
from crn_fast.training.trainer import Trainer  # noqa: E402
from scene import vgg_state, write_pairs  # noqa: E402


@pytest.fixture
def root(tmp_path: Path) -> Path:
    torch.save(vgg_state(), tmp_path / "vgg19.pth")
    return write_pairs(tmp_path / "data")


def make(root: Path, out: str = "run", **options: Any) -> Trainer:
    training = {
        "steps": 20, "batch": 2, "learning_rate": 0.01, "workers": 0, "sample_every": 20,
        "save_every": 10, "decay": "cosine", "warmup": 5,
    }  # fmt: skip
    recipe = Recipe.from_dict(
        {
            "network": {"widths": [8, 8, 6], "base": [4, 8], "classes": 12},
            "label_set": "camvid",
            "loss": {"weights": str(root.parent / "vgg19.pth"), "calibrate_at": 6},
            "training": training | options.pop("training", {}),
        }
    )
    return Trainer(recipe, root, root.parent / out, label_set("camvid"), **options)


def test_learns_and_leaves_whole_files(root: Path) -> None:
    progress = list(make(root, training={"steps": 150, "decay": "none"}, licence="none").run())
    assert [p.step for p in progress] == list(range(10, 160, 10))
    # The input's term, on a task that a network of 8 channels can learn: colours by class.
    assert progress[-1].terms[0] < 0.7 * progress[0].terms[0]
    run = root.parent / "run"
    found = checkpoint.load(run)
    assert found.notes == {"steps": "150", "licence": "none"}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [p.step for p in progress]
    sheet = image.read(run / "samples" / "step_0000150.png")
    assert sheet.shape == (4 * 16, 3 * 32, 3)
    assert sheet.std() > 10


def test_resuming_equals_not_stopping(root: Path) -> None:
    torch.set_num_threads(1)
    list(make(root).run())
    stopped = make(root, "stopped")
    for progress in stopped.run():
        if progress.step == 10:
            break
    resumed = make(root, "stopped", resume=True)
    assert resumed.step == 10
    list(resumed.run())
    whole, pieces = (checkpoint.load(root.parent / out) for out in ("run", "stopped"))
    for name, tensor in whole.tensors.items():
        np.testing.assert_array_equal(pieces.tensors[name], tensor, err_msg=name)


def test_init_from_takes_what_fits(root: Path) -> None:
    list(make(root, training={"steps": 10}).run())
    first = checkpoint.load(root.parent / "run")
    recipe = make(root, "other").recipe
    table = recipe.to_dict()
    table["network"]["widths"] = [8, 8, 6, 4]
    grown = Trainer(
        Recipe.from_dict(table), root, root.parent / "grown", label_set("camvid"),
        init_from=root.parent / "run",
    )  # fmt: skip
    own = grown.model.state_dict()
    for name, tensor in first.tensors.items():
        if name.startswith("stages"):
            np.testing.assert_array_equal(own[name].numpy(), tensor)
    assert own["head.weight"].shape == (3, 4)


def test_a_loss_that_is_no_number_stops_the_run(root: Path) -> None:
    trainer = make(root)
    with torch.no_grad():
        trainer.model.get_parameter("head.bias").fill_(torch.nan)
    with pytest.raises(CheckFailed, match=r"step 10: the loss is nan \(batch: .*\.png"):
        list(trainer.run())


def test_mistakes_are_found_before_step_1(root: Path) -> None:
    list(make(root, training={"steps": 10}).run())
    with pytest.raises(BadInput, match="already holds a run; add --resume"):
        make(root)
    with pytest.raises(BadInput, match="nothing to resume"):
        make(root, "fresh", resume=True)
    recipe = make(root, "unused").recipe
    with pytest.raises(Mismatch, match="12 classes, the label set cityscapes has 20"):
        Trainer(recipe, root, root.parent / "x", label_set("cityscapes"))


def test_the_command_stops_in_time_and_resumes(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root.parent)
    Path("recipe.toml").write_text(
        'label_set = "camvid"\n[network]\nwidths = [8, 8, 6]\nclasses = 12\n'
        '[loss]\nweights = "vgg19.pth"\n[training]\nsteps = 30\nworkers = 0\n'
    )
    command = ["train", "data", "-c", "recipe.toml", "--device", "cpu"]

    def run(*more: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exited:
            cli.main([*command, *more])
        out, err = capfd.readouterr()
        assert isinstance(exited.value.code, int)
        return exited.value.code, out, err

    code, _, err = run("--max-time", "0")
    assert code == 75
    assert "saved at step 10 of 30" in err and "--resume" in err
    code, out, err = run("--resume")
    assert (code, out) == (0, "run/ckpt.pt\n")
    assert "next: crn-fast build-engine run/ckpt.pt" in err
    assert checkpoint.load("run").notes["steps"] == "30"
