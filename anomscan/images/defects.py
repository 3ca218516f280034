"""Defects made onto normal images, of a size and a contrast that are asked for, to certify a model by.

They are not those by which ``adapt`` chooses what to look at (``adapt.made_defects``): a model that was
chosen because it sees those proves nothing by them. A size is the largest extent of the defect as a share
of the shorter side of what is looked at; a contrast the grey levels, of 255, by which the defect changes a
pixel at most. Each function takes and gives a part of an image, (H, W, 3) float32, in whose middle the
defect is to be.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomscan.images.decode import FULL, opened, source_named
from anomscan.images.part import covered, mask_in
from anomscan.types import Pixels, Reading

Values = NDArray[np.float32]
Defect = Callable[[Values, float, float, np.random.Generator], Values]
"""Takes the surroundings, the size in pixels, the contrast in levels, and a source of chance."""

_LOOK = 96
"""Longer side of the picture in which the object is looked for."""
_OBJECT = (0.03, 0.9)
"""Shares of the picture that an object covers; else it is taken to be everywhere."""
_DISTINCT = 0.75
"""Share of the variance that lies between object and background, where there are two."""


def scratch(around: Values, size: float, contrast: float, generator: np.random.Generator) -> Values:
    """A bent line, a twentieth as wide as it is long, that fades out at its ends; lighter or darker."""
    y, x = _grid(around)
    angle = generator.uniform(0, np.pi)
    along, across = y * np.sin(angle) + x * np.cos(angle), y * np.cos(angle) - x * np.sin(angle)
    half, bend = size / 2, generator.uniform(-0.15, 0.15)
    across = across - bend * size * (1 - np.square(along / half))
    width = max(0.7, size / 40)
    line = np.clip(width - np.abs(across) + 0.5, 0, 1) * np.clip(3 * (1 - np.abs(along) / half), 0, 1)
    return _changed(around, _sign(generator) * contrast * line[..., None])


def hole(around: Values, size: float, contrast: float, generator: np.random.Generator) -> Values:
    """A dark disc with a bright rim on the side away from the light."""
    y, x = _grid(around)
    radius = size / 2
    distance, light = np.hypot(y, x), generator.uniform(0, 2 * np.pi)
    inside = np.clip(radius - distance + 0.5, 0, 1)
    rim = np.clip(1 - np.abs(distance - 0.9 * radius) / max(1.0, 0.1 * radius), 0, 1)
    facing = np.clip((y * np.sin(light) + x * np.cos(light)) / np.maximum(distance, 1), 0, 1)
    return _changed(around, contrast * (0.7 * rim * facing - inside * (1 - rim * facing))[..., None])


def blob(around: Values, size: float, contrast: float, generator: np.random.Generator) -> Values:
    """A drop on the surface: an uneven outline, lit on one side, in shade on the other."""
    y, x = _grid(around)
    angle, light = np.arctan2(y, x), generator.uniform(0, 2 * np.pi)
    outline = 1 - 0.3 * sum(
        generator.uniform(0, 0.5) * (1 + np.cos(waves * angle + generator.uniform(0, 2 * np.pi)))
        for waves in (2, 3, 5)
    )
    inside = np.clip(size / 2 * outline - np.hypot(y, x) + 0.5, 0, 1)
    slope = (y * np.sin(light) + x * np.cos(light)) / (size / 2)
    return _changed(around, contrast * (inside * np.clip(slope, -1, 1))[..., None])


def missing_part(around: Values, size: float, contrast: float, generator: np.random.Generator) -> Values:
    """A corner broken off: an angular piece that looks like what is around it, at most so much unlike it."""
    y, x = _grid(around)
    piece = np.full(y.shape, np.inf, np.float32)
    for angle in generator.uniform(0, 2 * np.pi) + np.arange(5) * 2 * np.pi / 5:
        reach = size / 2 * generator.uniform(0.5, 0.8)
        piece = np.minimum(piece, reach - (y * np.sin(angle) + x * np.cos(angle)))
    inside = np.clip(piece + 0.5, 0, 1)[..., None]
    edges = np.concatenate([around[0], around[-1], around[:, 0], around[:, -1]])
    behind = np.median(edges, axis=0) + _sign(generator) * 0.5 * contrast
    return _changed(around, inside * np.clip(behind - around, -contrast, contrast))


def stain(around: Values, size: float, contrast: float, generator: np.random.Generator) -> Values:
    """A coloured veil with a ragged soft edge, thicker in some places than in others."""
    y, x = _grid(around)
    rough = generator.normal(size=(6, 6)).astype(np.float32)
    rows, columns = (np.linspace(0, 4.999, side) for side in y.shape)
    clouds = _between(rough, rows, columns)
    veil = np.clip(1.2 - np.hypot(y, x) / (size / 2) + 0.35 * clouds, 0, 1) * (np.hypot(y, x) < 0.75 * size)
    tint = _sign(generator) * generator.uniform(0.4, 1.0, 3).astype(np.float32)
    return _changed(around, contrast * veil[..., None] * (tint / np.abs(tint).max()))


def smear(around: Values, size: float, contrast: float, generator: np.random.Generator) -> Values:
    """A place out of focus: its details are gone, by so many levels at most."""
    y, x = _grid(around)
    inside = np.clip(2 * (1 - np.hypot(y, x) / (size / 2)), 0, 1)[..., None]
    radius = max(1, round(size / 8))
    soft = around
    for axis in (0, 1, 0, 1):
        soft = _box(soft, radius, axis)
    return _changed(around, inside * np.clip(soft - around, -contrast, contrast))


DEFECTS: dict[str, Defect] = {
    "scratch": scratch,
    "hole": hole,
    "blob": blob,
    "missing part": missing_part,
    "stain": stain,
    "blur": smear,
}


def whole_image(path: str, reading: Reading) -> Pixels:
    """All pixels of an image, upright, (H, W, 3) uint8 RGB; raises UnreadableImage."""
    source = source_named(path)
    with opened(source.path, FULL, reading, source.page) as (image, _, _):
        return np.asarray(image.convert("RGB")).copy()


def places(pixels: Pixels, reading: Reading) -> NDArray[np.bool_]:
    """Where on the image a defect may be: on the object, and where it is looked at.

    The object is what differs from the rim of what is looked at, by Otsu's threshold on the difference; where
    that is nearly nothing, nearly everything, or no clear difference, there is no background to leave out.

    Returns:
        (rows, columns) of a coarse grid over the whole image, at least one of them true.
    """
    height, width = pixels.shape[:2]
    scale = max(1.0, max(height, width) / _LOOK)
    rows, columns = max(1, round(height / scale)), max(1, round(width / scale))
    small = np.asarray(
        Image.fromarray(pixels).resize((columns, rows), Image.Resampling.BOX), dtype=np.float32
    )
    x, y, wide, high = covered(reading, (columns, rows))
    seen = np.zeros((rows, columns), np.bool_)
    seen[y : y + high, x : x + wide] = True
    if reading.part is not None and reading.part.mask:
        mask = Image.fromarray(mask_in(reading.part)).resize((columns, rows), Image.Resampling.NEAREST)
        seen &= np.asarray(mask)
    if not seen.any():
        seen[y : y + high, x : x + wide] = True
    inner = small[y : y + high, x : x + wide]
    rim = np.concatenate([inner[0], inner[-1], inner[:, 0], inner[:, -1]])
    differs = np.abs(small - np.median(rim, axis=0)).max(axis=2)
    threshold, distinct = _otsu(differs[seen])
    found = seen & (differs > threshold)
    share = found.sum() / seen.sum()
    return found if distinct >= _DISTINCT and _OBJECT[0] <= share <= _OBJECT[1] else seen


def with_defect(
    pixels: Pixels,
    where: NDArray[np.bool_],
    defect: Defect,
    size: float,
    contrast: float,
    generator: np.random.Generator,
    reading: Reading,
) -> tuple[Pixels, tuple[int, int]]:
    """A copy of an image with one defect at a random place, and the row and column of its middle.

    Args:
        pixels: (H, W, 3) uint8, the whole image.
        where: see ``places``.
        defect: one of ``DEFECTS``, or another like them.
        size: share of the shorter side of what is looked at.
        contrast: grey levels of 255.
        generator: decides the place and the shape.
        reading: what is looked at.
    """
    height, width = pixels.shape[:2]
    extent = max(1.0, size * min(covered(reading, (width, height))[2:]))
    cells = np.argwhere(where)
    cell = cells[generator.integers(len(cells))] + generator.uniform(0, 1, 2)
    row, column = (cell * (height / where.shape[0], width / where.shape[1])).astype(int)
    reach = int(extent) + 4
    top, left = max(0, row - reach), max(0, column - reach)
    bottom, right = min(height, row + reach + 1), min(width, column + reach + 1)
    padding = (
        (reach - row + top, row + reach + 1 - bottom),
        (reach - column + left, column + reach + 1 - right),
    )
    around = np.pad(pixels[top:bottom, left:right], (*padding, (0, 0)), "edge").astype(np.float32)
    changed = defect(around, extent, contrast, generator).round().clip(0, 255).astype(np.uint8)
    made = pixels.copy()
    (above, _), (before, _) = padding
    made[top:bottom, left:right] = changed[above : above + bottom - top, before : before + right - left]
    return made, (int(row), int(column))


def write_image(pixels: Pixels, file: Path) -> None:
    """Write pixels as a PNG, quickly and without loss."""
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)


def picture_of(pixels: Pixels, side: int) -> bytes:
    """A small WebP of pixels, at most ``side`` wide and high."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=85)
    return buffer.getvalue()


