"""The training loop: Adam on the recipe's loss, from windows of photos and layouts.

It owns no printing and no command line: `Trainer.run` yields its progress. Files are the run
folder's business, what is compared the objective's.
"""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crn_fast import checkpoint, failpoints
from crn_fast.baselines.spec import BaselineSpec
from crn_fast.checkpoint import Checkpoint
from crn_fast.errors import BadInput, CheckFailed, CrnError, Mismatch, ResourceError, UsageError
from crn_fast.extras import out_of_memory
from crn_fast.module import Cascade
from crn_fast.palette import LabelSet
from crn_fast.spec import CascadeSpec
from crn_fast.training import data, divergence, lineage, objective, preflight, speed
from crn_fast.training.adversary import Adversary
from crn_fast.training.distributed import Processes
from crn_fast.training.losses.adversarial import AdversarialLoss
from crn_fast.training.recipe import Recipe
from crn_fast.training.run_folder import RunFolder, holds_run
from crn_fast.training.samples import Samples
from crn_fast.training.speed import Meter, Speed

LOG_EVERY = 10
"""Steps between lines of the logs."""


@dataclass(frozen=True)
class Progress:
    step: int
    steps: int
    loss: float
    terms: dict[str, float]
    """Unweighted terms of the loss; with an adversarial one also the discriminator's own loss."""
    learning_rate: float
    speed: Speed


