"""Feature distance and diversity against loops over a network that can be followed by hand."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="picture measures need torch")

from crn_fast.errors import Mismatch  # noqa: E402
from crn_fast.measure.features import Features  # noqa: E402
from crn_fast.measure.views import Views  # noqa: E402

RNG = np.random.default_rng(1)
LAYERS = ("input", "squared")


def network(rgb: torch.Tensor) -> list[torch.Tensor]:
    assert rgb.dtype == torch.float32 and rgb.shape[1] == 3
    return [rgb, rgb[:, :2, ::2] ** 2]


def features(rgb: np.ndarray) -> list[np.ndarray]:
    x = rgb.astype(np.float64)
    return [x, x[::2, :, :2] ** 2]


def distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    pairs = zip(features(one), features(other), strict=True)
    return np.array([np.abs(a - b).mean() for a, b in pairs])


def make_views(count: int, size: tuple[int, int] = (33, 40)) -> Views:
    draw = [RNG.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(count + 2)]
    return Views(draw[0], np.stack(draw[2:]), draw[1], np.zeros(size, np.uint8))


@pytest.mark.parametrize("diversity", [False, True])
def test_distance_is_the_mean_absolute_difference(diversity: bool) -> None:
    measure = Features(network, LAYERS, diversity=diversity)
    pairs = [make_views(3), make_views(3)]
    each = [measure.add(views) for views in pairs]
    model = [np.mean([distances(p, v.photo) for p in v.pictures], axis=0) for v in pairs]
    baseline = [distances(v.baseline, v.photo) for v in pairs]
    rows = measure.rows()[:2]
    assert [row.measure for row in rows] == ["features input", "features squared"]
    np.testing.assert_allclose([row.model for row in rows], np.mean(model, axis=0), rtol=1e-9)
    np.testing.assert_allclose([row.baseline for row in rows], np.mean(baseline, 0), rtol=1e-9)
    assert each[1]["features squared"]["model"] == pytest.approx(model[1][1], rel=1e-9)


def test_diversity_is_the_mean_over_couples() -> None:
    measure = Features(network, LAYERS, distance=False, diversity=True)
    views = make_views(3)
    measure.add(views)
    a, b, c = views.pictures
    expected = (distances(a, b) + distances(a, c) + distances(b, c)) / 3
    rows = measure.rows()
    assert [row.measure for row in rows] == ["diversity input", "diversity squared"]
    np.testing.assert_allclose([row.model for row in rows], expected, rtol=1e-9)
    assert [row.baseline for row in rows] == [0, 0]
    assert measure.notes() == []


def test_one_picture_has_no_diversity_and_says_so() -> None:
    measure = Features(network, LAYERS, distance=False, diversity=True)
    measure.add(make_views(1))
    assert measure.rows() == []
    assert measure.notes() == ["diversity: not applicable, the model makes one picture of a layout"]


def test_a_picture_too_small_for_the_poolings_is_named() -> None:
    with pytest.raises(Mismatch, match="31x40; the feature network needs 32x32"):
        Features(network, LAYERS).add(make_views(1, (31, 40)))
