"""How figures and subjects are worded: durations, ratios, names, Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from crn_fast.measure.timer import Spread
from history import OURS

NAMES = {
    "eager": "PyTorch, eager",
    "channels_last": "PyTorch, channels last",
    "compiled": "torch.compile",
    "compiled_max": "torch.compile, max-autotune",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "reference": "ours: `eager`",
    **{name: f"ours: `{name}`" for name in OURS},
}
"""Subjects, as people know them."""


def name_of(subject: str) -> str:
    known, _, rest = subject.partition(" ")
    if known not in NAMES:
        return subject
    return NAMES[known] + (f", {rest}" if rest else "")


def duration(seconds: float) -> str:
    """3.09 s, 364 ms, 505 µs."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{_three(seconds / size)} {unit}"
    return f"{_three(seconds * 1e6)} µs"


def durations(times: Spread) -> str:
    """The percentiles, in the unit of the median where it does not differ."""
    low, high = duration(times.p10), duration(times.p90)
    if low.split()[1] == high.split()[1]:
        low = low.split()[0]
    return f"{low} to {high}"


def spread(ratio: Spread | None) -> str:
    if ratio is None:
        return ""
    return f"{_three(ratio.median)} ({_three(ratio.p10)} to {_three(ratio.p90)})"


def rate(value: float) -> str:
    """Two digits, or all before the point."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _three(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f}" if value >= 1 else f"{value:.3g}"


def short(text: str) -> str:
    """Without the folders of absolute paths, and in one line that no table breaks at."""
    words = (word.rpartition("/")[2] if word.startswith("/") else word for word in text.split())
    return " ".join(words).replace("|", "/").rstrip(".")


def markdown(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table; columns of figures are set right."""
    lines = [list(line) for line in body]
    rules = [
        "---:" if all(_figure(line[at]) for line in lines) else "---" for at in range(len(head))
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rules, *lines))


def _figure(cell: str) -> bool:
    return (
        not cell or cell.lstrip("~-")[:1].isdigit() or cell in ("not measured", "wrong, so no time")
    )
