from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from anomscan.stats.regions import regions_of


def flooded(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Numbers of regions from 1, in the order of their first pixels, and 0 elsewhere: one pixel at a time."""
    labels = np.zeros(mask.shape, np.int64)
    count = 0
    for seed in zip(*np.nonzero(mask), strict=True):
        if labels[seed]:
            continue
        count += 1
        waiting = [seed]
        while waiting:
            y, x = waiting.pop()
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x] and not labels[y, x]:
                labels[y, x] = count
                waiting += [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return labels


def labelled(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    found = regions_of(mask)
    labels = np.zeros(mask.shape, np.int64)
    pixels, numbers = found.pixels(0, len(mask), mask.shape[1])
    labels.ravel()[pixels] = numbers + 1
    return labels


@pytest.mark.parametrize("share", [0.02, 0.2, 0.35, 0.5, 0.9])
def test_regions_are_those_that_a_flood_finds(share: float) -> None:
    generator = np.random.default_rng(int(100 * share))
    for shape in ((1, 1), (1, 30), (30, 1), (17, 23), (40, 31)):
        mask = generator.random(shape) < share
        np.testing.assert_array_equal(labelled(mask), flooded(mask))


def test_a_spiral_and_a_comb_are_one_region_each() -> None:
    comb = np.zeros((50, 51), np.bool_)
    comb[:, ::2] = True
    assert regions_of(comb).count == 26
    comb[-1] = True
    assert regions_of(comb).count == 1
    spiral = np.ones((41, 41), np.bool_)
    for i in range(1, 20, 2):
        spiral[i, i - 1 : 41 - i] = spiral[40 - i, i : 41 - i] = False
        spiral[i : 41 - i, 40 - i] = spiral[i + 2 : 41 - i, i] = False
    np.testing.assert_array_equal(labelled(spiral), flooded(spiral))


def test_corners_touch_and_edges_of_the_picture_do_not() -> None:
    mask = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]], np.bool_)
    assert regions_of(mask).count == 4
    assert regions_of(mask).sizes().tolist() == [2, 1, 1, 1]
    assert regions_of(np.zeros((3, 3), np.bool_)).count == 0


def test_pixels_of_a_band_are_those_of_the_whole() -> None:
    mask = np.random.default_rng(3).random((20, 13)) < 0.4
    found = regions_of(mask)
    whole = found.pixels(0, 20, 13)
    parts = [found.pixels(top, min(top + 7, 20), 13) for top in range(0, 20, 7)]
    together = np.concatenate([pixels + 13 * top for top, (pixels, _) in zip((0, 7, 14), parts, strict=True)])
    np.testing.assert_array_equal(together, whole[0])
    np.testing.assert_array_equal(np.concatenate([numbers for _, numbers in parts]), whole[1])
    np.testing.assert_array_equal(whole[0], np.flatnonzero(mask))


def test_a_large_ragged_mask_takes_moments() -> None:
    mask = np.random.default_rng(0).random((2000, 2000)) < 0.3
    found = regions_of(mask)
    assert found.sizes().sum() == mask.sum()
    assert found.count > 1000
