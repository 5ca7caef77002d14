"""The page docs/reliability.md: what is promised, and what the newest long run found."""

from __future__ import annotations

from hostile.campaign import Outcome

PAGE = "docs/reliability.md"
ROWS = "docs/reliability.jsonl"

PROMISES = {
    "P1": "A hostile layout never crashes or hangs: it is rendered or refused with exit code 3.",
    "P2": "A damaged layout file is never rendered as another one: every flipped bit is noticed.",
    "P3": "Bombs are refused from the header, in at most 50 ms and 16 MB.",
    "P4": "Wrong labels are found before a device sees them, named with value and first pixel.",
    "P5": "Reading a file executes nothing.",
    "P6": "Every corruption of a checkpoint or engine is noticed, and the tensor named.",
    "P7": "An engine that is code reaches no driver unless you built it or vouched for it.",
    "P8": "What does not fit together is explained: both sides, and the command that mends it.",
    "P9": "kill -9 loses at most one save interval of training; the resumed run ends the same.",
    "P10": "A damaged newest checkpoint costs one save: the one before is used, with a warning.",
    "P11": "SIGTERM saves and exits 75, within 30 seconds.",
    "P12": "Full disk, no permission, failing device: old files stay as they are, exit code 5.",
    "P13": "Running out of memory never changes a pixel silently.",
    "P14": "No silent fallback: a backend that you name runs, or the command ends with code 8.",
    "P15": "The server survives its network: no crossed, lost or doubled answers, no other 5xx "
    "than 503 and 504.",
    "P16": "The server's memory, descriptors and threads stay flat.",
    "P17": "The server does not trust localhost: Host, Origin and token are checked.",
    "P18": "No name of a file leads out of the folder that you named.",
    "P19": "Rendering is deterministic: one hash a backend, whatever the threads and the batch.",
    "P20": "The native code is memory-safe, and free of races.",
    "P21": "40 mistakes that people make each get the right exit code and a hint that works.",
}
"""By number; what SECURITY.md and the page say is promised."""

OPENING = """# Reliability

What crn_fast promises, and what came of trying to break it. `make soak` tries every case below,
in about an hour, with a fresh seed, and writes this page; `make test` tries some of them with
every commit. A *control* is the same campaign against a defect that was planted: it must find it.
What is trusted and what is not is told in [SECURITY.md](security.md).
"""


def page(outcomes: list[Outcome]) -> str:
    """The page, in Markdown."""
    parts = [OPENING]
    for promise, text in PROMISES.items():
        parts.append(f"## {promise}\n\n{text}\n")
        found = [outcome for outcome in outcomes if outcome.promise == promise]
        parts.append(_table(found) if found else "Not tried yet.\n")
    total = [outcome for outcome in outcomes if not outcome.control]
    cases, failures = sum(one.cases for one in total), sum(one.failures for one in total)
    minutes = sum(outcome.seconds for outcome in outcomes) / 60
    machines = sorted({outcome.machine for outcome in outcomes})
    parts.append(
        f"## In all\n\n{cases:,} cases of {len(total)} campaigns, {failures} failures; with the "
        f"controls {minutes:.0f} minutes on {', '.join(machines) or 'no machine'}. Nothing of it "
        "has run on a GPU: kernels and drivers are played by stand-ins there.\n"
    )
    return "\n".join(parts)


def _table(found: list[Outcome]) -> str:
    rows = [
        "| campaign | cases | failures | time | seed | when | |",
        "| --- | ---: | ---: | ---: | --- | --- | --- |",
    ]
    for outcome in found:
        name = f"control: {outcome.name}" if outcome.control else outcome.name
        noticed = f"{outcome.failures:,} noticed" if outcome.control else f"{outcome.failures:,}"
        figures = ", ".join(f"{key} {value}" for key, value in outcome.figures.items())
        rows.append(
            f"| {name} | {outcome.cases:,} | {noticed} | {outcome.seconds:.1f} s | {outcome.seed} "
            f"| {outcome.when[:10]} | {figures} |"
        )
    return "\n".join(rows) + "\n"
