"""Shards: every layout in exactly one, whoever counts."""

from __future__ import annotations

import pytest

from crn_fast.errors import UsageError
from crn_fast.rendering import shard
from crn_fast.rendering.shard import Shard


@pytest.mark.parametrize("items", [0, 1, 2, 7, 100])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_shards_partition(items: int, count: int) -> None:
    parts = [Shard(i, count).of(range(items)) for i in range(1, count + 1)]
    assert sorted(item for part in parts for item in part) == list(range(items))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_manifests_have_names_of_their_own() -> None:
    assert Shard().manifest == "manifest.jsonl"
    assert {Shard(i, 3).manifest for i in (1, 2, 3)} == {
        "manifest.1-of-3.jsonl", "manifest.2-of-3.jsonl", "manifest.3-of-3.jsonl"
    }  # fmt: skip


def slurm(**numbers: object) -> dict[str, str]:
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in numbers.items()}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (slurm(ID=0, MIN=0, STEP=1, COUNT=4), Shard(1, 4)),
        (slurm(ID=4, MIN=1, STEP=1, COUNT=4), Shard(4, 4)),
        (slurm(ID=10, MIN=0, STEP=5, COUNT=4), Shard(3, 4)),
        ({"JOB_COMPLETION_INDEX": "2", "CRN_FAST_SHARDS": "3"}, Shard(3, 3)),
    ],
)
def test_schedulers_are_understood(environment: dict[str, str], expected: Shard) -> None:
    assert shard.parse("auto", environment) == expected


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({}, "neither SLURM_ARRAY_TASK_ID nor"),
        (slurm(ID=7, MIN=1, STEP=1, COUNT=3), "without gaps"),
        (slurm(ID=3, MIN=0, STEP=5, COUNT=4), "without gaps"),
        (slurm(ID=1), "SLURM_ARRAY_TASK_COUNT is ''"),
        ({"JOB_COMPLETION_INDEX": "2"}, "CRN_FAST_SHARDS is ''"),
        ({"JOB_COMPLETION_INDEX": "3", "CRN_FAST_SHARDS": "3"}, "completions"),
    ],
)
def test_schedulers_that_are_not_clear(environment: dict[str, str], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        shard.parse("auto", environment)


@pytest.mark.parametrize("text", ["", "0/4", "5/4", "1", "1/", "a/b", "1/4/2", "-1/4", "1/0"])
def test_only_i_of_n(text: str) -> None:
    with pytest.raises(UsageError, match="--shard"):
        shard.parse(text)
    assert shard.parse("2/3") == Shard(2, 3)
    assert shard.parse(None) == Shard(1, 1)
