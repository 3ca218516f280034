"""How well maps point at defects: over pixels, over regions of defects, and by their hottest places.

A map is interpolated between the middles of its patches to the resolution of its mask, band by band, and its
pixels are counted by score, in histograms of a fixed size. Until then the small maps and the runs of the
masks are kept, since the range of the scores is known only in the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anomscan.stats.regions import Mask, Positions, Regions, regions_of
from anomscan.types import Features

BINS = 1 << 16
"""Steps between the smallest and the largest score that are told apart; within one, pixels count as equal."""
FPR_LIMIT = 0.3
"""Up to which share of the normal pixels PRO is integrated (Bergmann et al., IJCV 2021)."""
NEAR = 0.05
"""A hit lies no farther from the defect than this share of the picture's shorter side."""
_BAND = 1 << 20
"""Pixels that are interpolated at a time."""

Histogram = NDArray[np.float64]
"""(BINS,): how much there is at each score, ascending."""
_Lines = tuple[Positions, Positions, Features]


@dataclass(frozen=True)
class Localised:
    """How well maps point at the defects of ``images`` images that have one.

    ``pixel_auroc`` is the chance that a pixel of a defect scores above another; ``pro`` the mean share of a
    defect's region that is found, over the false positive rates up to ``FPR_LIMIT``; ``hits`` the share of
    the images whose hottest place lies in the defect or ``NEAR`` it. All are in [0, 1].
    """

    pixel_auroc: float
    pro: float
    hits: float
    images: int


@dataclass(frozen=True)
class _Seen:
    distances: Features
    size: tuple[int, int]
    regions: Regions | None


class Localisation:
    """Takes maps and masks one after the other and measures them together."""

    def __init__(self) -> None:
        self._seen: list[_Seen] = []

    def add(self, distances: Features, mask: Mask | None, size: tuple[int, int]) -> None:
        """Take one image.

        Args:
            distances: (rows, columns), larger is more anomalous.
            mask: (H, W), where the defect is; None for a normal image, all of whose pixels are normal.
            size: width and height of the image; of one with a mask, the mask's count.
        """
        regions = None
        if mask is not None:
            size = (mask.shape[1], mask.shape[0])
            regions = regions_of(mask) if mask.any() else None
        self._seen.append(_Seen(distances.astype(np.float32), size, regions))

    def measured(self) -> Localised | None:
        """The measures of all images; None unless there are pixels of both kinds."""
        found = [_hit(image, image.regions) for image in self._seen if image.regions is not None]
        if not found:
            return None
        every, defect, covered = self._counted()
        normal = every - defect
        if not normal.any():
            return None
        return Localised(
            pixel_auroc(normal, defect),
            pro(normal, covered),
            sum(found) / len(found),
            len(found),
        )

    def _counted(self) -> tuple[Histogram, Histogram, Histogram]:
        """Histograms of all pixels, of those of defects, and of these by their share of their region."""
        low = min(float(image.distances.min()) for image in self._seen)
        high = max(float(image.distances.max()) for image in self._seen)
        steps = np.float32((BINS - 1) / (high - low) if high > low else 0)
        every, defect, covered = np.zeros((3, BINS))
        for image in self._seen:
            shares = 1 / image.regions.sizes() if image.regions is not None else None
            for top, scores in _bands(image):
                places = ((scores - np.float32(low)) * steps).astype(np.intp).clip(0, BINS - 1)
                every += np.bincount(places.ravel(), minlength=BINS)
                if image.regions is not None and shares is not None:
                    pixels, numbers = image.regions.pixels(top, top + len(scores), image.size[0])
                    marked = places.ravel()[pixels]
                    defect += np.bincount(marked, minlength=BINS)
                    covered += np.bincount(marked, shares[numbers], BINS)
        return every, defect, covered


def pixel_auroc(normal: Histogram, defect: Histogram) -> float:
    """The chance that a pixel of a defect scores above a normal one, ties counting half.

    It is off by half the chance that the two fall into one bin, at most.
    """
    return _area(_shares(normal), _shares(defect))


def pro(normal: Histogram, covered: Histogram, limit: float = FPR_LIMIT) -> float:
    """The per-region overlap: the mean share of a region that scores above a threshold, over thresholds.

    It is integrated over the share of normal pixels above the threshold, up to ``limit``, and divided by it.

    Args:
        normal: counts of normal pixels.
        covered: of the pixels of defects, each counting as the share of its region that it is.
        limit: in (0, 1].

    Returns:
        The overlap, in [0, 1]; 1 where every region is found whole before any normal pixel.
    """
    alarms, overlap = _shares(normal), _shares(covered)
    inside = alarms < limit
    end = np.interp(limit, alarms, overlap)
    return _area(np.append(alarms[inside], limit), np.append(overlap[inside], end)) / limit


def _shares(histogram: Histogram) -> Histogram:
    """(BINS + 1,): what share lies above each threshold, from the highest down."""
    above = np.concatenate([[0.0], histogram[::-1].cumsum()])
    return np.asarray(above / above[-1])


def _area(x: Histogram, y: Histogram) -> float:
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))


def _hit(image: _Seen, regions: Regions) -> bool:
    """Whether the middle of the hottest patch, where the map is highest, lies in a region or near one."""
    (rows, columns), (width, height) = image.distances.shape, image.size
    row, column = divmod(int(image.distances.argmax()), columns)
    x, y = (column + 0.5) * width / columns, (row + 0.5) * height / rows
    aside = np.maximum(regions.starts - x, x - regions.ends).clip(0)
    apart = np.maximum(regions.rows - y, y - regions.rows - 1).clip(0)
    return bool(np.hypot(aside, apart).min() <= NEAR * min(image.size))


def _bands(image: _Seen) -> Iterator[tuple[int, Features]]:
    """The map at the resolution of the picture: the first row of each band, and the band, (rows, W)."""
    width, height = image.size
    upper, lower, down = _lines(image.distances.shape[0], height)
    left, right, across = _lines(image.distances.shape[1], width)
    deep = max(1, _BAND // width)
    for top in range(0, height, deep):
        rows = slice(top, top + deep)
        above, below = image.distances[upper[rows]], image.distances[lower[rows]]
        band = above + down[rows, None] * (below - above)
        before, after = band[:, left], band[:, right]
        yield top, before + across * (after - before)


def _lines(cells: int, pixels: int) -> _Lines:
    """For each of ``pixels`` the cells before and after its middle, and how far it is from the first."""
    where = ((np.arange(pixels) + 0.5) * cells / pixels - 0.5).clip(0, cells - 1)
    before = where.astype(np.intp)
    return before, np.minimum(before + 1, cells - 1), (where - before).astype(np.float32)
