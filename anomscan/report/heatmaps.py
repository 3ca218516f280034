"""Maps of distances as heat, as boxes in a picture, and as files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from operator import length_hint
from pathlib import Path

import numpy as np

from anomscan.errors import OutputError, UnreadableImage
from anomscan.images.decode import source_named
from anomscan.images.overlay import is_overlay, overlay, source_size
from anomscan.images.part import covered
from anomscan.pipeline import available_cores, counted, in_order
from anomscan.stats.regions import regions_of
from anomscan.types import Box, Features, Progress, Reading

MOST_REGIONS = 16
_LONGEST_STEM = 200
"""Bytes of an image's name that the name of its heat map takes over."""


@dataclass(frozen=True)
class Scale:
    """What distances look like: up to ``dark`` like nothing, from ``bright`` on like the hottest."""

    dark: float
    bright: float


def heat(distances: Features, scale: Scale) -> Features:
    """Distances, (rows, columns), as heat in [0, 1], linear between the ends of the scale."""
    if scale.bright <= scale.dark:
        return (distances > scale.dark).astype(np.float32)
    warmth = (distances - scale.dark) / (scale.bright - scale.dark)
    return warmth.clip(0, 1).astype(np.float32)


def regions(distances: Features, dark: float, area: Box) -> list[Box]:
    """Boxes around connected patches above ``dark``, the hottest first, ``MOST_REGIONS`` at most.

    Args:
        distances: (rows, columns).
        dark: of a ``Scale``.
        area: what of the picture the distances cover, see ``covered``.

    Returns:
        Boxes in pixels of the picture; patches that touch at a corner are connected.
    """
    found = regions_of(distances > dark)
    boxes = []
    for number in range(found.count):
        own = found.numbers == number
        rows, starts, ends = found.rows[own], found.starts[own], found.ends[own]
        cells = (int(starts.min()), int(rows.min()), int(ends.max()), int(rows.max()) + 1)
        peak = max(float(distances[r, s:e].max()) for r, s, e in zip(rows, starts, ends, strict=True))
        boxes.append((peak, _box(cells, distances.shape, area)))
    boxes.sort(key=lambda box: -box[0])
    return [box for _, box in boxes[:MOST_REGIONS]]


def hottest(distances: Features) -> tuple[int, int]:
    """Row and column of the largest distance; the first, where there are several."""
    row, column = divmod(int(distances.argmax()), distances.shape[1])
    return row, column


def patch_box(row: int, column: int, shape: tuple[int, ...], area: Box, patches: int = 3) -> Box:
    """A box of ``patches`` x ``patches`` cells of a grid around one of them, as far as there are.

    Args:
        row: of the cell in the middle.
        column: of the cell in the middle.
        shape: rows and columns of the grid.
        area: what of the picture lies under it, see ``covered``.
        patches: an odd number.

    Returns:
        The box, in pixels of the picture.
    """
    reach = patches // 2
    cells = (
        max(0, column - reach),
        max(0, row - reach),
        min(shape[1], column + reach + 1),
        min(shape[0], row + reach + 1),
    )
    return _box(cells, shape, area)


def _box(cells: tuple[int, int, int, int], shape: tuple[int, ...], area: Box) -> Box:
    """From cells of a grid (left, top, and those behind the last) to pixels; never empty."""
    (rows, columns), (x, y, width, height) = shape, area
    left, right = (round(cell * width / columns) for cell in cells[::2])
    top, bottom = (round(cell * height / rows) for cell in cells[1::2])
    left, top = min(left, width - 1), min(top, height - 1)
    return x + left, y + top, max(1, right - left), max(1, bottom - top)


def write_heatmaps(
    folder: str,
    images: Iterable[tuple[str, Features]],
    scale: Scale,
    reading: Reading,
    progress: Progress,
) -> int:
    """Write a picture of each image with its heat and with boxes around what is hot.

    Images that cannot be read are passed over; their numbers stay free. A file that is no heat map is never
    overwritten.

    Args:
        folder: made if it is not there.
        images: what a row is called and its distances, (rows, columns); the most anomalous first.
        scale: see ``Scale``.
        reading: how an image becomes one of 8 bits.
        progress: told after each.

    Returns:
        How many were written, as ``<number>_<name>.jpg``.

    Raises:
        OutputError: the folder or a file in it cannot be written.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error

    def written(numbered: tuple[int, tuple[str, Features]]) -> bool:
        number, (path, distances) = numbered
        out = _free(Path(folder, heatmap_name(number, path)))
        try:
            boxes = regions(distances, scale.dark, covered(reading, source_size(path)))
            overlay(path, heat(distances, scale), boxes, reading, out)
        except UnreadableImage:
            return False
        return True

    threads, total = available_cores(), length_hint(images) or None
    done = in_order(written, enumerate(images, start=1), threads, threads)
    return sum(counted("drawing heat maps", done, total, progress))


def heatmap_name(number: int, path: str) -> str:
    """The name of an image's heat map: its place in the ranking, its own name, its page if it has one."""
    source = source_named(path)
    stem = Path(source.path).stem
    while len(os.fsencode(stem)) > _LONGEST_STEM:
        stem = stem[:-1]
    page = "" if source.page is None else f"-{source.page}"
    return f"{number:04}_{stem}{page}.jpg"


def _free(out: Path) -> Path:
    """The same; raises OutputError where an image of somebody else is there."""
    try:
        taken = out.is_file() and not is_overlay(out)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}") from error
    if taken:
        raise OutputError(f"cannot write {out}: there is a file of that name that is no heat map")
    return out
