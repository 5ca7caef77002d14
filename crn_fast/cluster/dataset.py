"""Rendering as a Ray Data pipeline: units of layouts -> actors with an engine each -> a manifest.

Ray moves the names of layouts out and the lines of the manifest back, starts actors again that die,
and gives their units to them once more. Layouts and pictures go between files and actors.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crn_fast import checkpoint, engine, models, trust
from crn_fast.baselines.spec import BaselineSpec
from crn_fast.cluster import sources
from crn_fast.cluster.options import Options
from crn_fast.cluster.sinks import STAGING, To
from crn_fast.cluster.sources import FolderUnit, Unit
from crn_fast.cluster.wire import Result, read_result, write_unit
from crn_fast.cluster.worker import Plan, Renderer
from crn_fast.errors import Mismatch, ResourceError, Unavailable, UsageError
from crn_fast.extras import way_to
from crn_fast.files import make_folder
from crn_fast.rendering import tree
from crn_fast.rendering.manifest import Entry, Manifest
from crn_fast.spec import CascadeSpec

CHUNK = 32
"""Layouts of a folder in a unit: what is done again if a worker dies."""
MANIFEST = "manifest.jsonl"


@dataclass
class Counts:
    """Layouts by what became of them."""

    rendered: int = 0
    skipped: int = 0
    failed: int = 0


def render(
    source: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    model: str | Path,
    how: Options | None = None,
    to: To = "folder",
    id_column: str = "id",
    layout_column: str | None = None,
    actors: int | None = None,
    cpus_per_actor: int | None = None,
    gpus_per_actor: float | None = None,
    address: str | None = None,
    chunk: int = CHUNK,
    skip_existing: bool = False,
    overwrite: bool = False,
    keep_going: bool = False,
    report: Callable[[Counts, Sequence[Entry]], None] | None = None,
) -> Counts:
    """Render layouts on the machines of a Ray cluster.

    Every machine sees `source`, `out` and `model` under the same paths, and has crn_fast.

    Args:
        source: a folder of PNG layouts, of Parquet files or of WebDataset tars; a pattern; files.
        out: the folder of pictures; `manifest.jsonl` in it has a line for each layout, in order.
        model: checkpoint, engine, or a packaged model's name.
        how: what decides the pictures.
        to: a file for each picture, or a Parquet file or tar for each row group, tar or `chunk`.
        id_column: of Parquet files: names the pictures.
        layout_column: of Parquet files (default 'layout'), or what a layout's name in a tar ends in
            (default 'png'): PNG files, or ids of one byte of the network's size.
        actors: engines that run at a time; None for as many as the cluster has room for.
        cpus_per_actor: CPUs of each, and threads; None for 4, or what the smallest machine has.
        gpus_per_actor: GPUs of each; None for 1 if there are any and the backend may use them.
        address: of the cluster, 'auto' for the one that this machine belongs to; None for
            $RAY_ADDRESS, else a new one on this machine alone that ends with the call. A Ray that
            this process has connected to is used as it is.
        chunk: layouts of a folder that are given to an actor at a time.
        skip_existing: leave out what a manifest in `out` says is done, if it is.
        overwrite: replace pictures that exist.
        keep_going: go on after a layout that cannot be rendered.
        report: called with the counts so far and new lines of the manifest.

    Returns:
        The counts; with `keep_going`, `failed` may be above 0.

    Raises:
        Unavailable: Ray is not installed or does not answer, or the backend cannot run there.
        BadInput, Mismatch: a layout or the model, as `crn-fast render`; or machines that would
            make different pictures.
        UsageError: options that do not go together, pictures that exist, or an id that names
            several layouts' pictures.
        ResourceError: no room for an actor, the disk is full, or workers died over a unit.
    """
    ray = _ray()
    out, path = Path(out).absolute(), models.resolve(str(model)).absolute()
    how = (how or Options()).absolute()
    given = [source] if isinstance(source, str | Path) else source
    layouts = [os.path.abspath(item) for item in given]
    _check_folder(out, skip_existing, overwrite)
    units = sources.find(
        layouts, out, id_column=id_column, layout_column=layout_column, chunk=chunk
    )
    if to == "folder":
        _check_distinct(units, out, how, path)

    make_folder(out)
    with _connected(ray, address), _staging(out):
        size, cpus, gpus = _shares(ray, how, actors, cpus_per_actor, gpus_per_actor)
        plan = Plan(
            *(path, how, out, to, cpus),
            skip_existing=skip_existing,
            keep_going=keep_going,
            vouched=trust.vouched(),
        )
        counts = Counts()
        with (
            Manifest(out / MANIFEST) as manifest,
            closing(_results(ray, plan, units, min(size, len(units)), cpus, gpus)) as results,
        ):
            settings: dict[str, Entry] = {}
            owners: dict[str, str] = {}
            for result in results:
                for entry in result.entries:
                    manifest.add(entry)
                    counts.rendered += entry.status == "done"
                    counts.failed += entry.status == "failed"
                    settings.setdefault(entry.settings, entry)
                counts.skipped += result.skipped
                if report:
                    report(counts, result.entries)
                if result.error is not None:
                    raise result.error
                _check_owners(owners, result)
                _check_alike(list(settings.values()))
    return counts


def _ray() -> Any:
    """Ray, told to keep to itself.

    Raises:
        Unavailable: not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # It warns of Ray Data's own actors.
    try:
        import ray
        import ray.data

        return ray
    except ImportError as error:
        reason = str(error).splitlines()[0]
        raise Unavailable(f"Ray Data cannot be imported ({reason}): {way_to('cluster')}") from None


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    own = {"include_dashboard": False, "object_store_memory": 256 << 20}
    try:
        ray.init(
            address, log_to_driver=False, logging_level="ERROR", **own if address == "local" else {}
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise Unavailable(f"--address {address}: no Ray cluster ({reason})") from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _staging(out: Path) -> Iterator[None]:
    """The folder for what is not whole yet; what a run that was killed left in it goes, too."""
    folder = out / STAGING
    if folder.is_symlink():
        raise ResourceError(f"{folder}: is a link; remove it, or name another -o")
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _shares(
    ray: Any, how: Options, actors: int | None, cpus: int | None, gpus: float | None
) -> tuple[int, int, float]:
    """How many actors, and the CPUs and GPUs of each."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    machines = [machine for machine in machines if machine.get("CPU")]
    if gpus is None:
        gpus = float(how.backend != "native" and any(machine.get("GPU") for machine in machines))
    if gpus:
        machines = [machine for machine in machines if machine.get("GPU")]
    if cpus is None:
        cpus = int(min([4.0, *(machine["CPU"] for machine in machines)]))
    room = sum(
        int(min(machine["CPU"] // cpus, machine.get("GPU", 0) // gpus if gpus else float("inf")))
        for machine in machines
    )
    if actors is None and not room:
        raise ResourceError(
            f"no machine of the cluster has {cpus} CPUs and {gpus:g} GPUs for an engine; give "
            "--cpus-per-actor or --gpus-per-actor less, or --actors to wait for machines"
        )
    return actors or room, cpus, gpus


def _results(
    ray: Any, plan: Plan, units: Sequence[Unit], actors: int, cpus: int, gpus: float
) -> Generator[Result, None, None]:
    """The units' results, in their order, each once."""
    rows = [{"unit": write_unit(number, unit)} for number, unit in enumerate(units)]
    data = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Renderer,
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2),
        fn_constructor_args=(plan,),
        num_cpus=cpus,
        num_gpus=gpus or None,
    )
    data.context.enable_progress_bars = False
    data.context.execution_options.preserve_order = True
    try:
        for row in data.iter_rows():
            yield read_result(str(row["result"]))
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())[-300:]
        raise Unavailable(f"Ray: the workers cannot start or be reached: {reason}") from error


