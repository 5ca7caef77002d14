"""The learning curves of the packaged models and of the comparison, drawn from their logs.

    python benchmarks/learning_curves.py benchmarks/results docs/learning-curves.png

What is drawn are the unweighted terms, as calibration changes the weights: the mean of the feature
layers' terms, and the input's. Points are single batches; lines a running mean of a fifth of a
pass.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot

Rows = list[dict[str, Any]]


def runs(path: Path) -> Iterator[tuple[str, Rows]]:
    """The passes of a log, in order; the first line says where it ran."""
    lines = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    for name, rows in groupby(lines, lambda line: str(line["pass"])):
        yield name, list(rows)


def features(row: dict[str, Any]) -> float:
    return float(np.mean(row["terms"][1:6])) if len(row["terms"]) == 6 else np.nan


def colours(row: dict[str, Any]) -> float:
    return float(row["terms"][0])


def draw(
    axes: Any, rows: Rows, seen: int, term: Callable[[dict[str, Any]], float], **style: Any
) -> int:
    """One pass, after `seen` images; the number of images seen at its end."""
    images = np.array([seen + row["step"] * row["batch"] for row in rows])
    values = np.array([term(row) for row in rows])
    width = max(1, len(rows) // 5)
    (line,) = axes.plot(
        np.convolve(images, np.ones(width) / width, "valid"),
        np.convolve(values, np.ones(width) / width, "valid"),
        **style,
    )
    axes.plot(images, values, ".", markersize=1.5, alpha=0.3, color=line.get_color())
    return int(images[-1])


def main(results: Path, out: Path) -> None:
    columns = {
        "packaged models": ("street-1024", "street-256"),
        "street-256-diverse (best of 4)": ("street-256-diverse",),
        "comparison at 96x192": ("comparison",),
    }
    figure, axes = pyplot.subplots(2, len(columns), figsize=(13, 6.5), layout="constrained")
    for (above, below), (title, names) in zip(axes.T, columns.items(), strict=True):
        for name in names:
            seen = 0
            for kind, rows in runs(results / f"train-{name}.jsonl"):
                label = kind if len(names) == 1 else f"{name}, {kind}"
                draw(below, rows, seen, colours, label=label)
                end = draw(above, rows, seen, features, label=label)
                seen = 0 if name == "comparison" else end
        for cell in (above, below):
            cell.locator_params(axis="x", nbins=5)
        above.set(title=title)
        above.legend(fontsize="small")
        below.set(xlabel="images seen")
    axes[0, 0].set(ylabel="features: mean of relu1_1 ... relu5_1")
    axes[1, 0].set(ylabel="input: colours, 0..255")
    figure.savefig(out, dpi=80)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
