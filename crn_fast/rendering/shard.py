"""One machine's part of a list of layouts: `I/N`, or what a cluster's scheduler says.

`auto` reads, in this order:

- Slurm's job arrays: SLURM_ARRAY_TASK_ID, _MIN, _STEP, _COUNT (`--array=0-7`, `1-8` or `0-30:5`);
- Kubernetes' indexed Jobs: JOB_COMPLETION_INDEX, and CRN_FAST_SHARDS for the number of completions,
  which Kubernetes does not tell.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from crn_fast.errors import UsageError

A = TypeVar("A")


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, from 1."""

    index: int = 1
    count: int = 1

    def of(self, items: Sequence[A]) -> Sequence[A]:
        """Every `count`th item: over all shards each item once, whatever their order of work."""
        return items[self.index - 1 :: self.count]

    @property
    def manifest(self) -> str:
        """Name of its manifest: shards on one file system do not write to one file."""
        return (
            "manifest.jsonl" if self.count == 1 else f"manifest.{self.index}-of-{self.count}.jsonl"
        )


def parse(text: str | None, environment: Mapping[str, str] = os.environ) -> Shard:
    """Read 'I/N' with I in 1..N, 'auto', or None for all.

    Raises:
        UsageError: anything else, or 'auto' where no scheduler speaks or what it says is not clear.
    """
    if text is None:
        return Shard()
    if text == "auto":
        return _from(environment)
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UsageError(f"--shard {text!r}: expected I/N with I from 1 to N, as in 1/4, or auto")
    return Shard(int(index), int(count))


def _from(environment: Mapping[str, str]) -> Shard:
    if "SLURM_ARRAY_TASK_ID" in environment:
        index = _number(environment, "SLURM_ARRAY_TASK_ID")
        least = _number(environment, "SLURM_ARRAY_TASK_MIN", "0")
        step = _number(environment, "SLURM_ARRAY_TASK_STEP", "1") or 1
        count = _number(environment, "SLURM_ARRAY_TASK_COUNT")
        shard, rest = divmod(index - least, step)
        if rest or not 0 <= shard < count:
            raise UsageError(
                f"--shard auto: SLURM_ARRAY_TASK_ID is {index} of {count} tasks from {least} by "
                f"{step}; give --array a range without gaps, as in 1-{count}"
            )
        return Shard(shard + 1, count)
    if "JOB_COMPLETION_INDEX" in environment:
        index = _number(environment, "JOB_COMPLETION_INDEX")
        count = _number(environment, "CRN_FAST_SHARDS")
        if not index < count:
            raise UsageError(
                f"--shard auto: JOB_COMPLETION_INDEX is {index}, and CRN_FAST_SHARDS only {count}; "
                "set it to the Job's completions"
            )
        return Shard(index + 1, count)
    raise UsageError(
        "--shard auto: found neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX; give I/N"
    )


def _number(environment: Mapping[str, str], name: str, default: str = "") -> int:
    found = environment.get(name, default)
    if not found.isdecimal():
        raise UsageError(f"--shard auto: {name} is {found!r}; expected a number")
    return int(found)