def _check_folder(out: Path, skip_existing: bool, overwrite: bool) -> None:
    if skip_existing and overwrite:
        raise UsageError("--skip-existing or --overwrite: give one of them")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file; name a folder for the pictures")
    if out.is_dir() and any(out.iterdir()) and not (skip_existing or overwrite):
        raise UsageError(
            f"{out}: holds something already; add --skip-existing to go on where a run ended, "
            "--overwrite to render all again, or name another -o"
        )


def _check_distinct(units: Sequence[Unit], out: Path, how: Options, model: Path) -> None:
    """Check, for a folder of layouts, that no picture replaces a layout or another picture."""
    files = [file for unit in units if isinstance(unit, FolderUnit) for file in unit.files]
    if files:
        count = how.count(_spec(model).images)
        names = ((path, tree.picture_names(name, how.ending, count)) for path, name in files)
        tree.check_distinct(names, out)


def _check_owners(owners: dict[str, str], result: Result) -> None:
    """Check that no picture replaced another: ids in files are known only when they are read."""
    for path, layout in result.owners:
        if (other := owners.setdefault(path, layout)) != layout:
            raise UsageError(
                f"{other} and {layout}: both give {path}; ids must differ over all files"
            )


def _spec(model: Path) -> CascadeSpec | BaselineSpec:
    if model.suffix == ".crn":
        return engine.read_file(model)[0].spec
    return checkpoint.load(model).spec


def _check_alike(seen: Sequence[Entry]) -> None:
    if len(seen) > 1:
        one, other = seen[:2]
        raise Mismatch(
            f"machines render differently: {one.input} with {one.backend} {one.precision}, "
            f"{other.input} with {other.backend} {other.precision}: name --backend and --precision"
        )
