"""The pairs that `crn-fast eval` judges by, and those that its baseline takes colours from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from crn_fast.errors import Mismatch, UsageError
from crn_fast.files import kind_of

if TYPE_CHECKING:
    from crn_fast.engine import Engine
    from crn_fast.measure.evaluate import Pair
    from crn_fast.training import data
    from crn_fast.training.recipe import Source

COLOR_PAIRS = 400
"""Pairs of the training split, evenly spread, that the baseline's colours are taken from."""


class Member(NamedTuple):
    """A pair of files, and what cuts the network's window out of it."""

    windows: data.Windows
    files: data.Pair


def sources(
    engine: Engine, config: str | None, photos: str | None, layouts: str | None
) -> tuple[Source, tuple[Source, ...]]:
    """Where the pairs to evaluate are, and those of the training split.

    Raises:
        UsageError: both a recipe and folders.
        Mismatch: the recipe's label set is not the network's.
    """
    from crn_fast.palette import label_set
    from crn_fast.training import recipe as recipes

    if config is None:
        return recipes.Source(photos=photos or "photos", labels=layouts or "labels"), ()
    if photos or layouts:
        raise UsageError("--photos and --layouts say what -c RECIPE says; give one of both")
    recipe = recipes.read(config)
    if label_set(recipe.label_set).names != engine.labels.names:
        raise Mismatch(
            f"{config}: its label set is {recipe.label_set}, the network's is "
            f"{engine.labels.name}: evaluate on data of the network's set"
        )
    return recipe.validation or recipe.data[0], recipe.data


def members(root: Path, source: Source, engine: Engine) -> list[Member]:
    """All pairs of a source, by name.

    Raises:
        BadInput: a folder is missing, or a file has no partner.
    """
    from crn_fast.training import data
    from crn_fast.training.recipe import TrainingRecipe

    windows = data.Windows(root, (source,), engine.labels, engine.spec.size, TrainingRecipe())
    return [Member(windows, pair) for pair in windows.pairs[0]]


def spread(found: Sequence[Member], limit: int | None) -> list[Member]:
    """At most `limit` of them, from the whole length: neighbours in a film say the same twice."""
    count = min(limit or len(found), len(found))
    return [found[i * len(found) // count] for i in range(count)]


def color_members(
    root: Path, training: Sequence[Source], engine: Engine, evaluated: list[Member]
) -> tuple[list[Member], str]:
    """The pairs that the baseline's colours come from, and which these are, for people."""
    there = [source for source in training if kind_of(root / source.photos) == "folder"]
    found = [member for source in there for member in members(root, source, engine)]
    if not found:
        return evaluated, "the evaluated pairs themselves (no training split was given)"
    chosen = spread(found, COLOR_PAIRS)
    names = ", ".join(source.photos for source in there)
    return chosen, f"{len(chosen)} pairs of the training split ({names})"


def read(member: Member) -> Pair:
    """The largest central window of a pair, as the training's validation sees it.

    Raises:
        BadInput: unreadable files, ids outside the label set, or different sizes.
    """
    from crn_fast.layout import LabelMap
    from crn_fast.measure.evaluate import Pair
    from crn_fast.training.data import fit_labels

    labels, size = member.windows.labels, member.windows.size
    sample = member.windows.window(member.files)
    photo = sample.photo.numpy()
    at_network = fit_labels(sample.labels, size, labels.classes).numpy()
    at_photo = fit_labels(sample.labels, photo.shape[:2], labels.classes).numpy()
    layout = LabelMap(at_network, labels, str(member.files.labels))
    return Pair(layout, photo, at_photo, sample.name)
