"""The training loop: Adam on the content loss, from windows of photos and layouts.

It owns no printing and no command line: `Trainer.run` yields its progress. A run lives in a folder:
ckpt.pt (whole at every moment), metrics.jsonl, samples/step_<n>.png (layout | photo | picture).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crn_fast import checkpoint, image, layout
from crn_fast.checkpoint import Checkpoint
from crn_fast.errors import BadInput, CheckFailed, Mismatch
from crn_fast.files import write_whole
from crn_fast.kernels import reference
from crn_fast.module import Cascade
from crn_fast.palette import LabelSet
from crn_fast.training import data, features
from crn_fast.training.losses.content import ContentLoss
from crn_fast.training.recipe import Recipe

CHECK_EVERY = 10
"""Steps between looks at the loss: each look waits for the device."""
SAMPLES = 4
PANEL_WIDTH = 512
"""Pixels; sample pictures wider than this are reduced for the contact sheet."""


@dataclass(frozen=True)
class Progress:
    step: int
    steps: int
    loss: float
    terms: tuple[float, ...]
    """Unweighted loss terms: the input, then each layer."""
    learning_rate: float
    images_per_second: float
    data_wait: float
    """Share of the time spent waiting for data."""


class Trainer:
    """One run of training.

    Args:
        recipe: what to train and how.
        root: the data's folder.
        out: the run's folder; created if missing.
        labels: the label set of the layouts.
        device: a torch device, 'cpu' or 'cuda'.
        resume: continue from out/ckpt.pt.
        init_from: begin with this checkpoint's weights wherever names and shapes agree.
        licence: what the training data asks to be said of a model; kept with the weights.

    Raises:
        BadInput: data, feature network or checkpoint cannot be used.
        Mismatch: label set and spec, or the resumed run's spec, do not fit.
    """

    def __init__(
        self,
        recipe: Recipe,
        root: Path,
        out: Path,
        labels: LabelSet,
        device: str = "cpu",
        *,
        resume: bool = False,
        init_from: Path | None = None,
        licence: str = "",
    ) -> None:
        if labels.classes != recipe.network.classes:
            raise Mismatch(
                f"the network takes {recipe.network.classes} classes, the label set {labels.name} "
                f"has {labels.classes}: --set network.classes={labels.classes}"
            )
        self.recipe, self.out, self.labels, self.device = recipe, out, labels, device
        self.licence = licence
        settings = recipe.training
        self.windows = data.Windows(root, recipe.data, labels, recipe.network.size, settings)
        validation = (recipe.validation,) if recipe.validation else recipe.data[:1]
        self.validation = data.Windows(root, validation, labels, recipe.network.size, settings)
        torch.manual_seed(settings.seed)
        self.model = Cascade(recipe.network).to(device)
        extractor = features.load(recipe.loss.extractor, recipe.loss.weights)
        self.loss = ContentLoss(extractor, recipe.loss.lambdas).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.learning_rate)
        self.step = 0
        if resume:
            self._resume()
        elif (out / "ckpt.pt").exists():
            raise BadInput(f"{out}: already holds a run; add --resume, or choose another --out")
        elif init_from:
            self._init_from(init_from)
        (out / "samples").mkdir(parents=True, exist_ok=True)

    def run(self) -> Iterator[Progress]:
        """Train to the recipe's last step, saving and sampling on the way.

        The caller may stop between two yields and call `save`.

        Raises:
            CheckFailed: the loss is not a finite number; the last sound checkpoint is kept.
        """
        settings = self.recipe.training
        # The network alone: photos of many sizes would have the loss compiled again and again.
        network = torch.compile(self.model) if settings.compile else self.model
        stop = settings.steps * settings.batch
        stream = data.batches(self.windows, self.step * settings.batch, stop)
        since, images, waited = time.perf_counter(), 0, 0.0
        while self.step < settings.steps:
            before = time.perf_counter()
            samples = next(stream)
            waited += time.perf_counter() - before
            terms = self._train(samples, network)
            self.step += 1
            images += len(samples)
            progress = None
            if self.step % CHECK_EVERY == 0 or self.step == settings.steps:
                progress = self._progress(terms, samples, since, images, waited)
                since, images, waited = time.perf_counter(), 0, 0.0
            if self.step % settings.save_every == 0 or self.step == settings.steps:
                self.save()
            if self.step % settings.sample_every == 0 or self.step == settings.steps:
                self.sample()
            if progress:
                yield progress

    def save(self) -> None:
        """Write out/ckpt.pt."""
        tensors = {name: p.detach().cpu() for name, p in self.model.state_dict().items()}
        notes = {"steps": str(self.step), "licence": self.licence}
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        head = checkpoint.header(Checkpoint(self.recipe.network, self.labels, arrays, notes))
        loss = {k: v for k, v in self.loss.state_dict().items() if not k.startswith("extractor.")}
        state = {
            **head,
            "model": tensors,
            "optimizer": self.optimizer.state_dict(),
            "loss": loss,
            "step": self.step,
            "recipe": json.dumps(self.recipe.to_dict()),
        }
        write_whole(self.out / "ckpt.pt", lambda stream: torch.save(state, stream))

    def sample(self) -> None:
        """Render the first validation layouts into samples/step_<n>.png."""
        pairs = self.validation.pairs[0]
        chosen = [pairs[i * len(pairs) // SAMPLES] for i in range(min(SAMPLES, len(pairs)))]
        rows = []
        for pair in chosen:
            window = self.validation.window(pair)
            labels = self._labels([window])
            with torch.inference_mode():
                rendered = reference.to_uint8(self.model(labels))[0, 0].cpu().numpy()
            ids = layout.from_array(labels[0].cpu().numpy(), self.labels)
            panels = [layout.colorize(ids), window.photo.numpy(), rendered]
            height, width = self.recipe.network.size
            shape = (height * min(PANEL_WIDTH, width) // width, min(PANEL_WIDTH, width))
            rows.append(np.hstack([image.resize(panel, shape) for panel in panels]))
        image.write(self.out / "samples" / f"step_{self.step:07d}.png", np.vstack(rows))

    def _train(self, samples: list[data.Sample], network: Any) -> Tensor:
        settings = self.recipe.training
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        calibrate_at = self.recipe.loss.calibrate_at
        if calibrate_at and self.step == calibrate_at:
            self.loss.calibrate()
        labels = self._labels(samples)
        photos = [sample.photo.to(self.device, non_blocking=True) for sample in samples]
        self.optimizer.zero_grad(set_to_none=True)
        device = torch.device(self.device).type
        half = (
            torch.autocast(device, torch.bfloat16)
            if settings.precision == "bf16"
            else nullcontext()
        )
        with half:
            terms = self._terms(network(labels), photos)
            loss = self.loss(terms)
        loss.backward()
        self.optimizer.step()
        if calibrate_at // 2 <= self.step < calibrate_at:
            self.loss.observe(terms)
        return terms.detach()

    def _terms(self, rendered: Tensor, photos: list[Tensor]) -> Tensor:
        """Mean unweighted terms [1 + layers] over the batch and the loss's scales.

        A photo smaller than the network's picture is not enlarged, which would teach blur: the
        picture is reduced to the photo's own pixels before the two are compared.
        """
        pictures = rendered[:, 0].movedim(-1, 1)
        found = []
        for picture, photo in zip(pictures, photos, strict=True):
            target = photo.movedim(-1, 0)[None].float()
            for scale in self.recipe.loss.scales:
                size = [max(32, round(side * scale)) for side in photo.shape[:2]]
                found.append(self.loss.terms(_reduce(picture[None], size), _reduce(target, size)))
        return torch.stack(found).mean(0)

    def _labels(self, samples: list[data.Sample]) -> Tensor:
        spec = self.recipe.network
        moved = (sample.labels.to(self.device, non_blocking=True) for sample in samples)
        return torch.stack([data.fit_labels(labels, spec.size, spec.classes) for labels in moved])

    def _learning_rate(self) -> float:
        settings = self.recipe.training
        rate = settings.learning_rate
        if self.step < settings.warmup:
            return rate * (self.step + 1) / settings.warmup
        if settings.decay == "cosine":
            done = (self.step - settings.warmup) / max(1, settings.steps - settings.warmup)
            return rate * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)
        return rate

    def _progress(
        self, terms: Tensor, samples: list[data.Sample], since: float, images: int, waited: float
    ) -> Progress:
        loss = float(self.loss(terms))
        elapsed = time.perf_counter() - since
        if not math.isfinite(loss):
            names = ", ".join(sample.name for sample in samples)
            raise CheckFailed(f"step {self.step}: the loss is {loss} (batch: {names})")
        progress = Progress(
            self.step,
            self.recipe.training.steps,
            loss,
            tuple(terms.tolist()),
            self._learning_rate(),
            images / elapsed,
            waited / elapsed,
        )
        with (self.out / "metrics.jsonl").open("a") as stream:
            stream.write(json.dumps(progress.__dict__) + "\n")
        return progress

    def _resume(self) -> None:
        path = self.out / "ckpt.pt"
        if not path.exists():
            raise BadInput(f"{path}: nothing to resume; leave --resume out to begin a run there")
        found = checkpoint.load(path)
        if found.spec != self.recipe.network:
            raise Mismatch(f"{path}: its network is not the recipe's; resume with the same recipe")
        state = checkpoint.load_training(path)
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.loss.load_state_dict(state["loss"], strict=False)
            self.step = state["step"]
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise BadInput(f"{path}: cannot be resumed ({error})") from None

    def _init_from(self, path: Path) -> None:
        found = checkpoint.load(path)
        if replace(found.spec, widths=(1,), images=1) != replace(
            self.recipe.network, widths=(1,), images=1
        ):
            raise Mismatch(
                f"{path}: base size, classes or upsampling differ from the recipe's network"
            )
        own = self.model.state_dict()
        for name, tensor in found.tensors.items():
            if name in own and own[name].shape == tensor.shape:
                own[name].copy_(torch.from_numpy(tensor))


def _reduce(picture: Tensor, size: list[int]) -> Tensor:
    """Antialiased reduction of float [1, 3, H, W] to `size`, at most its own."""
    if list(picture.shape[-2:]) == size:
        return picture
    return F.interpolate(picture, size=size, mode="bilinear", antialias=True)
