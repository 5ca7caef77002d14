"""Engines: a network bound to a backend, ready to turn label maps into pictures.

An engine file (.crn) is a container whose metadata is the manifest and whose tensors are one
backend's packed weights. A checkpoint opens as an engine too: it is packed on the way.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from crn_fast import __version__, backends, checkpoint, container, trust
from crn_fast.baselines.spec import BaselineSpec
from crn_fast.batch import Labels, stack
from crn_fast.checkpoint import Checkpoint
from crn_fast.errors import Mismatch, Outdated, UsageError
from crn_fast.files import staged
from crn_fast.manifest import Manifest, rebuild
from crn_fast.memory import in_parts, shortage
from crn_fast.palette import LabelSet
from crn_fast.spec import CascadeSpec


def build_engine(
    source: str | Path | Checkpoint,
    out: str | Path,
    *,
    backend: str = "auto",
    precision: str = "auto",
    size: tuple[int, int] | None = None,
    options: Mapping[str, Any] | None = None,
    verify: Callable[[Path], object] | None = None,
) -> Manifest:
    """Compile a checkpoint into an engine file.

    Args:
        source: a ckpt.pt, .safetensors or run folder, or a loaded checkpoint.
        out: the engine file to write.
        backend: a backend's name, or 'auto' for the best that can run here.
        precision: one of the backend's, or 'auto'.
        size: the picture size that is expected; the network's own when None.
        options: what else the backend takes, of `backends.BUILD_OPTIONS`: `targets`, the GPUs to
            build for, as in ('sm_89',); `batch`, the fewest and most layouts at a time;
            `timing_cache`, its file, or None for none; `tune`, whether native times its tiles
            here; `progress`, called with a phase's name,
            the steps done and their number.
        verify: called with the file before it is moved to `out`; what it raises ends the build,
            and nothing is left.

    Raises:
        BadInput: the checkpoint cannot be read.
        UsageError: a precision that no backend has, or an option that this one has not.
        Mismatch: `size` is not the network's, or that is a baseline.
        Unavailable: the backend cannot run here, or has another precision.
        ResourceError: the file cannot be written.
    """
    loaded = source if isinstance(source, Checkpoint) else checkpoint.load(source)
    spec = buildable(loaded)
    check_size(loaded.source, spec, size)
    name, chosen, _ = backends.choose(backend, building=True)
    options = options or {}
    check_options(name, chosen, precision, options)
    if chosen.EXECUTABLE:
        trust.require_key()  # before the long work
    packed = chosen.pack(spec, loaded.tensors, precision, **options)
    facts = chosen.describe(packed) if chosen.EXECUTABLE else {}
    manifest = Manifest(
        spec=spec,
        labels=loaded.labels,
        backend=name,
        precision=facts.pop("precision", precision),
        target=facts.pop("target", "any"),
        checkpoint_sha256=loaded.sha256(),
        built_with={"crn_fast": __version__, "python": platform.python_version(), **facts},
        notes=dict(loaded.notes),
    )
    sign = trust.sign if chosen.EXECUTABLE else None
    if verify is None:
        container.write(out, packed, manifest.to_metadata(), sign)
        return manifest
    with staged(out) as temporary:
        container.write(temporary, packed, manifest.to_metadata(), sign)
        del packed  # the file is mapped now, and may be as large
        verify(temporary)
    return manifest


def read_file(path: str | Path) -> tuple[Manifest, dict[str, np.ndarray]]:
    """An engine file's manifest and payload: whole, known here, and trusted if it is code.

    Raises:
        BadInput: damaged, of another kind, or executable and not trusted.
        Mismatch: of another version, or of a backend that is unknown here.
    """
    packed, metadata = container.read(path)
    manifest = Manifest.from_metadata(str(path), metadata)
    if manifest.backend not in backends.NAMES:
        raise Mismatch(
            f"{path}: built for the backend {manifest.backend!r:.40}; this crn_fast has "
            f"{', '.join(backends.NAMES)}: {rebuild(path)}"
        )
    if backends.get(manifest.backend).EXECUTABLE:
        packed = trust.check(str(path), packed, metadata)
    return manifest, packed


def check_options(
    name: str, chosen: backends.Backend, precision: str, options: Mapping[str, Any]
) -> None:
    """Check that the backend of that name has the precision and the options.

    Raises:
        UsageError: a precision that none has, or an option that this one has not.
        Unavailable: a precision that this one has not.
    """
    backends.require_precision(name, precision, chosen.PRECISIONS)
    if foreign := sorted(options.keys() - set(chosen.OPTIONS)):
        raise UsageError(
            f"{name}: has no {backends.BUILD_OPTIONS.get(foreign[0], foreign[0])}; leave it out, "
            "or take another --backend"
        )


def buildable(loaded: Checkpoint) -> CascadeSpec:
    """The spec of a checkpoint's cascade.

    Raises:
        Mismatch: the checkpoint is a baseline network's.
    """
    if isinstance(loaded.spec, BaselineSpec):
        raise Mismatch(
            f"{loaded.source}: holds a network of kind {loaded.kind!r}, which is there to compare "
            "with; engines are built of cascades: render and eval take the checkpoint itself"
        )
    return loaded.spec


def check_size(source: str, spec: CascadeSpec | BaselineSpec, size: tuple[int, int] | None) -> None:
    """Compare a size that was asked for with the network's.

    Raises:
        Mismatch: they differ.
    """
    if size is not None and size != spec.size:
        raise Mismatch(
            f"{source}: makes pictures of {spec.size[0]}x{spec.size[1]}, not {size[0]}x{size[1]}; "
            "a network's size is fixed by its stages: use another model, or "
            f"`--size {spec.size[0]}x{spec.size[1]}`"
        )


class Engine:
    """A network that is ready to render. Threads may share it; it closes as a context manager."""

    def __init__(self, manifest: Manifest, renderer: backends.Renderer, source: str) -> None:
        self.manifest, self.source = manifest, source
        self.device, self.precision = renderer.device, renderer.precision
        self._renderer: backends.Renderer | None = renderer
        self._one_at_a_time = Lock()

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        backend: str = "auto",
        precision: str = "auto",
        device: int | None = None,
        threads: int | None = None,
    ) -> Engine:
        """Open an engine file, or a checkpoint.

        Args:
            path: .crn, .safetensors, ckpt.pt or a run folder.
            backend: for a checkpoint, the backend to use; an engine file has its own.
            precision: as the backend offers; 'auto' takes the file's, then the device's best.
            device: number of the GPU; None for the first if there is one, else the CPU.
            threads: CPU threads; None for as many as the process may use.

        Raises:
            BadInput: the file is missing, damaged, of another kind, or executable and not trusted.
            Mismatch: an engine of another version, or built for another backend; a baseline
                network for any backend but eager.
            Unavailable: the backend cannot run here.
        """
        if Path(path).suffix == ".crn":
            manifest, packed = read_file(path)
            if backend not in ("auto", manifest.backend):
                raise Mismatch(
                    f"{path}: built for the backend {manifest.backend}, not {backend}: leave "
                    f"--backend out, or {rebuild(path, backend=backend)}"
                )
            _, chosen, _ = backends.choose(manifest.backend, opening=True)
            spec = manifest.spec
            assert isinstance(spec, CascadeSpec)  # the manifest was read from a file
            chosen.check(str(path), spec, packed)
        else:
            loaded = checkpoint.load(path)
            if isinstance(loaded.spec, BaselineSpec):
                return cls._open_baseline(loaded, loaded.spec, backend, precision, device, threads)
            spec = loaded.spec
            name, chosen, _ = backends.choose(backend)
            packed = chosen.prepare(spec, loaded.tensors, precision)
            notes = dict(loaded.notes)
            manifest = Manifest(spec, loaded.labels, name, "auto", "any", "", {}, notes)
        wanted = manifest.precision if precision == "auto" else precision
        try:
            renderer = chosen.load(spec, packed, wanted, device, threads)
        except Outdated as error:
            asked = {**manifest.asked(), **error.options}
            raise Mismatch(f"{path}: {error}: {rebuild(path, **asked)}") from None
        return cls(manifest, renderer, str(path))

    @classmethod
    def _open_baseline(
        cls,
        loaded: Checkpoint,
        spec: BaselineSpec,
        backend: str,
        precision: str,
        device: int | None,
        threads: int | None,
    ) -> Engine:
        if backend not in ("auto", "eager"):
            raise Mismatch(
                f"{loaded.source}: a network of kind {spec.kind!r} runs on the backend eager, not "
                f"{backend}: --backend eager, or leave it out"
            )
        name, _, _ = backends.choose("eager")
        from crn_fast.backends import eager

        renderer = eager.load_baseline(spec, loaded.tensors, precision, device, threads)
        notes = dict(loaded.notes)
        manifest = Manifest(spec, loaded.labels, name, "auto", "any", "", {}, notes)
        return cls(manifest, renderer, loaded.source)

    @property
    def spec(self) -> CascadeSpec | BaselineSpec:
        return self.manifest.spec

    @property
    def labels(self) -> LabelSet:
        return self.manifest.labels

    @property
    def backend(self) -> str:
        return self.manifest.backend

    def timings(self, labels: np.ndarray) -> Mapping[str, float]:
        """Seconds of one call's `upload`, `compute` and `download`; {} where nobody can tell.

        `labels`: uint8 [N, H, W], as `render` takes them.
        """
        timed = getattr(self._open_renderer(), "timings", None)
        return timed(stack(labels, self.labels, self.spec.size)) if timed else {}

    def render(self, labels: Labels | Iterable[Labels]) -> np.ndarray:
        """Make the pictures of one or several layouts. Threads take turns.

        Where memory does not reach for all at a time, they are rendered in smaller batches, which
        changes no pixel.

        Args:
            labels: a `LabelMap`, an integer array or tensor [H, W] or [N, H, W] of channels, or
                several [H, W]. Tensors are anything with DLPack: those in the CPU's memory are
                read where they are. What is on a GPU stays there where the renderer takes it;
                else PyTorch's tensors are copied from it, and others refused.

        Returns:
            uint8 RGB [N, K, H, W, 3]: K pictures of each of N layouts.

        Raises:
            BadInput: channels outside the label set, or an array of another type or shape.
            Mismatch: another size or label set than the network's.
            ResourceError: out of memory for a single layout; needed and free are named.
            UsageError: the engine is closed.
        """
        there = getattr(self._open_renderer(), "render_device", None)
        if there and hasattr(labels, "__cuda_array_interface__"):
            ids: Any = labels
            return self._locked(there, ids if ids.ndim == 3 else ids[None])
        try:
            return self._locked(None, stack(labels, self.labels, self.spec.size))
        except MemoryError as error:
            raise shortage(self.device, error) from None

    def stream(self, labels: Iterable[Labels], batch: int = 1) -> Iterator[np.ndarray]:
        """Pictures of layouts as they come: the next are made while the caller uses the last.

        Args:
            labels: layouts [H, W], taken by a thread a few before they are needed; what it raises
                is raised here, in its turn.
            batch: layouts to render at a time.

        Returns:
            an iterator of uint8 RGB [K, H, W, 3], in order. Dropping it ends the work.

        Raises:
            UsageError: the engine is closed, or `batch` is below 1.
            BadInput, Mismatch, ResourceError: as `render`, in the layout's turn.
        """
        from crn_fast.rendering.pipeline import ahead, batches

        renderer = self._open_renderer()
        if batch < 1:
            raise UsageError(f"batch is {batch}; expected 1 or more")
        groups = batches(ahead(labels, batch + 1), batch)
        # Some renderers copy one batch while they work on another.
        overlapping = getattr(renderer, "stream", None)
        if overlapping:
            made = overlapping(stack(group, self.labels, self.spec.size) for group in groups)
        else:
            made = map(self.render, groups)
        pictures = (picture for group in made for picture in group)
        # Such a renderer is this caller's until the stream ends: no other thread may hold it.
        return pictures if overlapping else ahead(pictures, batch)

    def close(self) -> None:
        """Give the memory back, after what is being rendered. Doing so twice is no error."""
        with self._one_at_a_time:
            self._renderer = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _locked(self, render: Callable[[Any], np.ndarray] | None, labels: Any) -> np.ndarray:
        """Render while no other thread does; `render` is the renderer itself where it is None."""
        with self._one_at_a_time:
            renderer = self._open_renderer()
            return render(labels) if render else in_parts(renderer, labels)

    def _open_renderer(self) -> backends.Renderer:
        if self._renderer is None:
            raise UsageError(f"{self.source}: this engine was closed; open it again: Engine.open")
        return self._renderer
