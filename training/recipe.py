"""A recipe: everything that decides a training run besides the data's path, as a TOML file.

    [network]        a CascadeSpec, or preset = "256p" and fields that differ from it
    [[data]]         photos, labels: folders below DATA; share: of the samples drawn; zoom, gain
    [loss]           extractor, weights, calibrate_at, scales
    [training]       steps, batch, learning_rate, ...

Unknown keys and values of the wrong type are errors that name them. `--set training.batch=2`
overrides one value.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from crn_fast.errors import BadInput
from crn_fast.spec import PRESETS, CascadeSpec


@dataclass(frozen=True)
class Source:
    """A folder of photos and the folder of their layouts, paired by file name."""

    photos: str = "photos"
    labels: str = "labels"
    share: float = 1.0
    """Weight of this source when samples are drawn; shares need not add up to 1."""
    skip: tuple[str, ...] = ()
    """File names beginning with one of these are left out."""
    zoom: tuple[float, float] = (1.0, 1.0)
    """Range of a random window's side, as a share of the largest that fits the photo."""
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Multiplies R, G and B: brings the photos of several cameras to one exposure and white."""


@dataclass(frozen=True)
class LossRecipe:
    extractor: str = "vgg19"
    """Kind of feature network: 'vgg19' (torchvision's .pth or MatConvNet's .mat), 'distilled'."""
    weights: str = ""
    """Path of the feature network's weights file. Nothing is ever downloaded."""
    calibrate_at: int = 1000
    """At this step each weight becomes the inverse of its term's mean so far; 0: never."""
    lambdas: tuple[float, ...] = ()
    """Weights of the terms (input first, then each layer) until calibration; empty means all 1."""
    scales: tuple[float, ...] = (1.0,)
    """The loss is the mean over the pictures resized by these factors."""


@dataclass(frozen=True)
class TrainingRecipe:
    steps: int = 10_000
    batch: int = 1
    learning_rate: float = 1e-4
    warmup: int = 0
    """Steps over which the learning rate rises linearly."""
    decay: Literal["none", "cosine"] = "none"
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    """torch.compile the network."""
    flip: bool = False
    """Mirror half of the samples."""
    sample_every: int = 1000
    save_every: int = 1000
    workers: int = 2
    seed: int = 0


@dataclass(frozen=True)
class Recipe:
    network: CascadeSpec
    label_set: str = "cityscapes"
    data: tuple[Source, ...] = (Source(),)
    validation: Source | None = None
    """Where the sample pictures come from; the training data when absent."""
    loss: LossRecipe = field(default_factory=LossRecipe)
    training: TrainingRecipe = field(default_factory=TrainingRecipe)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint carries them; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, table: dict[str, Any], source: str = "recipe") -> Recipe:
        """Build a recipe from plain values.

        Raises:
            BadInput: an unknown key, a value of the wrong type or range; `source` is named.
        """
        table = dict(table)
        network = dict(table.pop("network", None) or {})
        if preset := network.pop("preset", None):
            if preset not in PRESETS:
                raise BadInput(f"{source}: preset is {preset!r}; known are {', '.join(PRESETS)}")
            network = asdict(PRESETS[preset]) | network
        table["network"] = CascadeSpec.from_dict(network)
        recipe: Recipe = _parse(cls, table, source)
        _check(recipe, source)
        return recipe