class Trainer:
    """One run of training.

    Args:
        recipe: what to train and how.
        root: the data's folder.
        out: the run's folder; created if missing.
        labels: the label set of the layouts.
        device: 'cpu' or 'cuda'.
        resume: continue from the newest sound checkpoint in `out`.
        init_from: begin with this checkpoint's weights wherever names and shapes agree. The head
            of one image becomes that of each image, a little apart.
        licence: what the training data asks to be said of a model; kept with the weights. None
            keeps what the resumed or initial checkpoint says.
        check: read every pair of the data first.
        warn: called with a line for people: what takes long, what was passed over.

    Raises:
        BadInput: data, feature network or checkpoint cannot be used.
        FaultyData: of `check`, with every fault.
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
        check: bool = False,
        warn: Callable[[str], None] = lambda line: None,
    ) -> None:
        if labels.classes != recipe.network.classes:
            raise Mismatch(
                f"the network takes {recipe.network.classes} classes, the label set {labels.name} "
                f"has {labels.classes}: --set network.classes={labels.classes}"
            )
        if resume and init_from:
            raise UsageError("--resume and --init-from exclude each other")
        if not resume and holds_run(out):
            raise BadInput(f"{out}: already holds a run; add `--resume`, or choose another --out")
        settings = recipe.training
        self.recipe, self.labels = recipe, labels
        self.processes = Processes(device, settings.batch)
        self.device = self.processes.device
        self.notes = {"licence": licence} if licence else {}
        torch.use_deterministic_algorithms(settings.deterministic)
        if settings.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
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
        if check:
            if self.processes.first:
                warn("reading every pair of photo and layout once (--no-check leaves that out)")
            preflight.check(root, recipe, labels, self.loss.smallest, self.processes)
        size = recipe.network.size
        self.windows = data.Windows(root, recipe.data, labels, size, settings)
        validation = (recipe.validation,) if recipe.validation else recipe.data[:1]
        held = data.Windows(root, validation, labels, size, settings)
        self.step, self.steps = 0, settings.steps
        if settings.epochs:
            self.steps = math.ceil(settings.epochs * len(self.windows) / settings.batch)
        self.folder = RunFolder(out, own=self.processes.first, tensorboard=settings.tensorboard)
        self.samples = Samples(held, out / "samples")
        if resume:
            self._resume(warn)
        elif init_from:
            self._init_from(init_from, warn)
        if self.processes.first:
            self.folder.forget_after(self.step)
        self.processes.wait()

    def run(self, stop: Callable[[], bool] = lambda: False) -> Iterator[Progress]:
        """Train until the last step, or until `stop` says so, saving and sampling on the way.

        Raises:
            CheckFailed: a loss or gradient is no finite number. The step was not taken; its batch
                is named, and what it met is in the run's folder, see `divergence`.
            ResourceError: out of memory.
        """
        settings = self.recipe.training
        # The network alone: photos of many sizes would have the loss compiled again and again.
        network: Any = self.model
        if not settings.deterministic:  # else see `_train`
            network = self.processes.share(network)
        if settings.compile:
            network = torch.compile(network)
        peak = settings.peak_tflops or speed.matmul_tflops(self.device, settings.precision)
        stream = data.batches(self.windows, self.step, self.steps, self.processes)
        meter = Meter(self.flops, peak * self.processes.size)
        while self.step < self.steps:
            with meter.waiting():
                samples = next(stream)
            rate = self._learning_rate()
            terms = self._train(samples, network, rate)
            self.step += 1
            meter.images += settings.batch
            last = self.step == self.steps
            if last or self.step % LOG_EVERY == 0:
                progress = self._progress(terms, rate, meter.read())
            with meter.paused():
                # Before saving: a run that is killed in between samples again when resumed.
                if last or self.step % settings.sample_every == 0:
                    self.sample()
                    failpoints.reach("train.sampled")
                if last or self.step % settings.save_every == 0:
                    self.save()
                    failpoints.reach("train.saved")
                if last or self.step % LOG_EVERY == 0:
                    yield progress
            if not last and self.processes.any(stop() or self.processes.orphaned):
                self.save()
                self.processes.wait()  # torchrun ends all when one has ended
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
        state = {
            **head,
            "model": tensors,
            "raw": self.model.state_dict() if self.ema else {},
            "optimizer": self.optimizer.state_dict(),
            "loss": self._loss_state(),
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
        path = found.source
        for line in passed:
            warn(f"passed over {line}; {path} is used instead")
        try:
            before = Recipe.from_dict(json.loads(state["recipe"]), path)
            lineage.require_same(self.recipe, self.labels, before, found)
            self.model.load_state_dict(state["raw"] or state["model"])
            if self.ema:
                self.ema.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.loss.load_state_dict(state["loss"], strict=False)
            if self.adversary:
                self.adversary.optimizer.load_state_dict(state["adversary"])
            self.step = int(state["step"])
        except CrnError:
            raise
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise BadInput(f"{path}: cannot be resumed ({error})") from None
        steps = [line for lines in self.processes.gather([f"{self.step}"]) for line in lines]
        if len(set(steps)) > 1:
            raise Mismatch(
                f"{path}: the processes found checkpoints of steps {', '.join(steps)}; all must "
                "see the same files: put --out where they do"
            )
        self.notes = {**found.notes, **self.notes}

    def _init_from(self, path: Path, warn: Callable[[str], None]) -> None:
        found, taken = lineage.take_weights(self.model, self.spec, path)
        own = self.model.state_dict()
        if self.ema:
            self.ema.load_state_dict(own)
        self.notes = {**found.notes, **self.notes}
        warn(f"{path}: took {taken} of the network's {len(own)} tensors")

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
            if self.recipe.training.deterministic:
                self.processes.average(self.model)
            if self.adversary:
                self.adversary.backward(rendered, photos, labels)
            own, terms = terms, self.processes.mean(terms)
            self._require_finite(samples, labels, own, terms, rate)
            self.optimizer.step()
            if self.adversary:
                self.adversary.step(rate)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            height, width = self.recipe.network.size
            less = "" if self.recipe.baseline else ", or --set training.recompute=true"
            raise ResourceError(
                f"out of memory at step {self.step + 1} with {len(samples)} layouts of "
                f"{height}x{width} on {self.device}: lower training.batch{less}"
            ) from None
        failpoints.reach("train.stepped")
        if self.ema:
            self._average()
        if calibrate_at // 2 <= self.step < calibrate_at:
            self.loss.observe(terms)
        return terms

    def _require_finite(
        self, samples: list[data.Sample], ids: Tensor, own: Tensor, terms: Tensor, rate: float
    ) -> None:
        """Save and name the batch unless the loss and all gradients are finite.

        Means over the processes and their gradients are alike in all, so all decide alike.

        Args:
            samples: this process's part of the batch.
            ids: its layouts as the network takes them.
            own: its terms.
            terms: their mean over the processes.
            rate: the learning rate of the step.
        """
        losses = {"the loss": self.loss.weigh(terms)}
        networks: list[nn.Module] = [self.model]
        if self.adversary:
            losses["the discriminator's loss"] = self.adversary.loss[0]
            networks.append(self.adversary.judge.discriminator)
        if divergence.is_finite(list(losses.values()), networks):
            return
        step, rank = self.step + 1, self.processes.rank
        path = self.folder.path / f"diverged-{rank}.pt"
        facts = {
            "step": step, "rank": rank, "processes": self.processes.size, "learning_rate": rate,
            "loss": self._loss_state(), "spec": self.spec.to_json(),
            "labels": self.labels.to_json(), "recipe": json.dumps(self.recipe.to_dict()),
        }  # fmt: skip
        named = dict(zip(self.loss.names, own.tolist(), strict=True))
        try:
            divergence.save(path, samples, ids, named, self.model, facts)
            kept = f"batch and weights are in {path}: torch.load({str(path)!r}, weights_only=True)"
        except ResourceError as error:
            kept = f"batch and weights could not be kept ({error})"
        self.processes.wait()  # torchrun ends all when one has ended
        wrong = divergence.explain({k: float(v) for k, v in losses.items()}, self.model)
        files = ", ".join(sample.name for sample in samples)
        weights = f" --init-from {self.folder.newest}" if self.folder.newest.exists() else ""
        lower = self.recipe.training.learning_rate / 2
        raise CheckFailed(
            f"step {step}: {wrong} (batch: {files}); {kept}; begin another run with{weights} --set "
            f"training.learning_rate={lower:g}"
        )

    def _loss_state(self) -> dict[str, Tensor]:
        """What a loss is besides its feature network: weights of the terms, discriminator."""
        state = self.loss.state_dict()
        return {name: t for name, t in state.items() if not name.startswith("extractor.")}

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

    def _progress(self, terms: Tensor, rate: float, found: Speed) -> Progress:
        """Of the step just done; the first process logs it."""
        loss = float(self.loss.weigh(terms))
        named = dict(zip(self.loss.names, terms.tolist(), strict=True))
        if self.adversary:
            named["discriminator"] = float(self.adversary.loss)
        progress = Progress(self.step, self.steps, loss, named, rate, found)
        if self.processes.first:
            fields = asdict(progress)
            self.folder.log("timing", {"step": self.step, **fields.pop("speed")})
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
