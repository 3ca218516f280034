"""The part of the images that is looked at: asked for, kept in the manifest, found again in pictures.

A mask is kept as a text in ``model.json``, no file of its own: so a ``Part`` is a small value, to be compared
and hashed, that goes wherever a ``Reading`` goes, and the model's id tells it. It is the base64 of the zlib
compressed bits, a few hundred bytes for a mask of a few shapes, of at most ``LONGEST`` cells on its longer
side: finer than the input of any network sees the whole source.
"""

from __future__ import annotations

import base64
import re
import zlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from anomscan.errors import UsageError
from anomscan.types import Box, Part, Reading

Mask = NDArray[np.bool_]
_LONGEST_SOURCE = 1 << 24
LONGEST = 1024
"""Cells of a kept mask along the longer side of the source."""


def parse_box(text: str, option: str = "--region") -> Box:
    """``x,y,w,h`` as on the command line behind ``option``; raises UsageError where it is not, or empty."""
    numbers = re.fullmatch(r"(\d{1,9}),(\d{1,9}),(\d{1,9}),(\d{1,9})", text.strip())
    x, y, width, height = map(int, numbers.groups()) if numbers else (0, 0, 0, 0)
    if not width or not height:
        raise UsageError(
            f"{option} takes x,y,w,h, whole numbers of pixels with w and h above 0, not {text!r}"
        )
    return x, y, width, height


def part_of(source: tuple[int, int], region: Box | None, mask: Mask | None) -> Part:
    """What of images of ``source``, width and height, is looked at.

    Args:
        source: of the upright images.
        region: the box that is looked at; None for all.
        mask: (H, W), where to look, of the whole source; None for everywhere.

    Raises:
        UsageError: the region sticks out, the mask is of another size, or nothing is left.
    """
    box = region or (0, 0, *source)
    if not _inside(box, source):
        raise UsageError(
            f"--region {','.join(map(str, box))} sticks out of the normals, which have {_size(source)} pixels"
        )
    if mask is None:
        return Part(source, box)
    if mask.shape != source[::-1]:
        raise UsageError(f"--mask has {_size(mask.shape[::-1])} pixels, but the normals have {_size(source)}")
    part = Part(source, box, mask_text(mask))
    if not share_of(part):
        raise UsageError("--mask is black wherever it is looked at: nothing is left")
    return part


def check(part: Part) -> None:
    """Raise ValueError where a part that was read from a file makes no sense."""
    if not _inside(part.box, part.source) or max(part.source) > _LONGEST_SOURCE:
        raise ValueError("the region that the model looks at lies outside of its images")
    if part.mask:
        mask_in(part)


def covered(reading: Reading, size: tuple[int, int]) -> Box:
    """The box that the network sees, and so every map, in a picture of the whole upright source.

    Args:
        reading: of the model.
        size: width and height of the picture, which may be smaller than the source.
    """
    part = reading.part
    if part is None:
        return (0, 0, *size)
    starts, ends = part.box[:2], (part.box[0] + part.box[2], part.box[1] + part.box[3])
    x, y = (
        min(start * to // whole, to - 1) for start, to, whole in zip(starts, size, part.source, strict=True)
    )
    right, bottom = (-(-end * to // whole) for end, to, whole in zip(ends, size, part.source, strict=True))
    return x, y, right - x, bottom - y


def refusal(size: tuple[int, int], part: Part) -> str:
    """Why an upright image of another size than the normals' is not looked at."""
    return f"{_size(size)} pixels, but the model looks at a region of {_size(part.source)}"


def described(part: Part | None) -> str:
    """What is looked at, for a person."""
    if part is None:
        return "whole image"
    x, y, width, height = part.box
    whole = part.box == (0, 0, *part.source)
    what = "whole image" if whole else f"region {x},{y},{width},{height}"
    masked = f", {100 * share_of(part):.0f} % of it by a mask" if part.mask else ""
    return f"{what} of {_size(part.source)} pixels{masked}"


def mask_text(mask: Mask) -> str:
    """A mask of the whole source, (H, W), as a text; a cell is looked at where half of its pixels are."""
    columns, rows = _cells((mask.shape[1], mask.shape[0]))
    tops, lefts = (np.arange(n) * side // n for n, side in zip((rows, columns), mask.shape, strict=True))
    white = np.add.reduceat(np.add.reduceat(mask, tops, axis=0, dtype=np.uint32), lefts, axis=1)
    pixels = np.outer(np.diff(tops, append=mask.shape[0]), np.diff(lefts, append=mask.shape[1]))
    return base64.b64encode(zlib.compress(np.packbits(2 * white >= pixels).tobytes(), 9)).decode("ascii")


@lru_cache(4)
def mask_in(part: Part) -> Mask:
    """The mask of a part, (rows, columns) cells over the whole source; raises ValueError if damaged."""
    columns, rows = _cells(part.source)
    unpacked, length = zlib.decompressobj(), -(-rows * columns // 8)
    try:
        bits = unpacked.decompress(base64.b64decode(part.mask, validate=True), length + 1)
    except zlib.error as error:
        raise ValueError(f"the mask is damaged: {error}") from error
    if len(bits) != length:
        raise ValueError("the mask is not of the size of its images")
    mask: Mask = np.unpackbits(np.frombuffer(bits, np.uint8), count=rows * columns).astype(np.bool_)
    mask.setflags(write=False)
    return mask.reshape(rows, columns)


def share_of(part: Part) -> float:
    """The share of the cells of a mask inside of the region that are looked at, at least one of them."""
    mask = mask_in(part)
    x, y, width, height = covered(Reading(part=part), (mask.shape[1], mask.shape[0]))
    return float(mask[y : y + height, x : x + width].mean())


def _cells(source: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, LONGEST / max(source))
    return max(1, round(source[0] * scale)), max(1, round(source[1] * scale))


def _inside(box: Box, source: tuple[int, int]) -> bool:
    x, y, width, height = box
    return min(x, y) >= 0 < min(width, height) and x + width <= source[0] and y + height <= source[1]


def _size(size: tuple[int, ...]) -> str:
    return f"{size[0]} x {size[1]}"