def read(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, or one that ships with the package by its name, and apply overrides.

    Args:
        name: path of a TOML file, or a shipped recipe's name such as 'street-256'.
        overrides: 'table.key=value', the value as in TOML; a bare word is taken as a string.

    Raises:
        BadInput: no such recipe, not TOML, or a bad key or value.
    """
    shipped = resources.files("crn_fast.training") / "recipes"
    path = Path(name)
    resource = shipped / f"{name}.toml"
    try:
        text = path.read_text() if path.suffix == ".toml" else resource.read_text()
        table = tomllib.loads(text)
    except FileNotFoundError:
        names = sorted(item.name.removesuffix(".toml") for item in shipped.iterdir())
        raise BadInput(f"{name}: no such recipe; shipped are {', '.join(names)}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"{name}: not a readable TOML recipe ({error})") from None
    for override in overrides:
        _apply(table, override)
    return Recipe.from_dict(table, str(name))


def _apply(table: dict[str, Any], override: str) -> None:
    keys, equals, text = override.partition("=")
    *path, key = keys.strip().split(".")
    if not equals or not key:
        raise BadInput(f"--set {override}: expected key=value, as in training.batch=2")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise BadInput(f"--set {override}: {part} is not a table that can be overridden")
    table[key] = value


def _parse(kind: type, value: Any, where: str) -> Any:
    """Read `value` as the dataclass `kind`, checking names and types."""
    if isinstance(value, kind):
        return value
    if not isinstance(value, dict):
        raise BadInput(f"{where}: expected a table, found {value!r}")
    hints = get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}
    if unknown := sorted(set(value) - set(known)):
        raise BadInput(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(known)}")
    for name, f in known.items():
        if name not in value and f.default is MISSING and f.default_factory is MISSING:
            raise BadInput(f"{where}: {name} is missing")
    return kind(**{key: _convert(hints[key], v, f"{where}: {key}") for key, v in value.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    options = [option for option in get_args(hint) if option is not type(None)]
    if get_origin(hint) is Literal:
        if value not in options:
            raise BadInput(f"{where} is {value!r}; expected one of {', '.join(map(repr, options))}")
        return value
    if get_origin(hint) is tuple:
        repeated = options[-1] is Ellipsis
        if not isinstance(value, list | tuple) or not (repeated or len(value) == len(options)):
            raise BadInput(f"{where} is {value!r}; expected a list of {options[0].__name__}")
        return tuple(_convert(options[0], item, where) for item in value)
    if options:  # X | None
        return None if value is None else _convert(options[0], value, where)
    if hasattr(hint, "__dataclass_fields__"):
        return _parse(hint, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise BadInput(f"{where} is {value!r}; expected {hint.__name__}")
    return value


def _check(recipe: Recipe, source: str) -> None:
    t = recipe.training
    ranges = {
        "steps": t.steps >= 1,
        "batch": t.batch >= 1,
        "learning_rate": 0 < t.learning_rate < 1,
        "warmup": t.warmup >= 0,
        "sample_every": t.sample_every >= 1,
        "save_every": t.save_every >= 1,
        "workers": t.workers >= 0,
    }
    for name, sound in ranges.items():
        if not sound:
            raise BadInput(
                f"{source}: training.{name} is {getattr(t, name)!r}, which is out of range"
            )
    if recipe.network.images != 1:
        raise BadInput(
            f"{source}: network.images is {recipe.network.images}; training makes one picture a "
            "layout: set images = 1"
        )
    if not recipe.data or any(s.share <= 0 for s in recipe.data):
        raise BadInput(f"{source}: [[data]] needs at least one source, each with share > 0")
    for s in recipe.data:
        if not 0 < s.zoom[0] <= s.zoom[1] <= 1:
            raise BadInput(
                f"{source}: zoom of {s.photos} is {s.zoom}; expected 0 < low <= high <= 1"
            )
        if min(s.gain) <= 0:
            raise BadInput(f"{source}: gain of {s.photos} is {s.gain}; expected values above 0")
    if not recipe.loss.scales or any(not 0 < s <= 1 for s in recipe.loss.scales):
        raise BadInput(f"{source}: loss.scales is {recipe.loss.scales!r}; expected values in 0..1")
    if recipe.loss.extractor not in ("vgg19", "distilled"):
        raise BadInput(
            f"{source}: loss.extractor is {recipe.loss.extractor!r}; expected vgg19 or distilled"
        )
