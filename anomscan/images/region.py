"""The part of an image that is looked at, cut out and brought to the size of the input."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from PIL import Image

from anomscan.errors import UnreadableImage
from anomscan.images.opening import lies_on_its_side
from anomscan.images.part import Mask, covered, mask_in, refusal
from anomscan.images.tiles import Area, areas
from anomscan.types import Box, Part, Reading, Tiles

GREY = 128
"""What is behind a mask becomes this, of normals and of incoming images."""


def check_size(size: tuple[int, int], part: Part) -> None:
    """Raise UnreadableImage where an upright image is of another size than ``part`` is for."""
    if size != part.source:
        raise UnreadableImage(refusal(size, part))


def least_size(image: Image.Image, size: tuple[int, int], part: Part) -> tuple[int, int]:
    """What an image may be reduced to while it is decoded so that its part keeps ``size``.

    Args:
        image: not decoded yet.
        size: width and height of the part, upright.
        part: what of the image is looked at.

    Returns:
        Width and height of the whole image as it lies in its file.
    """
    width, height = (
        math.ceil(least * whole / side)
        for least, whole, side in zip(size, part.source, part.box[2:], strict=True)
    )
    return (height, width) if lies_on_its_side(image) else (width, height)


def squashed(
    image: Image.Image, size: tuple[int, int], resample: Image.Resampling, part: Part | None
) -> Image.Image:
    """What is looked at of an upright image, in ``size``, width and height.

    Nothing outside of the region, and nothing behind the mask, has any influence on it. Only where a JPEG was
    decoded at a reduced scale do pixels on the edge of the region, of that image, know what is just outside.

    Args:
        image: greyscale or RGB, all of the source, be it at a reduced scale.
        size: of the result.
        resample: the filter.
        part: what is looked at; None for the whole.
    """
    if part is None:
        return image.resize(size, resample)
    cut, box = _cut(image, part)
    return cut.resize(size, resample, box=box)


def in_tiles(
    image: Image.Image, size: tuple[int, int], resample: Image.Resampling, part: Part | None, tiles: Tiles
) -> list[Image.Image]:
    """The tiles of the same, each in ``size``, row by row."""
    whole: Area = (0, 0, image.width, image.height)
    cut, box = (image, whole) if part is None else _cut(image, part)
    return [cut.resize(size, resample, box=area) for area in areas(tiles, box)]


def _cut(image: Image.Image, part: Part) -> tuple[Image.Image, Area]:
    """The part of an image, with a little more on its edges, and where it lies in that."""
    scale = _scale(image.size, part.source)
    left, top = (start / scale for start in part.box[:2])
    right, bottom = left + part.box[2] / scale, top + part.box[3] / scale
    x, y = math.floor(left), math.floor(top)
    cut = image.crop((x, y, math.ceil(right), math.ceil(bottom)))
    if part.mask:
        _cover(cut, (scale * x, scale * y, scale * cut.width, scale * cut.height), part)
    return cut, (left - x, top - y, right - x, bottom - y)


def shown(size: tuple[int, int], part: Part | None) -> Mask:
    """(H, W), which pixels of an input of ``size``, width and height, are not hidden behind the mask."""
    if part is None or not part.mask:
        return np.ones(size[::-1], np.bool_)
    hidden = _hidden(part)
    x, y, width, height = covered(Reading(part=part), hidden.size)
    seen: Mask = (
        np.asarray(hidden.crop((x, y, x + width, y + height)).resize(size, Image.Resampling.NEAREST)) == 0
    )
    return seen


@lru_cache(4)
def _hidden(part: Part) -> Image.Image:
    """White where a mask hides the source, a pixel a cell; to be looked at only, as others get it, too."""
    return Image.fromarray(np.where(mask_in(part), 0, 255).astype(np.uint8))


def _scale(size: tuple[int, int], source: tuple[int, int]) -> int:
    """How many pixels of the source one of an image of ``size`` is, in a row.

    A JPEG that is no multiple of that wide or high ends with pixels that are partly of nothing. If it was
    turned since, they may lie at the beginning; that is passed over, and costs less than one such pixel.
    """
    return max(1, round(max(source) / max(size)))


def _cover(cut: Image.Image, box: Box, part: Part) -> None:
    """Paint what is behind the mask grey in ``cut``, which shows ``box`` of the source."""
    hidden = _hidden(part)
    across, down = (cells / side for cells, side in zip(hidden.size, part.source, strict=True))
    x, y, width, height = box
    right, bottom = min((x + width) * across, hidden.width), min((y + height) * down, hidden.height)
    cells = (x * across, y * down, right, bottom)
    over = hidden.resize(cut.size, Image.Resampling.NEAREST, box=cells)
    cut.paste(GREY if cut.mode == "L" else (GREY,) * 3, mask=over)
