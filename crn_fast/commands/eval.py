"""`crn-fast eval`: how good a network's pictures are, beside a trivial baseline."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, TypeVar

import click

from crn_fast.commands import emit, engine_options, interactive, say
from crn_fast.errors import BadInput, ResourceError, Unavailable, UsageError
from crn_fast.extras import out_of_memory, way_to, why_no_torch
from crn_fast.files import nearest

if TYPE_CHECKING:
    import numpy as np

    from crn_fast.engine import Engine
    from crn_fast.measure.views import Measure

METRICS = {
    "psnr": "",
    "ssim": "",
    "features": "--feature-network",
    "fid": "--fid-network",
    "diversity": "--feature-network",
    "fidelity": "--segmenter",
}
"""Measure -> the option with the network that it needs."""
PLAIN_EVERY = 10.0
"""Seconds between lines of progress where no bar can be drawn."""

EPILOG = """\b
Examples:
  crn-fast eval street-256 camvid --photos val --layouts valannot
  crn-fast eval run/ckpt.pt DATA -c my.toml --feature-network vgg19:vgg19-dcbb9e9d.pth
  crn-fast eval run.crn DATA --metrics fid,fidelity --fid-network inception.pt \\
      --segmenter segmenter.pt --json

Nothing is ever downloaded: networks are files on your disk. A segmenter is trained by
python -m crn_fast.training.segment DATA.
"""

T = TypeVar("T")


@click.command(epilog=EPILOG)
@click.argument("model")
@click.argument("data", metavar="DATA")
@click.option(
    "--metrics",
    metavar="NAME,...",
    help=f"Of {', '.join(METRICS)}. Default: all whose networks are given.",
)
@click.option(
    "-c", "--config", metavar="RECIPE", help="Evaluate this training recipe's validation data."
)
@click.option("--photos", metavar="FOLDER", help="Below DATA. Default: photos.")
@click.option("--layouts", metavar="FOLDER", help="Below DATA. Default: labels.")
@click.option(
    "--feature-network", metavar="KIND:PATH", help="vgg19 or distilled, and its weights file."
)
@click.option("--fid-network", metavar="PATH", help="Weights of Inception-v3 up to mixed_7.")
@click.option("--segmenter", metavar="PATH", help="Checkpoint of crn_fast.training.segment.")
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Only N pairs, evenly spread."
)
@engine_options
@click.option("--json", "as_json", is_flag=True, help="Print everything as a line of JSON.")
def command(
    model: str,
    data: str,
    metrics: str | None,
    config: str | None,
    photos: str | None,
    layouts: str | None,
    feature_network: str | None,
    fid_network: str | None,
    segmenter: str | None,
    limit: int | None,
    backend: str,
    precision: str,
    device: int | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure the pictures that MODEL makes of the layouts in DATA against their photos."""
    given = {
        "--feature-network": feature_network,
        "--fid-network": fid_network,
        "--segmenter": segmenter,
    }
    root = Path(data)
    wanted, left_out = _choose(metrics, given)
    _require_packages(wanted)

    from crn_fast import models
    from crn_fast.commands import eval_pairs
    from crn_fast.engine import Engine
    from crn_fast.measure import report
    from crn_fast.measure.baseline import ClassColors
    from crn_fast.measure.evaluate import evaluate

    engine = Engine.open(
        models.resolve(model), backend=backend, precision=precision, device=device, threads=threads
    )
    source, training = eval_pairs.sources(engine, config, photos, layouts)
    chosen = eval_pairs.spread(eval_pairs.members(root, source, engine), limit)
    if "fid" in wanted and len(chosen) < 2:
        if metrics:
            raise BadInput(f"{root}: fid needs at least 2 pairs, found {len(chosen)}")
        wanted.remove("fid")
        left_out["fid"] = f"it needs at least 2 pairs, found {len(chosen)}"
    networks, measures = _measures(wanted, given, engine, device)
    say(f"model {engine.source}, backend {engine.backend}, {engine.precision} on {engine.device}")
    for name, reason in left_out.items():
        say(f"{name} left out: {reason}")

    try:
        colored, colors_from = eval_pairs.color_members(root, training, engine, chosen)
        colors = ClassColors(engine.labels.classes)
        for pair in _watch(map(eval_pairs.read, colored), len(colored), "class colours"):
            colors.add(pair.photo, pair.labels)
        judged = evaluate(engine, map(eval_pairs.read, chosen), colors.colors(), measures)
        each = list(_watch(judged, len(chosen), "evaluate"))
        rows = [row for measure in measures for row in measure.rows()]
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        height, width = engine.spec.size
        raise ResourceError(
            f"out of memory while measuring pictures of {height}x{width} "
            f"({str(error) or type(error).__name__}); leave measures out with --metrics"
        ) from None
    notes = [note for measure in measures for note in measure.notes()]
    notes.append(f"trivial baseline: the mean colour of each class, of {colors_from}")

    if as_json:
        facts = {
            "model": engine.source,
            "model sha256": _sha256(Path(engine.source)),
            "backend": engine.backend,
            "precision": engine.precision,
            "device": engine.device,
            "size": list(engine.spec.size),
            "label set": engine.labels.name,
            "data": str(root),
            "photos": source.photos,
            "layouts": source.labels,
            "pairs": len(chosen),
            "pictures": len(chosen) * engine.spec.images,
            "networks": networks,
            "measures": [vars(row) for row in rows],
            "left out": left_out,
            "notes": notes,
            "each": each,
        }
        emit(report.plain(facts))
    else:
        from rich.console import Console

        title = f"{engine.source}: {len(chosen)} pairs of {root / source.photos}"
        Console().print(report.table(rows, title))
        for note in notes:
            emit(note)
    if Path(engine.source).suffix != ".crn":
        say(f"next: crn-fast build-engine {quote(engine.source)}")


