"""Suite `train`: one step of training on a CPU, by the trainer itself, in several of its settings.

Data is in memory already: reading is the loader's, and overlaps. The loss is of colours alone, so
the network's own passes are what is timed. The learning rate is 0: every step then finds the same
weights and gives the same gradients, which are compared with those in float64, for the same work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from crn_fast import checkpoint, image, layout
from crn_fast.bench import frame
from crn_fast.bench.inputs import Inputs
from crn_fast.engine import buildable
from crn_fast.files import make_folder, write_whole
from crn_fast.measure import ceilings
from crn_fast.measure.child import Child
from crn_fast.measure.gate import Subject
from crn_fast.measure.rows import Origin, Row
from crn_fast.measure.turns import take

BATCH = 2
SUBJECTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "channels_last": {"channels_last": True},
    "recompute": {"recompute": True},
    "compile": {"compile": True},
}
"""Name -> the settings of the recipe that it differs by."""
LIMIT = 0.02
"""Largest difference of a gradient that passes, of the gradients' standard deviation."""
PASSES = 3
"""Of the operations of a picture: once forward, twice backward."""


def measure(
    inputs: Inputs,
    names: Sequence[str],
    threads: int,
    rounds: int,
    origin: Origin,
    told: Callable[[str], object],
) -> list[Row]:
    """Rows of a step in each of `SUBJECTS` that is named."""
    case = {**frame.case_of(inputs, threads), "batch": BATCH}
    if inputs.spec.images > 1:
        reason = f"the loss is of one picture; {inputs.network} makes {inputs.spec.images}"
        return [Row("train", case, name, "", origin, reason=reason) for name in names]
    data = _data(inputs)
    expected = data / "gradients.float64.npy"
    if not expected.exists() or expected.stat().st_mtime < inputs.model.stat().st_mtime:
        synthesize(inputs.model, data, expected)
    limit = LIMIT * float(np.load(expected).std())
    operations = PASSES * BATCH * inputs.spec.flops()

    def start(name: str) -> Child:
        return Child(
            partial(make, name, inputs.model, data, threads),
            *(expected, limit, "float64"),
            environment={**ceilings.environment_of(threads), **frame.ENVIRONMENT},
            pictures=False,
        )

    starts = {name: partial(start, name) for name in names}
    taken = take(starts, rounds, warmup=1, pause=frame.PAUSE, told=told)
    return [
        taken.row("train", case, name, origin, lambda timing: {"operations": operations})
        for name in taken.keys
    ]


def make(name: str, model: Path, data: Path, threads: int) -> Subject:
    """A step of the trainer, in the process that it is timed in."""
    import torch

    from crn_fast.training.data import batches
    from crn_fast.training.trainer import Trainer

    torch.set_num_threads(threads)
    loaded = checkpoint.load(model)
    recipe = _recipe(loaded, SUBJECTS[name])
    trainer = Trainer(recipe, data, data / f"run-{name}", loaded.labels, init_from=model)
    samples = next(batches(trainer.windows, 0, 1))
    network: Any = torch.compile(trainer.model) if recipe.training.compile else trainer.model

    def step() -> np.ndarray:
        trainer._train(samples, network, 0.0)  # one step alone has no public name
        return _gradients(trainer.model)

    changed = ", ".join(f"{key}={value}" for key, value in SUBJECTS[name].items()) or "the defaults"
    settings = f"torch {torch.__version__}, Adam, loss image, batch {BATCH}, {changed}"
    return Subject(name, step, f"{settings}, {threads} threads")


def synthesize(model: Path, data: Path, out: Path) -> None:
    """The oracle: gradients of the same batch in float64."""
    import torch

    from crn_fast.module import Cascade
    from crn_fast.training import objective
    from crn_fast.training.data import Windows, batches

    loaded = checkpoint.load(model)
    recipe = _recipe(loaded, {})
    windows = Windows(data, recipe.data, loaded.labels, recipe.network.size, recipe.training)
    samples = next(batches(windows, 0, 1))
    network = Cascade(recipe.network).double()
    network.load_state_dict({n: torch.from_numpy(np.array(t)) for n, t in loaded.tensors.items()})
    labels = torch.stack([sample.labels for sample in samples])
    photos = [sample.photo for sample in samples]
    loss, _ = objective.compare(
        objective.build_loss(recipe), network(labels), photos, labels, (1.0,)
    )
    loss.backward()
    write_whole(out, lambda stream: np.save(stream, _gradients(network)))


def _gradients(network: Any) -> np.ndarray:
    """All of them, one after the other."""
    each = [p.grad.detach().reshape(-1).numpy() for p in network.parameters() if p.grad is not None]
    return np.concatenate(each)


def _recipe(loaded: checkpoint.Checkpoint, changes: dict[str, Any]) -> Any:
    from crn_fast.training.recipe import LossRecipe, Recipe, TrainingRecipe

    training = TrainingRecipe(batch=BATCH, workers=0, peak_tflops=1.0, **changes)
    return Recipe(
        buildable(loaded), loaded.labels.name, loss=LossRecipe("image"), training=training
    )


def _data(inputs: Inputs) -> Path:
    """A folder of layouts, and in place of photos the pictures that the network makes of them,
    mirrored: real enough, and never what it is to give.
    """
    folder = inputs.model.with_name(f"{inputs.network}.train")
    labels = checkpoint.load(inputs.model).labels
    picture = np.clip(np.load(inputs.expected)[0, 0] + 0.5, 0, 255).astype(np.uint8)
    ids = np.load(inputs.labels)[0]
    for part in ("photos", "labels"):
        make_folder(folder / part)
    for index in range(BATCH):
        moved = np.roll(ids, index * ids.shape[1] // BATCH, axis=1)
        layout.write(layout.from_array(moved, labels), folder / "labels" / f"{index}.png")
        photo = folder / "photos" / f"{index}.png"
        if not photo.exists():
            image.write(photo, np.ascontiguousarray(picture[:, ::-1]), "png", 95)
    return folder
