"""A recipe: everything that decides a training run besides the data's path, as a TOML file.

    label_set        a built-in label set's name, or the path of a user's
    [network]        a CascadeSpec, or preset = "256p" and fields that differ from it
    [[data]]         photos, labels: folders below DATA; how files are paired, read and drawn
    [validation]     as [[data]]: where the sample pictures come from
    [baseline]       absent, or kind and width of a network to compare the cascade with; its size
                     and classes are still those of [network]
    [loss]           kind, feature network, weights, calibration
    [training]       steps or epochs, batch, learning rate, precision, augmentation, ...

Unknown keys and values of the wrong type are errors that name them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from crn_fast.baselines.spec import BaselineSpec, Kind
from crn_fast.errors import BadInput
from crn_fast.files import nearest
from crn_fast.palette import parse_toml, read_toml
from crn_fast.spec import PRESETS, CascadeSpec
from crn_fast.training.tables import override, parse

DEFAULT = "folder"
"""The recipe that asks least of the data's folder."""


@dataclass(frozen=True)
class Source:
    """A folder of photos and the folder of their layouts, paired by name."""

    photos: str = "photos"
    labels: str = "labels"
    photo_suffix: str = ""
    """End of a photo's name before its extension that its layout lacks, as in '_leftImg8bit'.
    Files without it are not looked at."""
    label_suffix: str = ""
    """The same of a layout's name, as in '_gtFine_labelIds'."""
    encoding: Literal["auto", "ids", "train-ids", "color"] = "auto"
    """How the layouts write their labels."""
    unknown: Literal["error", "void", "nearest"] = "error"
    """What unknown ids and colours become."""
    skip: tuple[str, ...] = ()
    """Photos whose names begin with one of these are left out."""
    share: float = 1.0
    """Weight of this source when samples are drawn; shares need not add up to 1."""
    zoom: tuple[float, float] = (1.0, 1.0)
    """Crop augmentation: range of a random window's side, as a share of the largest of the
    network's aspect that fits the photo. Photo and layout are cut alike. (1, 1): off."""
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Multiplies R, G and B: brings the photos of several cameras to one exposure and white."""


@dataclass(frozen=True)
class BaselineRecipe:
    """A network to compare the cascade with."""

    kind: Kind
    width: int = 64
    """Channels of the U-Net's first convolution; of every one in the dilated network."""


@dataclass(frozen=True)
class LossRecipe:
    kind: Literal["content", "diversity", "class-diversity", "image", "pix2pix", "gan-semantic"] = (
        "content"
    )
    """'diversity' and 'class-diversity' are for networks that make several images of a layout;
    'image', 'pix2pix' and 'gan-semantic' are the paper's baselines and need no feature network."""
    mean_share: float = 0.001
    """Of the class-diversity loss: the share of the mean over images beside their minimum."""
    extractor: Literal["vgg19", "distilled"] = "vgg19"
    """Feature network: VGG-19 from torchvision's .pth or MatConvNet's .mat, or a distilled one."""
    weights: str = ""
    """Path of the feature network's weights file. Nothing is ever downloaded."""
    lambdas: tuple[float, ...] = ()
    """Weights of the terms (input first, then each layer) until calibration; empty means all 1,
    or for 'pix2pix' and 'gan-semantic' what was published."""
    calibrate_at: int = 1000
    """At this step each weight becomes the inverse of its term's mean since half as many steps;
    0 keeps `lambdas`."""
    scales: tuple[float, ...] = (1.0,)
    """The loss is the mean over the pictures resized by these factors."""


@dataclass(frozen=True)
class TrainingRecipe:
    steps: int = 10_000
    epochs: int = 0
    """If above 0, `steps` is this many times through the data instead."""
    batch: int = 1
    """Layouts a step, over all processes."""
    learning_rate: float = 1e-4
    beta1: float = 0.9
    """Adam's decay of the mean gradient."""
    warmup: int = 0
    """Steps over which the learning rate rises linearly."""
    decay: Literal["none", "cosine"] = "none"
    trainable: tuple[str, ...] = ()
    """Names of weights that train begin with one of these, as in 'stages.8'; empty means all."""
    ema: float = 0.0
    """Decay of a running mean of the weights, as in 0.999; the mean is what is kept. 0: off."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Of the convolutions; norms, statistics and losses are float32 always."""
    compile: bool = False
    """torch.compile the network."""
    channels_last: bool = False
    """Keep convolution weights and features in NHWC order."""
    recompute: bool = False
    """Drop the activations of each op and compute them again on the way back: less memory."""
    deterministic: bool = False
    """Only algorithms whose results repeat bit for bit."""
    flip: bool = False
    """Mirror half of the samples."""
    brightness: float = 0.0
    """Colour augmentation, of photos alone: their values are multiplied by a factor that is drawn
    from 1 - brightness .. 1 + brightness. 0: off, as the next three."""
    contrast: float = 0.0
    """The same of the distance from the photo's mean luma."""
    saturation: float = 0.0
    """The same of the distance from each pixel's luma."""
    hue: float = 0.0
    """Colours are turned by -hue .. hue of the colour circle."""
    sample_every: int = 1000
    save_every: int = 1000
    keep: int = 2
    """Checkpoints kept, the newest included."""
    tensorboard: bool = False
    """Write TensorBoard's event files, too."""
    peak_tflops: float = 0.0
    """What one device can do at this precision, in 10^12 operations a second, which its use is
    reported against; 0 takes what a large matrix product reaches before the first step."""
    workers: int = 2
    """Processes that read data, at most as many as there are usable CPUs; 0 reads in between."""
    seed: int = 0