def _choose(metrics: str | None, given: dict[str, str | None]) -> tuple[list[str], dict[str, str]]:
    """The measures to take, and why others are left out.

    Raises:
        UsageError: an unknown measure, or one whose network is not given.
    """
    names = [name.strip() for name in metrics.split(",")] if metrics else list(METRICS)
    if unknown := [name for name in names if name not in METRICS]:
        error = UsageError(f"--metrics {unknown[0]}: unknown; there are {', '.join(METRICS)}")
        raise error.instead_of(unknown[0], *nearest(unknown[0], METRICS))
    left_out = {
        name: f"it needs {METRICS[name]}"
        for name in names
        if METRICS[name] and not given[METRICS[name]]
    }
    if metrics and left_out:
        name = next(iter(left_out))
        raise UsageError(f"--metrics {name}: needs a network; add {METRICS[name]}")
    return [name for name in dict.fromkeys(names) if name not in left_out], left_out


def _require_packages(wanted: Sequence[str]) -> None:
    if reason := why_no_torch():
        raise Unavailable(f"eval needs torch; {reason}")
    if {"psnr", "ssim"} & set(wanted):
        try:
            import torchmetrics  # noqa: F401
        except ImportError:
            raise Unavailable(
                f"psnr and ssim need torchmetrics: {way_to('train')}; or choose others with "
                "--metrics"
            ) from None


def _measures(
    wanted: Sequence[str], given: dict[str, str | None], engine: Engine, device: int | None
) -> tuple[dict[str, Any], list[Measure]]:
    """What identifies each network, and the measures ready to begin.

    Raises:
        UsageError: a feature network that is not KIND:PATH.
        BadInput, Mismatch: a network's file cannot be used.
    """
    import torch

    from crn_fast.measure import inception
    from crn_fast.measure.features import Features
    from crn_fast.measure.fidelity import LayoutFidelity
    from crn_fast.measure.frechet import FrechetDistance
    from crn_fast.measure.similarity import Similarity
    from crn_fast.training import features, segmenter

    where = f"cuda:{device or 0}" if torch.cuda.is_available() else "cpu"
    networks: dict[str, Any] = {}
    measures: list[Measure] = []
    if "psnr" in wanted:
        measures.append(Similarity("psnr"))
    if "ssim" in wanted:
        measures.append(Similarity("ssim"))
    if {"features", "diversity"} & set(wanted):
        kind, _, path = (given["--feature-network"] or "").partition(":")
        if not path or kind not in ("vgg19", "distilled"):
            raise UsageError(
                f"--feature-network {given['--feature-network']}: expected KIND:PATH with KIND "
                "vgg19 or distilled, as in vgg19:vgg19-dcbb9e9d.pth"
            )
        extractor = features.load(kind, path).to(where)
        networks["features"] = {"kind": kind, **_file(path)}
        layers = ("input", *extractor.layers)
        distance, diversity = "features" in wanted, "diversity" in wanted
        measures.append(
            Features(extractor, layers, distance=distance, diversity=diversity, device=where)
        )
    if "fid" in wanted:
        path = given["--fid-network"] or ""
        network = inception.load(path, where)
        networks["fid"] = {"kind": inception.DESCRIPTION, **_file(path)}
        measures.append(FrechetDistance(network, network.dimension, inception.DESCRIPTION))
    if "fidelity" in wanted:
        path = given["--segmenter"] or ""
        judge = segmenter.load(path, engine.labels).to(where)
        networks["fidelity"] = {"kind": segmenter.KIND, **_file(path)}

        def segment(rgb: np.ndarray) -> np.ndarray:
            return judge.segment(torch.tensor(rgb, device=where)).cpu().numpy()

        measures.append(LayoutFidelity(segment, engine.labels))
    return networks, measures


def _file(path: str) -> dict[str, str]:
    return {"path": path, "sha256": _sha256(Path(path))}


def _sha256(path: Path) -> str:
    path = path / "ckpt.pt" if path.is_dir() else path
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _watch(items: Iterator[T], total: int, what: str) -> Iterator[T]:
    """The same items, with progress on stderr: a bar on a terminal, else a line now and then."""
    if interactive() and not click.get_current_context().find_root().params.get("quiet"):
        from rich.console import Console
        from rich.progress import track

        yield from track(items, what, total, console=Console(stderr=True), transient=True)
        return
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        if time.monotonic() - last > PLAIN_EVERY:
            last = time.monotonic()
            say(f"{what}: {done} of {total}")
        yield item
