"""Which tiles the images are looked at in: asked for as a grid, or by the size of the defects."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from anomscan.errors import UsageError
from anomscan.images.find import Found
from anomscan.images.part import covered
from anomscan.images.tiles import MOST, OVERLAP
from anomscan.types import Preprocessing, Reading, Tiles

SEEN = 8
"""Pixels of the input that a defect covers at least: a place of the finer of the two stages that patches are
made of. See docs/methods.md."""


@dataclass(frozen=True)
class TileChoice:
    """What was asked for, as on the command line: a grid ``RxC``, or the size of a ``defect``; or neither.

    Raises:
        UsageError: both, or what makes no sense.
    """

    grid: str | None = None
    defect: str | None = None

    def __post_init__(self) -> None:
        if self.grid is not None and self.defect is not None:
            raise UsageError("--defect chooses the tiles itself; leave --tiles or --defect out")
        if self.grid is not None:
            parse_grid(self.grid)
        if self.defect is not None:
            parse_defect(self.defect)

    @property
    def asked(self) -> bool:
        """Whether anything was."""
        return self.grid is not None or self.defect is not None

    def decide(self, sources: Sequence[Found], preprocessing: Preprocessing) -> Tiles | None:
        """The tiles of images like ``sources``; None for the whole, which one tile is.

        Where nothing was asked for, they are those of ``preprocessing``.

        Args:
            sources: the normals.
            preprocessing: the size of the input, and what of an image is looked at.

        Raises:
            UsageError: the defects are so small that it takes more than ``MOST`` tiles.
        """
        if not self.asked:
            return preprocessing.tiles
        size = _typical_size(sources, preprocessing.reading)
        if self.grid is not None:
            tiles = Tiles(*parse_grid(self.grid), OVERLAP, size)
        else:
            defect = parse_defect(self.defect or "")
            tiles = Tiles(*grid_for(defect, size, preprocessing), OVERLAP, size, defect)
        return tiles if tiles.count > 1 else None


def parse_grid(text: str) -> tuple[int, int]:
    """Rows and columns from ``RxC``; raises UsageError."""
    numbers = re.fullmatch(r"(\d{1,3})x(\d{1,3})", text.strip().lower())
    rows, columns = map(int, numbers.groups()) if numbers else (0, 0)
    if not 1 <= rows * columns <= MOST:
        raise UsageError(f"--tiles takes RxC, rows and columns, at most {MOST} tiles, not {text!r}")
    return rows, columns


def parse_defect(text: str) -> int:
    """Pixels from ``12px`` or ``12``; raises UsageError."""
    number = re.fullmatch(r"(\d{1,5})(?: ?px)?", text.strip().lower())
    if number is None or not int(number[1]):
        raise UsageError(f"--defect takes a size in pixels of the images, such as 12px, not {text!r}")
    return int(number[1])


def grid_for(defect: int, size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Rows and columns of the fewest tiles in which a defect covers ``SEEN`` pixels of the input.

    No tile has fewer pixels than the input: to enlarge it shows no more.

    Args:
        defect: its size, in pixels.
        size: width and height of what is looked at of an image.
        preprocessing: the size of the input.

    Raises:
        UsageError: more than ``MOST`` tiles.
    """
    inputs = (preprocessing.height, preprocessing.width)
    rows, columns = (_count(length, defect, side) for length, side in zip(size[::-1], inputs, strict=True))
    if rows * columns > MOST:
        raise UsageError(
            f"defects of {defect} px in images of {size[0]} x {size[1]} px take {rows} x {columns} tiles, "
            f"and {MOST} are the most; name a larger --defect, or look at a --region"
        )
    return rows, columns


def _count(length: int, defect: int, side: int) -> int:
    """Tiles along a ``length``, of an input of ``side``."""
    wanted = math.ceil(round((SEEN * length / (defect * side) - OVERLAP) / (1 - OVERLAP), 6))
    possible = math.floor(round((length / side - OVERLAP) / (1 - OVERLAP), 6))
    return max(1, min(wanted, possible))


def _typical_size(sources: Sequence[Found], reading: Reading) -> tuple[int, int]:
    """Width and height that what is looked at has in most of the sources; (1, 1) where none can be read."""
    from anomscan.images.overlay import typical_size  # Pillow, which the options do without

    size = typical_size(sources)
    if size is None:  # that is said when they are embedded
        return 1, 1
    width, height = covered(reading, size)[2:]
    return width, height
