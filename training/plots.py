"""The learning curve of a run as a picture."""

from __future__ import annotations

import json
from pathlib import Path

from crn_fast.files import write_whole


def loss_curve(run: Path) -> Path:
    """Draw RUN/metrics.jsonl into RUN/loss.png: the loss above, its unweighted terms below.

    Thin lines are what was logged, of one batch each; thick ones a running mean of a fiftieth of
    the run. Terms are shown as shares of their first mean, so that all fit one axis.

    Returns:
        The picture's path.
    """
    import matplotlib
    import numpy as np

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with (run / "metrics.jsonl").open() as stream:
        lines = [json.loads(line) for line in stream]
    steps = np.array([line["step"] for line in lines])
    width = max(1, len(lines) // 50)

    def smooth(values: np.ndarray) -> np.ndarray:
        means = np.convolve(values, np.ones(width), "valid") / width
        return np.concatenate([np.full(width - 1, np.nan), means])

    figure, (above, below) = pyplot.subplots(2, sharex=True, figsize=(8, 6), layout="constrained")
    loss = np.array([line["loss"] for line in lines])
    above.plot(steps, loss, color="tab:gray", linewidth=0.5)
    above.plot(steps, smooth(loss), color="black")
    above.set(ylabel="loss (weighted sum)", yscale="log", title=str(run.resolve().name))
    for name in lines[-1]["terms"]:
        term = np.array([line["terms"][name] for line in lines])
        below.plot(steps, smooth(term) / term[:width].mean(), label=name)
    below.set(xlabel="step", ylabel="terms / their first mean", ylim=(0, None))
    below.legend(ncols=3, fontsize="small")
    path = run / "loss.png"
    write_whole(path, lambda stream: figure.savefig(stream, format="png", dpi=120))
    pyplot.close(figure)
    return path
