"""Recipes: what ships is sound, overrides work, and mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from crn_fast.errors import BadInput
from crn_fast.palette import label_set
from crn_fast.spec import PRESETS
from crn_fast.training import recipe


def test_shipped_recipes_keep_their_promises() -> None:
    large, small = recipe.read("street-1024").network, recipe.read("street-256").network
    assert (large.size, small.size) == ((1024, 2048), (256, 512))
    assert large.flops() <= 150e9 and large.parameters() <= 8e6
    assert small.flops() <= 8e9


@pytest.mark.parametrize("name", recipe.shipped())
def test_shipped_recipes_fit_their_label_sets(name: str) -> None:
    found = recipe.read(name)
    assert found.network.classes == label_set(found.label_set).classes
    if found.loss.lambdas:
        assert len(found.loss.lambdas) == 6


def test_the_paper_s_recipes() -> None:
    small, middle, large = (recipe.read(f"cityscapes-{p}") for p in ("256p", "512p", "1024p"))
    assert [r.network for r in (small, middle, large)] == [
        PRESETS[p] for p in ("256p", "512p", "1024p")
    ]
    assert [r.training.epochs for r in (small, middle, large)] == [200, 20, 5]
    assert large.training.trainable == ("stages.7", "stages.8", "head")
    assert small.loss.lambdas == pytest.approx(
        (1, 1 / 1.6, 1 / 2.3, 1 / 1.8, 1 / 2.8, 10 / 0.8), rel=1e-4
    )


def test_a_recipe_of_an_earlier_version_reads_as_it_was() -> None:
    """A checkpoint carries its recipe: keys that came later have to be off when absent."""
    table = recipe.read("street-256").to_dict()
    for key in ("brightness", "contrast", "saturation", "hue", "peak_tflops"):
        assert table["training"].pop(key) == 0
    assert recipe.Recipe.from_dict(table) == recipe.read("street-256")


def test_round_trip_through_plain_values() -> None:
    found = recipe.read("street-1024")
    assert recipe.Recipe.from_dict(found.to_dict()) == found


def test_overrides(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[network]\npreset = "256p-small"\nupsampling = "half_pixel"\n')
    found = recipe.read(path, ["training.batch=3", "loss.weights=a/b.pth", "network.images=1"])
    assert found.network.widths == PRESETS["256p-small"].widths
    assert found.network.upsampling == "half_pixel"
    assert found.training.batch == 3
    assert found.loss.weights == "a/b.pth"


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("training.batch", "expected key=value"),
        ("=3", "expected key=value"),
        ("training.batch=many", "training: batch is 'many'; expected int"),
        ("training.batch=true", "batch is True"),
        ("training.batch=0", "training.batch is 0"),
        ("training.colour=1", "unknown key 'colour'"),
        ("training.decay=linear", "decay is 'linear'"),
        ("network.widths=8", "widths is 8"),
        ("network.preset=9p", "preset is '9p'"),
        ("network.preset=[1]", r"preset is \[1\]"),
        ("network=5", "network is 5"),
        ("training.seed=-1", "seed is -1"),
        ("training.brightness=1", "training.brightness is 1.0"),
        ("training.contrast=-0.1", "training.contrast is -0.1"),
        ("training.saturation=1.1", "training.saturation is 1.1"),
        ("training.hue=0.6", "training.hue is 0.6"),
        ("training.peak_tflops=-1", "training.peak_tflops is -1"),
        ("training.ema=nan", "finite"),
        ("loss.lambdas=[nan]", "finite"),
        ("data=[{share=inf}]", "finite"),
        ("data=[{zoom=[0.9, 0.5]}]", "zoom of photos"),
        ("data=[{encoding='png'}]", "encoding is 'png'"),
        ("network.images=4", "images is 4.*content loss"),
        ("loss.extractor=resnet", "resnet"),
        ("loss.scales=[2.0]", "scales"),
        ("data=[]", r"data is \(\)"),
        ("data.share=2", "not a table"),
        ("surprise=1", "unknown key 'surprise'"),
    ],
)
def test_mistakes_are_named(override: str, named: str) -> None:
    with pytest.raises(BadInput, match=named):
        recipe.read("street-256", [override])


def test_no_such_recipe_lists_what_ships() -> None:
    with pytest.raises(BadInput, match=r"folder, .*street-1024, street-256"):
        recipe.read("boulevard")


def test_not_toml(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("[network\n")
    with pytest.raises(BadInput, match=r"broken\.toml: not valid TOML"):
        recipe.read(path)
