from __future__ import annotations

import base64
import zlib
from dataclasses import replace

import numpy as np
import pytest

from anomscan.errors import UsageError
from anomscan.images.part import (
    LONGEST,
    Mask,
    check,
    covered,
    described,
    mask_in,
    mask_text,
    parse_box,
    part_of,
    refusal,
    share_of,
)
from anomscan.types import Box, Part, Reading

SOURCE = (200, 120)


def disc(source: tuple[int, int] = SOURCE) -> Mask:
    width, height = source
    y, x = np.mgrid[:height, :width]
    found: Mask = (x - width / 2) ** 2 + (y - height / 2) ** 2 < (height / 3) ** 2
    return found


def test_a_region_is_four_numbers() -> None:
    assert parse_box("1,2,30,40") == (1, 2, 30, 40)
    assert parse_box(" 0,0,1,1 ") == (0, 0, 1, 1)


@pytest.mark.parametrize(
    "text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1.5,0,9,9", "-1,0,9,9", "1,2,0,4", "1,2,4,0", "1 2 3 4"]
)
def test_what_is_no_region_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--region takes x,y,w,h"):
        parse_box(text)


@pytest.mark.parametrize("box", [(150, 0, 51, 10), (0, 100, 10, 21), (200, 0, 1, 1), (0, 0, 201, 120)])
def test_a_region_that_sticks_out_is_refused(box: Box) -> None:
    with pytest.raises(UsageError, match="sticks out of the normals, which have 200 x 120 pixels"):
        part_of(SOURCE, box, None)


def test_a_mask_of_another_size_or_without_white_is_refused() -> None:
    with pytest.raises(UsageError, match="--mask has 120 x 200 pixels, but the normals have 200 x 120"):
        part_of(SOURCE, None, disc((120, 200)))
    with pytest.raises(UsageError, match="nothing is left"):
        part_of(SOURCE, None, np.zeros((120, 200), np.bool_))
    with pytest.raises(UsageError, match="nothing is left"):
        part_of(SOURCE, (0, 0, 20, 20), disc())  # white elsewhere only


def test_a_small_mask_comes_back_as_it_was() -> None:
    part = part_of(SOURCE, None, disc())
    np.testing.assert_array_equal(mask_in(part), disc())
    assert part.box == (0, 0, *SOURCE)
    assert len(part.mask) < 1000
    assert part == Part(SOURCE, (0, 0, *SOURCE), mask_text(disc()))


@pytest.mark.parametrize("source", [(4096, 3072), (5000, 1111), (1025, 1024), (1500, 1)])
def test_a_large_mask_is_kept_in_cells(source: tuple[int, int]) -> None:
    found = mask_in(part_of(source, None, disc(source) if source[1] > 1 else np.ones((1, 1500), np.bool_)))
    assert max(found.shape) == LONGEST
    if source[1] > 1:
        assert found.mean() == pytest.approx(disc(source).mean(), rel=0.02)
        across = found[found.shape[0] // 2].nonzero()[0] / found.shape[1]
        assert across[[0, -1]] == pytest.approx(
            disc(source)[source[1] // 2].nonzero()[0][[0, -1]] / source[0], abs=2 / LONGEST
        )
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0] = True


@pytest.mark.parametrize("box", [(190, 0, 20, 20), (0, 0, 0, 20), (-1, 0, 9, 20), (0, 0, 9, 121)])
def test_a_region_of_a_file_that_sticks_out_is_known(box: Box) -> None:
    with pytest.raises(ValueError, match="lies outside of its images"):
        check(Part(SOURCE, box))


@pytest.mark.parametrize(
    "text",
    [
        "no base64",
        base64.b64encode(b"no zlib").decode(),
        mask_text(disc((100, 100))),
        base64.b64encode(zlib.compress(bytes(10**7))).decode(),
    ],
)
def test_a_mask_of_a_file_that_is_damaged_is_known(text: str) -> None:
    with pytest.raises(ValueError, match=r"base64|the mask is"):
        check(Part(SOURCE, (0, 0, *SOURCE), text))


def test_a_part_that_makes_sense_passes() -> None:
    check(Part(SOURCE, (10, 20, 30, 40)))
    check(part_of(SOURCE, (10, 20, 130, 60), disc()))


def test_what_maps_cover_is_the_whole_or_the_region_at_the_scale_of_the_picture() -> None:
    reading = Reading(part=Part(SOURCE, (50, 30, 100, 60)))
    assert covered(Reading(), (70, 50)) == (0, 0, 70, 50)
    assert covered(reading, SOURCE) == (50, 30, 100, 60)
    assert covered(reading, (100, 60)) == (25, 15, 50, 30)
    assert covered(reading, (33, 20)) == (8, 5, 17, 10)  # never less than it
    assert covered(Reading(part=Part(SOURCE, (199, 119, 1, 1))), (3, 2)) == (2, 1, 1, 1)
    assert covered(Reading(part=Part(SOURCE, (0, 0, *SOURCE))), (33, 20)) == (0, 0, 33, 20)


def test_a_person_is_told() -> None:
    part = Part(SOURCE, (50, 30, 100, 60))
    assert described(None) == "whole image"
    assert described(part) == "region 50,30,100,60 of 200 x 120 pixels"
    half = replace(part, mask=mask_text(np.arange(200) < np.full((120, 1), 100)))
    assert share_of(half) == 0.5
    assert described(half) == "region 50,30,100,60 of 200 x 120 pixels, 50 % of it by a mask"
    all_of_it = replace(half, box=(0, 0, *SOURCE))
    assert described(all_of_it) == "whole image of 200 x 120 pixels, 50 % of it by a mask"
    assert refusal((20, 30), part) == "20 x 30 pixels, but the model looks at a region of 200 x 120"
