"""The training loop: Adam on the recipe's loss, from windows of photos and layouts.

It owns no printing and no command line: `Trainer.run` yields its progress. Files are the run
folder's business, what is compared the objective's.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crn_fast import checkpoint
from crn_fast.baselines.spec import BaselineSpec
from crn_fast.checkpoint import Checkpoint
from crn_fast.errors import BadInput, CheckFailed, Mismatch, ResourceError, UsageError
from crn_fast.extras import out_of_memory
from crn_fast.module import Cascade
from crn_fast.palette import LabelSet
from crn_fast.spec import CascadeSpec
from crn_fast.training import data, objective
from crn_fast.training.adversary import Adversary
from crn_fast.training.distributed import Processes
from crn_fast.training.losses.adversarial import AdversarialLoss
from crn_fast.training.recipe import Recipe
from crn_fast.training.run_folder import RunFolder
from crn_fast.training.samples import Samples

LOG_EVERY = 10
"""Steps between looks at the loss: each look waits for the device."""
MAY_CHANGE = ("steps", "epochs", "sample_every", "save_every", "keep", "tensorboard", "workers")
"""Parts of [training] that a resumed run may have otherwise than before."""


@dataclass(frozen=True)
class Progress:
    step: int
    steps: int
    loss: float
    terms: dict[str, float]
    """Unweighted terms of the loss; with an adversarial one also the discriminator's own loss."""
    learning_rate: float
    images_per_second: float
    data_wait: float
    """Share of the time spent waiting for data."""
    tflops: float
    """Operations of the network, forward and backward, 10^12 a second over all processes."""
    memory_gb: float
    """Highest so far: of the GPU where there is one, else of this process."""