def _changed(around: Values, change: NDArray[Any]) -> Values:
    return np.asarray(around + change, np.float32)


def _grid(around: Values) -> tuple[Values, Values]:
    """How far each pixel is below and to the right of the middle."""
    height, width = around.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return y - (height - 1) / 2, x - (width - 1) / 2


def _sign(generator: np.random.Generator) -> float:
    return float(generator.choice([-1.0, 1.0]))


def _between(values: Values, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> Values:
    """A coarse grid read at places between its nodes."""
    i, j = rows.astype(int), columns.astype(int)
    down, right = (rows - i)[:, None].astype(np.float32), (columns - j)[None].astype(np.float32)
    upper = values[np.ix_(i, j)] * (1 - right) + values[np.ix_(i, j + 1)] * right
    lower = values[np.ix_(i + 1, j)] * (1 - right) + values[np.ix_(i + 1, j + 1)] * right
    return np.asarray(upper * (1 - down) + lower * down, np.float32)


def _box(values: Values, radius: int, axis: int) -> Values:
    """The mean over ``2 * radius + 1`` pixels along one axis."""
    padding = [(0, 0)] * 3
    padding[axis] = (radius + 1, radius)
    sums = np.pad(values, padding, "edge").cumsum(axis=axis, dtype=np.float64)
    width = 2 * radius + 1
    ends = (sums.take(range(width, sums.shape[axis]), axis), sums.take(range(sums.shape[axis] - width), axis))
    return np.asarray((ends[0] - ends[1]) / width, np.float32)


def _otsu(values: Values) -> tuple[float, float]:
    """The threshold that separates values best into two kinds, and how much of their variance that is."""
    counts, edges = np.histogram(values, 64)
    middles = (edges[:-1] + edges[1:]) / 2
    below, sums = counts.cumsum(), (counts * middles).cumsum()
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * np.square(sums / below - (sums[-1] - sums) / above)
    if not np.isfinite(between[:-1]).any():
        return 0.0, 0.0
    best, all_variance = int(np.nanargmax(between[:-1])), float(np.square(below[-1]) * values.var())
    return float(edges[1 + best]), float(between[best]) / all_variance
