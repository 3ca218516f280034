from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

import anomscan.stats.localisation as module
from anomscan.stats.localisation import BINS, Localisation, Localised, pixel_auroc, pro
from anomscan.stats.measures import auroc
from anomscan.types import Features
from tests.stats.test_regions import flooded

Mask = NDArray[np.bool_]


def interpolated(distances: Features, width: int, height: int) -> NDArray[np.float64]:
    """The map at the resolution of a picture, by numpy's own interpolation, one axis after the other."""

    def along(values: NDArray[np.float64], pixels: int) -> NDArray[np.float64]:
        cells = len(values)
        at = (np.arange(pixels) + 0.5) * cells / pixels - 0.5
        return np.array([np.interp(at, np.arange(cells), column) for column in values.T]).T

    return along(along(distances.astype(np.float64), height).T, width).T


def slow_pro(maps: list[NDArray[np.float64]], masks: list[Mask], limit: float) -> float:
    """Every distinct score as a threshold, every region by itself."""
    regions = [
        scores[flooded(mask) == number]
        for scores, mask in zip(maps, masks, strict=True)
        for number in range(1, flooded(mask).max() + 1)
    ]
    normal = np.concatenate([scores[~mask] for scores, mask in zip(maps, masks, strict=True)])
    points = [(0.0, 0.0)]
    for threshold in np.unique(np.concatenate([scores.ravel() for scores in maps]))[::-1]:
        overlap = np.mean([np.mean(region >= threshold) for region in regions])
        points.append((float(np.mean(normal >= threshold)), float(overlap)))
    area = 0.0
    for (x, y), (to_x, to_y) in pairwise(points):
        if to_x > limit:
            to_y = y + (to_y - y) * (limit - x) / (to_x - x)
            return (area + (limit - x) * (y + to_y) / 2) / limit
        area += (to_x - x) * (y + to_y) / 2
    return area / limit


def blob(generator: np.random.Generator, height: int, width: int) -> Mask:
    mask = np.zeros((height, width), np.bool_)
    for _ in range(3):
        y, x = generator.integers(height - 8), generator.integers(width - 8)
        mask[y : y + generator.integers(1, 8), x : x + generator.integers(1, 8)] = True
    return mask


def some(seed: int) -> tuple[list[Features], list[Mask], Localised]:
    """Four images with defects and three normal ones, of various sizes; maps that know a little."""
    generator = np.random.default_rng(seed)
    measuring, maps, masks = Localisation(), [], []
    for i in range(7):
        height, width = (int(side) for side in generator.integers(30, 50, 2))
        mask = blob(generator, height, width) if i < 4 else np.zeros((height, width), np.bool_)
        rows, columns = (int(side) for side in generator.integers(5, 9, 2))
        knows = mask[np.ix_(*(np.arange(n) * m // n for n, m in ((rows, height), (columns, width))))]
        distances = (generator.gamma(2.0, size=(rows, columns)) + 2 * knows).astype(np.float32)
        measuring.add(distances, mask if i < 4 else None, (width, height))
        maps.append(distances)
        masks.append(mask)
    found = measuring.measured()
    assert found is not None
    return maps, masks, found


@pytest.mark.parametrize("seed", range(4))
def test_the_measures_are_those_of_the_plain_way(seed: int) -> None:
    maps, masks, found = some(seed)
    large = [interpolated(m, mask.shape[1], mask.shape[0]) for m, mask in zip(maps, masks, strict=True)]
    scores, labels = (np.concatenate([part.ravel() for part in parts]) for parts in (large, masks))
    assert found.pixel_auroc == pytest.approx(auroc(scores, labels), abs=1e-4)
    assert found.pro == pytest.approx(slow_pro(large, masks, 0.3), abs=1e-3)
    assert found.images == 4


def test_bands_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, whole = some(0)
    monkeypatch.setattr(module, "_BAND", 170)
    assert some(0)[2] == whole


def test_a_map_that_knows_everything_is_perfect_and_its_reverse_is_not() -> None:
    mask = np.zeros((8, 8), np.bool_)
    mask[2:4, 5:7] = mask[7, 0] = True
    for sign, expected in ((1, Localised(1.0, 1.0, 1.0, 1)), (-1, Localised(0.0, 0.0, 0.0, 1))):
        measuring = Localisation()
        distances = (sign * mask).astype(np.float32)
        measuring.add(distances, mask, (8, 8))
        measuring.add(np.zeros((8, 8), np.float32), None, (8, 8))
        assert measuring.measured() == expected


def test_constant_maps_know_nothing() -> None:
    mask = np.zeros((20, 20), np.bool_)
    mask[15:, 15:] = True
    measuring = Localisation()
    measuring.add(np.full((4, 4), 0.1, np.float32), mask, (20, 20))
    found = measuring.measured()
    assert found is not None
    assert (found.pixel_auroc, found.hits) == (0.5, 0.0)
    assert found.pro == pytest.approx(0.15)


def test_a_flat_stretch_of_a_map_is_one_score() -> None:
    """Interpolation between equal distances must not make an order of its own."""
    mask = np.zeros((90, 90), np.bool_)
    mask[:45, 30:60] = True
    distances = np.tile(np.array([0, 1, 1, 1, 2], np.float32).repeat(3), (15, 1)) * np.float32(0.7)
    measuring = Localisation()
    measuring.add(distances, mask, (90, 90))
    found = measuring.measured()
    large = interpolated(distances, 90, 90).round(6)
    assert found is not None
    assert found.pixel_auroc == pytest.approx(auroc(large.ravel(), mask.ravel()), abs=1e-5)


def test_small_regions_count_as_much_as_large_ones() -> None:
    normal, covered = np.zeros((2, BINS))
    normal[0] = 100
    covered[BINS - 1], covered[0] = 1.0, 1.0  # one region is found whole, the other not at all
    assert pro(normal, covered) == pytest.approx(0.5 + 0.15 / 2)
    assert pixel_auroc(normal, np.roll(normal, -1)) == 1.0


def test_a_hit_may_be_a_little_beside() -> None:
    mask = np.zeros((200, 100), np.bool_)
    mask[100:110, 40:50] = True
    hit = []
    for row, column in ((10, 4), (9, 4), (11, 3), (10, 5), (10, 6), (8, 4)):
        distances = np.zeros((20, 10), np.float32)
        distances[row, column] = 1
        measuring = Localisation()
        measuring.add(distances, mask, (100, 200))
        found = measuring.measured()
        assert found is not None
        hit.append(found.hits)
    assert hit == [1, 1, 0, 1, 0, 0]  # 5 pixels beside is near, 5 and 5 is not


def test_without_defects_or_without_anything_else_nothing_is_measured() -> None:
    distances = np.ones((2, 2), np.float32)
    measuring = Localisation()
    assert measuring.measured() is None
    measuring.add(distances, None, (4, 4))
    measuring.add(distances, np.zeros((4, 4), np.bool_), (4, 4))
    assert measuring.measured() is None
    only = Localisation()
    only.add(distances, np.ones((4, 4), np.bool_), (4, 4))
    assert only.measured() is None