@dataclass(frozen=True)
class Recipe:
    network: CascadeSpec
    label_set: str = "cityscapes"
    data: tuple[Source, ...] = (Source(),)
    baseline: BaselineRecipe | None = None
    """What is trained in the cascade's place; the cascade when absent."""
    validation: Source | None = None
    """Where the sample pictures come from; the training data when absent."""
    loss: LossRecipe = field(default_factory=LossRecipe)
    training: TrainingRecipe = field(default_factory=TrainingRecipe)

    @property
    def spec(self) -> CascadeSpec | BaselineSpec:
        """Of the network that is trained."""
        chosen, network = self.baseline, self.network
        if chosen is None:
            return network
        return BaselineSpec(chosen.kind, network.size, network.classes, chosen.width)

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
        network = table.pop("network", None) or {}
        if not isinstance(network, dict):
            raise BadInput(f"{source}: network is {network!r}; expected a table with widths")
        network = dict(network)
        preset = network.pop("preset", None)
        if preset is not None:
            if not isinstance(preset, str) or preset not in PRESETS:
                raise BadInput(f"{source}: preset is {preset!r}; known are {', '.join(PRESETS)}")
            network = asdict(PRESETS[preset]) | network
        table["network"] = CascadeSpec.from_dict(network)
        recipe = parse(cls, table, source)
        _check(recipe, source)
        return recipe


def shipped() -> list[str]:
    """Names of the recipes that ship with the package."""
    folder = resources.files("crn_fast.training") / "recipes"
    names = (item.name for item in folder.iterdir() if item.name.endswith(".toml"))
    return sorted(name.removesuffix(".toml") for name in names)


def read(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, or one that ships with the package by its name, and apply overrides.

    Args:
        name: path of a TOML file, or a shipped recipe's name such as 'street-256'.
        overrides: 'table.key=value', the value as in TOML; a bare word is taken as a string.

    Raises:
        BadInput: no such recipe, not TOML, or a bad key or value.
        ResourceError: the file may not be read.
    """
    if str(name) in shipped():
        folder = resources.files("crn_fast.training") / "recipes"
        text = (folder / f"{name}.toml").read_bytes()
    elif Path(name).suffix == ".toml":
        text = read_toml(Path(name))
    else:
        error = BadInput(f"{name}: no such recipe; shipped are {', '.join(shipped())}")
        raise error.instead_of(str(name), *nearest(str(name), shipped()))
    table = parse_toml(text, str(name))
    for assignment in overrides:
        override(table, assignment)
    return Recipe.from_dict(table, str(name))


def _check(recipe: Recipe, source: str) -> None:
    t, loss = recipe.training, recipe.loss
    sound = {
        "training.steps": (t.steps, t.steps >= 1),
        "training.epochs": (t.epochs, t.epochs >= 0),
        "training.batch": (t.batch, t.batch >= 1),
        "training.learning_rate": (t.learning_rate, 0 < t.learning_rate < 1),
        "training.warmup": (t.warmup, t.warmup >= 0),
        "training.beta1": (t.beta1, 0 <= t.beta1 < 1),
        "training.recompute": (t.recompute, not (t.recompute and recipe.baseline)),
        "training.ema": (t.ema, 0 <= t.ema < 1),
        "training.sample_every": (t.sample_every, t.sample_every >= 1),
        "training.save_every": (t.save_every, t.save_every >= 1),
        "training.keep": (t.keep, t.keep >= 1),
        "training.brightness": (t.brightness, 0 <= t.brightness < 1),
        "training.contrast": (t.contrast, 0 <= t.contrast < 1),
        "training.saturation": (t.saturation, 0 <= t.saturation <= 1),
        "training.hue": (t.hue, 0 <= t.hue <= 0.5),
        "training.peak_tflops": (t.peak_tflops, t.peak_tflops >= 0),
        "training.workers": (t.workers, 0 <= t.workers <= 256),
        "training.seed": (t.seed, 0 <= t.seed < 1 << 63),
        "loss.calibrate_at": (loss.calibrate_at, loss.calibrate_at >= 0),
        "loss.mean_share": (loss.mean_share, 0 <= loss.mean_share <= 1),
        "loss.scales": (loss.scales, loss.scales and all(0 < s <= 1 for s in loss.scales)),
        "data": (recipe.data, bool(recipe.data)),
    }
    for s in (*recipe.data, *filter(None, [recipe.validation])):
        sound[f"share of {s.photos}"] = (s.share, s.share > 0)
        sound[f"zoom of {s.photos}"] = (s.zoom, 0.05 <= s.zoom[0] <= s.zoom[1] <= 1)
        sound[f"gain of {s.photos}"] = (s.gain, min(s.gain) > 0)
    for name, (value, is_sound) in sound.items():
        if not is_sound:
            raise BadInput(f"{source}: {name} is {value!r}, which is out of range")
    if recipe.baseline and not 1 <= recipe.baseline.width <= 1024:
        raise BadInput(f"{source}: baseline.width is {recipe.baseline.width}; expected 1 to 1024")
    if loss.kind in ("pix2pix", "gan-semantic") and loss.calibrate_at:
        raise BadInput(
            f"{source}: the terms of the {loss.kind} loss are not all distances, to be weighed by "
            "their means: set loss.calibrate_at = 0"
        )
    several = loss.kind in ("diversity", "class-diversity")
    if recipe.network.images > 1 and not several:
        raise BadInput(
            f"{source}: network.images is {recipe.network.images}, but the {loss.kind} loss takes "
            "one picture a layout: set images = 1, or loss.kind to diversity or class-diversity"
        )
