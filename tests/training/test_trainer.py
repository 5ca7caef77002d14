"""The loop: it learns, it resumes where it stopped, and its files are whole."""

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

from crn_fast import checkpoint, cli, image  # noqa: E402
from crn_fast.errors import BadInput, Mismatch, ResourceError  # noqa: E402
from crn_fast.module import Cascade  # noqa: E402
from crn_fast.palette import label_set  # noqa: E402
from crn_fast.training.recipe import Recipe  # noqa: E402
from crn_fast.training.trainer import Trainer  # noqa: E402
from runs import digests  # noqa: E402
from scene import vgg_state, write_pairs  # noqa: E402


@pytest.fixture
def root(tmp_path: Path) -> Path:
    torch.set_num_threads(1)  # on maps this small, more would wait for each other
    torch.save(vgg_state(), tmp_path / "vgg19.pth")
    return write_pairs(tmp_path / "data")


def make(root: Path, out: str = "run", **options: Any) -> Trainer:
    training = {
        "steps": 20, "batch": 2, "learning_rate": 0.01, "workers": 0, "sample_every": 20,
        "save_every": 10, "decay": "cosine", "warmup": 5,
    }  # fmt: skip
    if options.pop("deterministic", False):
        training["deterministic"] = True
    network = {"widths": [8, 8, 6], "base": [4, 8], "classes": 12}
    loss = {"weights": str(root.parent / "vgg19.pth"), "calibrate_at": 6}
    recipe = Recipe.from_dict(
        {
            "network": network | options.pop("network", {}),
            "label_set": "camvid",
            "data": options.pop("data", [{}]),
            "loss": loss | options.pop("loss", {}),
            "training": training | options.pop("training", {}),
        }
    )
    return Trainer(recipe, root, root.parent / out, label_set("camvid"), **options)


def test_learns_and_leaves_whole_files(root: Path) -> None:
    progress = train(make(root, training={"steps": 150, "decay": "none"}, licence="none"))
    assert [p.step for p in progress] == list(range(10, 160, 10))
    # The input's term, on a task that a network of 8 channels can learn: colours by class.
    assert progress[-1].terms["input"] < 0.7 * progress[0].terms["input"]
    run = root.parent / "run"
    found = checkpoint.load(run)
    assert found.notes == {"steps": "150", "licence": "none"}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [p.step for p in progress]
    assert all(set(line) == {"step", "steps", "loss", "terms", "learning_rate"} for line in lines)
    column = image.read(run / "samples" / "step_0000150.png")
    assert column.shape == (4 * 16, 32, 3)
    assert column.std() > 10
    sheet = image.read(run / "samples" / "sheet.png")
    assert sheet.shape == (4 * 16, (2 + 8) * 32, 3)
    np.testing.assert_array_equal(sheet[:, -32:], column)


def train(trainer: Trainer, stop_at: int = 0) -> list[Any]:
    progress = list(trainer.run(lambda: trainer.step == stop_at))
    trainer.close()
    return progress


@pytest.mark.parametrize("stop_at", [3, 5, 10, 17])
@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_equals_not_stopping(root: Path, stop_at: int, workers: int) -> None:
    """Stops before, within and after the steps that calibrate the loss, mid-epoch."""
    training = {"ema": 0.9, "flip": True, "brightness": 0.3, "hue": 0.1, "workers": workers}
    options: dict[str, Any] = {"training": training, "data": [{"zoom": [0.8, 1.0]}]}
    train(make(root, **options, deterministic=True))
    train(make(root, "stopped", **options, deterministic=True), stop_at)
    resumed = make(root, "stopped", **options, deterministic=True, resume=True)
    assert resumed.step == stop_at
    train(resumed)
    assert digests(root.parent / "run") == digests(root.parent / "stopped")


