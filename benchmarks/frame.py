"""Suite `frame`: a whole picture, ours and the peers by turns, each in a process of its own.

From labels in memory to a picture in memory. Each process also says what memory it took.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import peers
from crn_fast.errors import CrnError
from crn_fast.measure import ceilings, pairs, rows
from crn_fast.measure.ceilings import Ceilings
from crn_fast.measure.child import Child
from crn_fast.measure.machine import Contention
from crn_fast.measure.rows import Origin, Row
from inputs import Inputs

LIMIT = 1.0
"""Grey levels before rounding that a picture may be off: the promise of the backend native."""
PAUSE = 0.2
"""Seconds between two subjects, in which a library's threads stop spinning."""
OURS = "native"


def case_of(inputs: Inputs, threads: int) -> dict[str, str | int | float]:
    height, width = inputs.spec.size
    size = {"height": height, "width": width}
    return {"network": inputs.network, **size, "batch": 1, "threads": threads, "precision": "fp32"}


def compare(
    inputs: Inputs,
    names: Sequence[str],
    threads: int,
    rounds: int,
    origin: Origin,
    told: Callable[[str], object],
) -> list[Row]:
    """Rows of ours and of each peer: measured, or why not.

    Raises:
        CrnError: ours cannot be measured.
    """
    case, found = case_of(inputs, threads), []
    limits = ceilings.measure(threads)
    with ExitStack() as stack:
        children = [stack.enter_context(child(inputs, OURS, threads))]
        for name in names:
            told(f"{name}: loading, and through the gate")
            try:
                children.append(stack.enter_context(child(inputs, name, threads)))
            except CrnError as error:
                found.append(Row("frame", case, name, "", origin, reason=str(error)))
        contention = Contention()
        timings, failures = pairs.interleave(children, rounds, 0, PAUSE, told)
        waited = contention.share()
        found += [
            Row("frame", case, name, "", origin, reason=reason) for name, reason in failures.items()
        ]
        memory = {each.name: each.memory for each in children}
    for name, timing in timings.items():
        ratios = {
            other: pairs.ratio(peer, timing) for other, peer in timings.items() if other != name
        }
        figures = shares(limits, inputs.spec.flops() / timing.spread.median / 1e9)
        found.append(
            rows.measured(
                *("frame", case, timing, origin),
                operations=inputs.spec.flops(),
                ratios=ratios,
                memory=memory[name],
                contention=waited,
                **figures,
            )
        )
    return found


def scale(
    inputs: Inputs,
    threads: Sequence[int],
    rounds: int,
    origin: Origin,
    told: Callable[[str], object],
) -> list[Row]:
    """Suite `threads`: rows of ours with each number of threads, by turns."""
    with ExitStack() as stack:
        children = []
        for count in threads:
            each = stack.enter_context(child(inputs, OURS, count))
            each.name = f"{OURS} {count}"
            children.append(each)
        contention = Contention()
        timings, failures = pairs.interleave(children, rounds, 0, PAUSE, told)
        waited = contention.share()
    found = []
    for count in threads:
        case, name = case_of(inputs, count), f"{OURS} {count}"
        if name in failures:
            found.append(Row("threads", case, OURS, "", origin, reason=failures[name]))
            continue
        one = f"{OURS} {threads[0]}"
        ratios = {one: pairs.ratio(timings[one], timings[name])} if one in timings else {}
        operations = inputs.spec.flops()
        made = rows.measured(
            *("threads", case, timings[name], origin),
            operations=operations,
            ratios=ratios,
            contention=waited,
        )
        found.append(dataclasses.replace(made, subject=OURS))
    return found


def child(inputs: Inputs, name: str, threads: int) -> Child:
    """A process with ours or a peer, ready and through the gate; raises as `Child`."""
    ours = name == OURS
    peer = peers.native if ours else peers.PEERS[name]
    model = inputs.engine if ours else inputs.model
    return Child(
        partial(peer, model, inputs.labels, threads),
        inputs.expected,
        LIMIT,
        inputs.against,
        weights=inputs.engine if ours else None,
        environment={**ceilings.environment_of(threads), **peers.ENVIRONMENT},
    )


def shares(limits: Ceilings, gflops: float) -> dict[str, Any]:
    """The fields of a row that say how near it comes to the measured ceilings."""
    return {
        "ceilings": {**limits.products, "copy": limits.copy},
        "shares": {"effective": gflops / limits.product},
    }
