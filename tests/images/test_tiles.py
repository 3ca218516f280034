from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from anomscan.images.decode import Decoded
from anomscan.images.find import Unreadable
from anomscan.images.tiles import (
    MOST,
    OVERLAP,
    areas,
    check,
    described,
    every_tile,
    one_tile_each,
    spans,
    stretch,
    tile_size,
    whole_size,
)
from anomscan.types import Preprocessing, Tiles

TILES = Tiles(2, 3, OVERLAP, (300, 200))
RULES = Preprocessing(224, 224, "bicubic", (0.0,) * 3, (1.0,) * 3, tiles=TILES)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("overlap", [0.0, 0.1, OVERLAP, 0.5])
def test_tiles_in_a_row_cover_all_of_it_and_share_the_overlap(count: int, overlap: float) -> None:
    found = spans(count, overlap)
    length = 1 / stretch(count, overlap)
    assert found[0][0] == 0
    assert found[-1][1] == pytest.approx(1, abs=1e-12)
    assert found[-1][1] <= 1
    for (start, end), (following, _) in itertools.pairwise(found):
        assert end - start == pytest.approx(length)
        assert end - following == pytest.approx(overlap * length)


def test_areas_are_row_by_row_inside_of_the_whole() -> None:
    found = areas(TILES, (10, 20, 310, 220))
    assert len(found) == 6
    assert found[0][:2] == (10, 20)
    assert found[-1][2:] == pytest.approx((310, 220))
    assert found[2][0] > found[1][0] > found[0][0]
    assert found[0][1] == found[2][1] < found[3][1]
    sizes = {(round(right - left, 6), round(bottom - top, 6)) for left, top, right, bottom in found}
    assert sizes == {tuple(round(side, 6) for side in tile_size(TILES, (300, 200)))}


def test_the_whole_is_as_large_as_its_tiles_need() -> None:
    assert whole_size(None, (224, 224)) == (224, 224)
    assert whole_size(TILES, (224, 224)) == (608, 416)  # 3 - 2/7 and 2 - 1/7 of it
    assert tile_size(TILES, (608, 416)) == pytest.approx((224, 224))
    assert tile_size(None, (608, 416)) == (608, 416)


def test_what_is_said_of_them() -> None:
    assert described(replace(RULES, tiles=None)) == ""
    assert described(RULES) == "2 x 3 tiles, 111 x 108 px each in most normals"
    by_size = replace(RULES, tiles=replace(TILES, defect=6))
    assert described(by_size).endswith(": a defect of 6 px covers 12 px of the input")


@pytest.mark.parametrize(
    "tiles",
    [
        replace(TILES, rows=0),
        replace(TILES, columns=-2),
        replace(TILES, rows=MOST, columns=2),
        replace(TILES, overlap=0.7),
        replace(TILES, overlap=-0.1),
        replace(TILES, overlap=float("nan")),
    ],
)
def test_tiles_that_make_no_sense_are_refused(tiles: Tiles) -> None:
    check(TILES)
    with pytest.raises(ValueError, match="make no sense"):
        check(tiles)


def test_every_tile_or_one_of_each_is_an_image_of_its_own() -> None:
    pixels = np.arange(2 * 6).astype(np.uint8).reshape(2, 6, 1, 1, 1) * np.ones((1, 1, 2, 2, 3), np.uint8)
    gone, whole = Unreadable("c", "gone"), Decoded("d", pixels[0, 0])
    images = [Decoded("a", pixels[0]), gone, Decoded("b", pixels[1]), whole]
    found = list(every_tile(images))
    assert [image.path for image in found] == ["a"] * 6 + ["c"] + ["b"] * 6 + ["d"]
    values = [int(image.pixels[0, 0, 0]) for image in found if isinstance(image, Decoded)]
    assert values == [*range(12), 0]
    first, kept, second, same = one_tile_each(images)
    assert isinstance(first, Decoded)
    assert isinstance(second, Decoded)
    assert (kept, same) == (gone, whole)
    assert (first.pixels[0, 0, 0], second.pixels[0, 0, 0]) == (0, 8)
    fixed = [image.pixels[0, 0, 0] for image in one_tile_each(images, 5) if isinstance(image, Decoded)]
    assert fixed == [5, 11, 0]