class Trainer:
    """One run of training.

    Args:
        recipe: what to train and how.
        root: the data's folder.
        out: the run's folder; created if missing.
        labels: the label set of the layouts.
        device: 'cpu' or 'cuda'.
        resume: continue from the newest sound checkpoint in `out`.
        init_from: begin with this checkpoint's weights wherever names and shapes agree.
        licence: what the training data asks to be said of a model; kept with the weights. None
            keeps what the resumed or initial checkpoint says.
        warn: called with a line for people when something was passed over.

    Raises:
        BadInput: data, feature network or checkpoint cannot be used.
        Mismatch: label set, spec or recipe do not fit each other or the resumed run.
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
        licence: str | None = None,
        warn: Callable[[str], None] = lambda line: None,
    ) -> None:
        if labels.classes != recipe.network.classes:
            raise Mismatch(
                f"the network takes {recipe.network.classes} classes, the label set {labels.name} "
                f"has {labels.classes}: --set network.classes={labels.classes}"
            )
        if resume and init_from:
            raise UsageError("--resume and --init-from exclude each other")
        settings = recipe.training
        self.recipe, self.labels = recipe, labels
        self.processes = Processes(device, settings.batch)
        self.device = self.processes.device
        self.notes = {"licence": licence} if licence else {}
        size = recipe.network.size
        self.windows = data.Windows(root, recipe.data, labels, size, settings)
        validation = (recipe.validation,) if recipe.validation else recipe.data[:1]
        held = data.Windows(root, validation, labels, size, settings)
        self.steps = settings.steps
        if settings.epochs:
            self.steps = math.ceil(settings.epochs * len(self.windows) / settings.batch)
        torch.use_deterministic_algorithms(settings.deterministic)
        if self.device != "cpu":
            torch.backends.cudnn.allow_tf32 = settings.precision == "tf32"
        torch.manual_seed(settings.seed)
        self.spec = recipe.spec
        self.flops = self.spec.flops()
        self.model = _build(self.spec, settings.recompute).to(self.device)
        if settings.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._freeze(settings.trainable)
        self.loss = objective.build_loss(recipe).to(self.device)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(trained, settings.learning_rate, (settings.beta1, 0.999))
        self.adversary: Adversary | None = None
        if isinstance(self.loss, AdversarialLoss):
            self.adversary = Adversary(self.loss, recipe, self.processes)
        self.ema = copy.deepcopy(self.model).requires_grad_(False) if settings.ema else None
        self.step = 0
        self.folder = RunFolder(out, own=self.processes.first, tensorboard=settings.tensorboard)
        self.samples = Samples(held, out / "samples")
        if resume:
            self._resume(warn)
        elif self.folder.newest.exists():
            raise BadInput(f"{out}: already holds a run; add --resume, or choose another --out")
        elif init_from:
            self._init_from(init_from, warn)
        self.processes.wait()
        if self.processes.first:
            self.folder.forget_after(self.step)

    def run(self, stop: Callable[[], bool] = lambda: False) -> Iterator[Progress]:
        """Train until the last step, or until `stop` says so, saving and sampling on the way.

        Raises:
            CheckFailed: the loss is no finite number; the batch is named, nothing unsound is saved.
            ResourceError: out of memory.
        """
        settings = self.recipe.training
        # The network alone: photos of many sizes would have the loss compiled again and again.
        network: Any = self.processes.share(self.model)
        if settings.compile:
            network = torch.compile(network)
        stream = data.batches(self.windows, self.step, self.steps, self.processes)
        since, images, waited = time.perf_counter(), 0, 0.0
        while self.step < self.steps:
            before = time.perf_counter()
            samples = next(stream)
            waited += time.perf_counter() - before
            rate = self._learning_rate()
            terms = self._train(samples, network, rate)
            self.step += 1
            images += settings.batch
            last = self.step == self.steps
            saving = last or self.step % settings.save_every == 0
            if saving or self.step % LOG_EVERY == 0:
                progress = self._progress(terms, samples, rate, since, images, waited)
                since, images, waited = time.perf_counter(), 0, 0.0
            if saving:
                self.save()
            if last or self.step % settings.sample_every == 0:
                self.sample()
            if self.step % LOG_EVERY == 0 or last:
                yield progress
            if not last and self.processes.any(stop()):
                self.save()
                return

    def save(self) -> None:
        """Write the newest checkpoint: what renders, and what resumes."""
        if not self.processes.first:
            return
        rendering = self.ema or self.model
        tensors = {name: p.detach().cpu() for name, p in rendering.state_dict().items()}
        arrays = {name: tensor.contiguous().numpy() for name, tensor in tensors.items()}
        notes = {**self.notes, "steps": str(self.step)}
        head = checkpoint.header(Checkpoint(self.spec, self.labels, arrays, notes))
        loss = {k: v for k, v in self.loss.state_dict().items() if not k.startswith("extractor.")}
        state = {
            **head,
            "model": tensors,
            "raw": self.model.state_dict() if self.ema else {},
            "optimizer": self.optimizer.state_dict(),
            "loss": loss,
            "step": self.step,
            "recipe": json.dumps(self.recipe.to_dict()),
        }
        if self.adversary:
            state["adversary"] = self.adversary.optimizer.state_dict()
        self.folder.save(state, self.step, self.recipe.training.keep)

    def sample(self) -> None:
        """Render the sample layouts."""
        if self.processes.first:
            self.samples.render(self.ema or self.model, self.device, self.step)

    def close(self) -> None:
        """Let others use the run's folder."""
        if self.processes.first:
            self.folder.close()
        self.processes.close()

    def _resume(self, warn: Callable[[str], None]) -> None:
        state, found, passed = self.folder.load()
        for line in passed:
            warn(f"passed over {line}")
        path = found.source
        self._compare(Recipe.from_dict(json.loads(state["recipe"]), path), found)
        try:
            self.model.load_state_dict(state["raw"] or state["model"])
            if self.ema:
                self.ema.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.loss.load_state_dict(state["loss"], strict=False)
            if self.adversary:
                self.adversary.optimizer.load_state_dict(state["adversary"])
            self.step = int(state["step"])
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise BadInput(f"{path}: cannot be resumed ({error})") from None
        self.notes = {**found.notes, **self.notes}

    def _compare(self, before: Recipe, found: Checkpoint) -> None:
        """Mismatch unless a run may go on with this recipe."""
        path = found.source
        free = {name: getattr(before.training, name) for name in MAY_CHANGE}
        now = replace(self.recipe, training=replace(self.recipe.training, **free))
        if found.labels.names != self.labels.names:
            raise Mismatch(f"{path}: its label set is {found.labels.name}, not {self.labels.name}")
        for table in ("network", "baseline", "data", "validation", "loss", "training"):
            if getattr(now, table) != getattr(before, table):
                raise Mismatch(
                    f"{path}: the recipe's [{table}] is not what this run began with; resume with "
                    f"the same, or begin another run with --init-from {path}"
                )

    def _init_from(self, path: Path, warn: Callable[[str], None]) -> None:
        found = checkpoint.load(path)
        if _lineage(self.spec) != _lineage(found.spec):
            raise Mismatch(
                f"{path}: kind, base size, classes or upsampling differ from the recipe's network"
            )
        own = self.model.state_dict()
        fitting = [n for n, t in found.tensors.items() if n in own and own[n].shape == t.shape]
        for name in fitting:
            own[name].copy_(torch.from_numpy(found.tensors[name]))
        if self.ema:
            self.ema.load_state_dict(own)
        self.notes = {**found.notes, **self.notes}
        warn(f"{path}: took {len(fitting)} of the network's {len(own)} tensors")

    def _train(self, samples: list[data.Sample], network: Any, rate: float) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        calibrate_at = self.recipe.loss.calibrate_at
        if calibrate_at and self.step == calibrate_at:
            self.loss.calibrate()
        try:
            labels = self._labels(samples)
            photos = [sample.photo.to(self.device, non_blocking=True) for sample in samples]
            self.optimizer.zero_grad(set_to_none=True)
            half = self.recipe.training.precision == "bf16"
            kind = torch.device(self.device).type
            with torch.autocast(kind, torch.bfloat16) if half else nullcontext():
                scales = self.recipe.loss.scales
                rendered = network(labels)
                loss, terms = objective.compare(self.loss, rendered, photos, labels, scales)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            if self.adversary:
                self.adversary.learn(rendered, photos, labels, rate)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            height, width = self.recipe.network.size
            raise ResourceError(
                f"out of memory at step {self.step} with {len(samples)} layouts of "
                f"{height}x{width} on {self.device}: lower training.batch, or --set "
                "training.recompute=true"
            ) from None
        if self.ema:
            self._average()
        terms = self.processes.mean(terms)
        if calibrate_at // 2 <= self.step < calibrate_at:
            self.loss.observe(terms)
        return terms

    def _average(self) -> None:
        # The mean of the first steps is of few weights: let it follow them faster.
        decay = min(self.recipe.training.ema, (1 + self.step) / (10 + self.step))
        assert self.ema is not None
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.ema.parameters()), list(self.model.parameters()), 1 - decay
            )

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
            done = (self.step - settings.warmup) / max(1, self.steps - settings.warmup)
            return rate * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)
        return rate

    def _progress(
        self,
        terms: Tensor,
        samples: list[data.Sample],
        rate: float,
        since: float,
        images: int,
        waited: float,
    ) -> Progress:
        loss = float(self.loss.weigh(terms))
        if not math.isfinite(loss):
            names = ", ".join(sample.name for sample in samples)
            raise CheckFailed(
                f"step {self.step}: the loss is {loss} (batch: {names}); lower "
                "training.learning_rate and go on from the last checkpoint with --resume"
            )
        elapsed = time.perf_counter() - since
        speed = images / elapsed
        named = dict(zip(self.loss.names, terms.tolist(), strict=True))
        if self.adversary:
            named["discriminator"] = float(self.adversary.loss)
        tflops = 3 * self.flops * speed / 1e12
        progress = Progress(
            self.step, self.steps, loss, named, rate, speed, waited / elapsed, tflops, _memory()
        )
        if self.processes.first and (self.step % LOG_EVERY == 0 or self.step == self.steps):
            fields = asdict(progress)
            timing = ("images_per_second", "data_wait", "tflops", "memory_gb")
            self.folder.log("timing", {"step": self.step, **{k: fields.pop(k) for k in timing}})
            self.folder.log("metrics", fields)
        return progress

    def _freeze(self, trainable: tuple[str, ...]) -> None:
        names = [name for name, _ in self.model.named_parameters()]
        for prefix in trainable:
            if not any(name.startswith(prefix) for name in names):
                raise BadInput(f"training.trainable: no weight's name begins with {prefix!r}")
        if trainable:
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(name.startswith(trainable))


def _build(spec: CascadeSpec | BaselineSpec, recompute: bool) -> nn.Module:
    return Cascade(spec, recompute) if isinstance(spec, CascadeSpec) else spec.build()


def _lineage(spec: CascadeSpec | BaselineSpec) -> tuple[object, ...]:
    """What two networks must have in common for one to begin with the other's weights."""
    if isinstance(spec, CascadeSpec):
        return "cascade", spec.base, spec.classes, spec.upsampling
    return (spec,)


def _memory() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak / 1e6
