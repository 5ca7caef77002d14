"""What the plots share: colours, marks and the wording of labels."""

from __future__ import annotations

import wording
from crn_fast.measure.rows import Row

BLUE, ORANGE, GREEN, PURPLE, SKY, RED, YELLOW = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442"),
)
"""Okabe and Ito's colours, which the colour-blind can tell apart."""
GREY = "#666666"
DARK = (BLUE, GREEN, RED, GREY)
"""On which letters are white."""
COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY)
MARKERS = "osD^vPX"


def label_of(subject: str) -> str:
    return wording.name_of(subject).replace("`", "")


def size_of(row: Row) -> str:
    return f"{row.case['height']}x{row.case['width']}"


def conditions_of(row: Row) -> str:
    machine = row.origin.machine
    return f"{machine.gpu or machine.cpu}, {row.case.get('threads')} threads"