def test_a_damaged_newest_checkpoint_costs_one_save(root: Path) -> None:
    train(make(root))
    run = root.parent / "run"
    assert sorted(p.name for p in run.glob("*.pt")) == ["ckpt-10.pt", "ckpt-20.pt", "ckpt.pt"]
    for name in ("ckpt.pt", "ckpt-20.pt"):
        whole = (root.parent / "run" / name).read_bytes()
        (run / name).unlink()
        (run / name).write_bytes(whole[: len(whole) // 2])
    warnings: list[str] = []
    resumed = make(root, resume=True, warn=warnings.append)
    assert resumed.step == 10
    assert len(warnings) == 2 and "ckpt.pt" in warnings[0]
    train(resumed)
    assert checkpoint.load(run).notes["steps"] == "20"


def test_a_folder_in_a_checkpoint_s_place_is_moved_aside(root: Path) -> None:
    train(make(root))
    run = root.parent / "run"
    for name in ("ckpt.pt", "ckpt-20.pt"):
        (run / name).unlink()
        (run / name).mkdir()
    train(make(root, resume=True))
    assert sorted(p.name for p in run.glob("damaged-*/*")) == ["ckpt-20.pt", "ckpt.pt"]
    assert checkpoint.load(run).notes["steps"] == "20"


def test_checkpoints_of_later_steps_go_with_the_next_save(root: Path) -> None:
    """They are what a run passed over as it was resumed; else they would be kept for sound ones."""
    train(make(root))
    run = root.parent / "run"
    for name in ("ckpt.pt", "ckpt-20.pt"):
        (run / name).unlink()
        (run / name).write_bytes(b"damaged")
    train(make(root, resume=True), stop_at=15)
    assert sorted(p.name for p in run.glob("ckpt*.pt")) == ["ckpt-10.pt", "ckpt-15.pt", "ckpt.pt"]


def test_a_run_without_its_newest_checkpoint_is_not_begun_again(root: Path) -> None:
    train(make(root))
    (root.parent / "run" / "ckpt.pt").unlink()
    with pytest.raises(BadInput, match="already holds a run"):
        make(root)
    assert make(root, resume=True).step == 20


def test_processes_end_with_their_torchrun(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    trainer = make(root)
    monkeypatch.setattr("os.getppid", lambda: 1)
    train(trainer)
    assert trainer.step == 1 and checkpoint.load(root.parent / "run").notes["steps"] == "1"


def test_a_full_disk_leaves_the_old_checkpoint(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(root)
    list(trainer.run(lambda: trainer.step == 10))
    before = (root.parent / "run" / "ckpt.pt").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ResourceError, match="No space left"):
        trainer.save()
    assert (root.parent / "run" / "ckpt.pt").read_bytes() == before


def test_one_process_at_a_time(root: Path) -> None:
    trainer = make(root)
    with pytest.raises(BadInput, match="another process trains there"):
        make(root)
    trainer.close()


def test_only_what_is_trainable_changes(root: Path) -> None:
    trainer = make(root, training={"trainable": ["stages.2", "head"]})
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    train(trainer)
    changed = {n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {name for name in before if name.startswith(("stages.2", "head"))}
    with pytest.raises(BadInput, match="no weight's name begins with 'stage9'"):
        make(root, "other", training={"trainable": ["stage9"]})


def test_recomputing_changes_nothing_but_memory(root: Path) -> None:
    train(make(root))
    train(make(root, "recomputed", training={"recompute": True}))
    a, b = (checkpoint.load(root.parent / out) for out in ("run", "recomputed"))
    for name, tensor in a.tensors.items():
        np.testing.assert_array_equal(tensor, b.tensors[name])


def test_epochs_count_pairs(root: Path) -> None:
    trainer = make(root, training={"epochs": 3})
    assert trainer.steps == 8  # 3 times 5 pairs, two a step
    trainer.close()


def test_resuming_with_another_recipe_is_refused(root: Path) -> None:
    train(make(root))
    for change in ({"batch": 4}, {"seed": 5}, {"learning_rate": 0.5}):
        with pytest.raises(Mismatch, match=r"\[training\] is not what this run began with"):
            make(root, training=change, resume=True)
    longer = make(root, training={"steps": 30}, resume=True)
    assert train(longer)[-1].step == 30


def test_the_licence_stays_with_the_weights(root: Path) -> None:
    train(make(root, licence="theirs"), stop_at=5)
    train(make(root, resume=True))
    assert checkpoint.load(root.parent / "run").notes == {"licence": "theirs", "steps": "20"}
    train(make(root, "next", init_from=root.parent / "run"))
    assert checkpoint.load(root.parent / "next").notes["licence"] == "theirs"


@pytest.mark.parametrize("kind", ["diversity", "class-diversity"])
def test_several_images_of_a_layout(root: Path, kind: str) -> None:
    trainer = make(root, network={"images": 3}, loss={"kind": kind})
    progress = train(trainer)
    assert progress[-1].loss < progress[0].loss
    assert checkpoint.load(root.parent / "run").spec.images == 3


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun needs gloo over POSIX")
def test_two_processes_learn_what_one_does(root: Path) -> None:
    """The same batches, split: equal to rounding, since only the order of additions differs."""
    (root.parent / "recipe.toml").write_text(
        'label_set = "camvid"\n[network]\nwidths = [8, 8, 6]\nclasses = 12\n'
        '[loss]\nweights = "vgg19.pth"\ncalibrate_at = 6\n'
        "[training]\nsteps = 20\nbatch = 4\nworkers = 0\nlearning_rate = 0.001\n"
    )
    command = ["-m", "crn_fast", "train", "data", "-c", "recipe.toml", "--device", "cpu", "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for prefix, out in (([], "one"), (two, "two")):
        subprocess.run(
            [sys.executable, *prefix, *command, out],
            cwd=root.parent, env=environment, check=True, timeout=300, capture_output=True,
        )  # fmt: skip
    curves = [
        [json.loads(line)["loss"] for line in (root.parent / out / "metrics.jsonl").open()]
        for out in ("one", "two")
    ]
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)
    one, both = (checkpoint.load(root.parent / out) for out in ("one", "two"))
    for name, tensor in one.tensors.items():
        np.testing.assert_allclose(both.tensors[name], tensor, atol=2e-4)


def test_init_from_takes_what_fits(root: Path) -> None:
    train(make(root, training={"steps": 10}))
    first = checkpoint.load(root.parent / "run")
    trainer = make(root, "other")
    trainer.close()
    recipe = trainer.recipe
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


def test_init_from_gives_each_image_the_head_of_one(root: Path) -> None:
    train(make(root, training={"steps": 10}))
    first = checkpoint.load(root.parent / "run")
    trainer = make(
        root, "several", network={"images": 4}, loss={"kind": "class-diversity"},
        init_from=root.parent / "run",
    )  # fmt: skip
    labels = torch.from_numpy(np.arange(16 * 32, dtype=np.uint8).reshape(1, 16, 32) % 12)
    one = Cascade(first.spec)
    one.load_state_dict({name: torch.from_numpy(array) for name, array in first.tensors.items()})
    with torch.no_grad():
        wanted, found = one(labels), trainer.model(labels)
    apart = (found - wanted).abs().mean((0, 2, 3, 4))
    assert found.shape == (1, 4, 16, 32, 3)
    assert (apart > 0.1).all() and (apart < 0.5 * wanted.std()).all()
    assert all((found[:, i] - found[:, k]).abs().mean() > 0.1 for i in range(4) for k in range(i))
    # Colours stay in their channels: whatever rows were swapped would be this far away.
    swapped = (found - wanted.flip(-1)).abs().mean((0, 2, 3, 4))
    assert (swapped > 2 * apart).all()
    train(trainer)


def test_mistakes_are_found_before_step_1(root: Path) -> None:
    train(make(root, training={"steps": 10}))
    with pytest.raises(BadInput, match="already holds a run; add `--resume`"):
        make(root)
    with pytest.raises(BadInput, match="nothing to resume"):
        make(root, "fresh", resume=True)
    trainer = make(root, "unused")
    trainer.close()
    recipe = trainer.recipe
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

    assert run("--out", "short", "--set", "training.steps=3")[0] == 0
    code, _, err = run("--max-time", "0")
    assert code == 75
    assert "saved at step 1 of 30" in err and "--resume" in err
    code, out, err = run("--resume")
    assert (code, out) == (0, "run/ckpt.pt\n")
    assert "next: crn-fast build-engine run/ckpt.pt" in err
    assert image.read("run/loss.png").std() > 5
    assert checkpoint.load("run").notes["steps"] == "30"


def test_tensorboard_gets_what_the_log_gets(root: Path) -> None:
    pytest.importorskip("tensorboard", reason="event files need tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(make(root, training={"tensorboard": True}))
    events = EventAccumulator(str(root.parent / "run" / "tensorboard")).Reload()
    lines = (root.parent / "run" / "metrics.jsonl").read_text().splitlines()
    losses = {e.step: e.value for e in events.Scalars("metrics/loss")}
    assert losses == pytest.approx({m["step"]: m["loss"] for m in map(json.loads, lines)})
