"""A run's data, checked before its first step: every fault at once, a line for each."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from crn_fast.errors import BadInput, CrnError
from crn_fast.kernels.cpu.threads import usable_cpus
from crn_fast.palette import LabelSet
from crn_fast.training import samples
from crn_fast.training.data import Pair, match, read_pair, window_size
from crn_fast.training.distributed import Processes
from crn_fast.training.recipe import Recipe


class FaultyData(BadInput):
    """Some of the data cannot be trained on.

    `table` holds a line for each fault, its file first; empty in all processes but the first.
    """

    def __init__(self, message: str, table: list[str]) -> None:
        super().__init__(message)
        self.table = table


def check(
    root: Path, recipe: Recipe, labels: LabelSet, smallest: int, processes: Processes
) -> None:
    """Read every pair once, each process its part, and those that sample pictures come from.

    Args:
        root: the data's folder.
        recipe: which files, and how large the network's pictures are.
        labels: the label set of the layouts.
        smallest: side in pixels below which the loss cannot compare a photo.
        processes: those that train together; the answer is the same in all.

    Raises:
        FaultyData: files without partner, that cannot be read or are too small, layouts of another
            size than their photo or with ids outside the label set.
    """
    found: list[str] = []
    trained: list[Pair] = []
    shown: list[Pair] = []
    for source in (*recipe.data, *filter(None, [recipe.validation])):
        try:
            pairs, alone = match(root, source)
        except CrnError as error:
            found.append(str(error))
            continue
        found += [f"{path}: has no partner of the same name" for path in alone]
        if source is recipe.validation:
            shown = samples.choose(pairs)
        else:
            trained += pairs
    mine = [(p, smallest) for p in trained] + [(p, 0) for p in shown]
    mine = mine[processes.rank :: processes.size]

    def fault(pair: Pair, least: int) -> str | None:
        try:
            photo, _ = read_pair(pair, labels)
        except CrnError as error:
            return str(error)
        return _too_small(pair, photo.shape[:2], recipe.network.size, least)

    with ThreadPoolExecutor(usable_cpus()) as pool:
        lines = [line for line in pool.map(lambda item: fault(*item), mine) if line]
    found += sorted({line for part in processes.gather(lines) for line in part})
    if found:
        what = f": {found[0]}"
        if len(found) > 1:
            what = f", see the table of faults (lines: {len(found)}); mend or remove these files"
        raise FaultyData(f"{root}: cannot be trained on{what}", found if processes.first else [])


def _too_small(
    pair: Pair, photo: tuple[int, ...], picture: tuple[int, int], least: int
) -> str | None:
    window = window_size((photo[0], photo[1]), picture, pair.source.zoom[0])
    height, width = (min(sides) for sides in zip(window, picture, strict=True))
    if min(height, width) >= least:
        return None
    return (
        f"{pair.photo}: is {photo[0]}x{photo[1]}, of which as little as {height}x{width} is "
        f"compared, but the loss needs {least} pixels each way: take larger photos, raise their "
        "source's zoom, or the network's size"
    )
