"""The tiles of an image, as numbers: where they lie, how large they are, what is said of them.

A grid of overlapping tiles covers what is looked at, whatever the size of the image; each is squashed to the
size of the input, as a whole image otherwise is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from anomscan.images.find import Unreadable
from anomscan.types import Preprocessing, Tiles

if TYPE_CHECKING:
    from anomscan.images.decode import Decoded

OVERLAP = 1 / 7
"""Share of a tile that it has in common with the next: two rows of patches at 224 px, three at 336, four at
448, so that there the patches of both lie on each other."""
MOST = 400
"""Tiles of an image, at most."""

Area = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""


def check(tiles: Tiles) -> None:
    """Raise ValueError where tiles that were read from a file make no sense."""
    if not (min(tiles.rows, tiles.columns) >= 1 and tiles.count <= MOST and 0 <= tiles.overlap <= 0.5):
        raise ValueError("the tiles that the model looks at make no sense")


def stretch(count: int, overlap: float) -> float:
    """How many sides of a tile ``count`` of them in a row cover."""
    return count - (count - 1) * overlap


def spans(count: int, overlap: float) -> list[tuple[float, float]]:
    """Where each of ``count`` tiles in a row begins and ends, in shares of the whole."""
    whole = stretch(count, overlap)
    starts = [i * (1 - overlap) / whole for i in range(count)]
    return [(start, min(1.0, start + 1 / whole)) for start in starts]


def areas(tiles: Tiles, whole: Area) -> list[Area]:
    """Where each tile of ``whole`` lies, row by row."""
    left, top, right, bottom = whole
    return [
        (
            left + begin * (right - left),
            top + start * (bottom - top),
            left + behind * (right - left),
            top + end * (bottom - top),
        )
        for start, end in spans(tiles.rows, tiles.overlap)
        for begin, behind in spans(tiles.columns, tiles.overlap)
    ]


def tile_size(tiles: Tiles | None, whole: tuple[int, int]) -> tuple[float, float]:
    """Width and height of a tile of ``whole``; of all of it where there are none."""
    if tiles is None:
        return float(whole[0]), float(whole[1])
    return whole[0] / stretch(tiles.columns, tiles.overlap), whole[1] / stretch(tiles.rows, tiles.overlap)


def whole_size(tiles: Tiles | None, tile: tuple[int, int]) -> tuple[int, int]:
    """Width and height that the whole has where every tile has those of ``tile``."""
    if tiles is None:
        return tile
    across, down = (stretch(count, tiles.overlap) for count in (tiles.columns, tiles.rows))
    return math.ceil(tile[0] * across), math.ceil(tile[1] * down)


def described(preprocessing: Preprocessing) -> str:
    """The tiles, for a person; empty where there are none."""
    tiles = preprocessing.tiles
    if tiles is None:
        return ""
    width, height = tile_size(tiles, tiles.source)
    what = f"{tiles.rows} x {tiles.columns} tiles, {width:.0f} x {height:.0f} px each in most normals"
    if not tiles.defect:
        return what
    covers = tiles.defect * min(preprocessing.width / width, preprocessing.height / height)
    return f"{what}: a defect of {tiles.defect} px covers {covers:.0f} px of the input"


def every_tile(images: Iterable[Decoded | Unreadable]) -> Iterator[Decoded | Unreadable]:
    """Each tile as an image of its own, all of one image behind each other; other images as they are."""
    for image in images:
        if isinstance(image, Unreadable) or image.pixels.ndim == 3:
            yield image
        else:
            yield from (replace(image, pixels=pixels) for pixels in image.pixels)


def one_tile_each(
    images: Iterable[Decoded | Unreadable], number: int | None = None
) -> Iterator[Decoded | Unreadable]:
    """One tile of each image: that ``number``, or of every image the one behind that of the last."""
    for place, image in enumerate(images):
        if isinstance(image, Unreadable) or image.pixels.ndim == 3:
            yield image
        else:
            chosen = (place if number is None else number) % len(image.pixels)
            yield replace(image, pixels=image.pixels[chosen])
