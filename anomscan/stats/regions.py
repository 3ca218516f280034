"""Connected regions of a mask, by its runs: stretches of marked pixels in a row, few beside the pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
"""(H, W)."""
Positions = NDArray[np.intp]


@dataclass(frozen=True)
class Regions:
    """The runs of a mask and the region that each belongs to, from the upper left on.

    Pixels that touch, also at a corner, are of one region. Run i lies in ``rows[i]`` and goes from column
    ``starts[i]`` to before ``ends[i]``; ``numbers[i]`` < ``count`` is its region. All are (n,).
    """

    rows: Positions
    starts: Positions
    ends: Positions
    numbers: Positions

    @property
    def count(self) -> int:
        """How many regions there are."""
        return int(self.numbers.max(initial=-1)) + 1

    def sizes(self) -> Positions:
        """Pixels of each region, (count,)."""
        return np.bincount(self.numbers, self.ends - self.starts, self.count).astype(np.intp)

    def pixels(self, top: int, bottom: int, width: int) -> tuple[Positions, Positions]:
        """Of the rows from ``top`` to before ``bottom``: marked pixels, row by row from 0, and their regions.

        Args:
            top: the first row.
            bottom: the row behind the last.
            width: of the mask.

        Returns:
            (m,) positions in those rows, flattened, and (m,) numbers of regions.
        """
        here = slice(*np.searchsorted(self.rows, (top, bottom)))
        starts, lengths = self.starts[here], self.ends[here] - self.starts[here]
        behind = np.cumsum(lengths) - lengths
        firsts = (self.rows[here] - top) * width + starts - behind
        return (
            np.repeat(firsts, lengths) + np.arange(lengths.sum()),
            np.repeat(self.numbers[here], lengths),
        )


def regions_of(mask: Mask) -> Regions:
    """The connected regions of a mask, (H, W)."""
    rows, starts, ends = _runs(mask)
    upper, lower = _touching(rows, starts, ends, mask.shape[1])
    _, numbers = np.unique(_joined(len(rows), upper, lower), return_inverse=True)
    return Regions(rows, starts, ends, numbers.astype(np.intp))


def _runs(mask: Mask) -> tuple[Positions, Positions, Positions]:
    height, width = mask.shape
    bordered = np.zeros((height, width + 2), np.bool_)
    bordered[:, 1:-1] = mask
    changes = np.flatnonzero(bordered[:, 1:] != bordered[:, :-1])
    rows, columns = np.divmod(changes, width + 1)
    return rows[::2], columns[::2], columns[1::2]


def _touching(rows: Positions, starts: Positions, ends: Positions, width: int) -> tuple[Positions, Positions]:
    """Pairs of runs that touch: the upper and the lower of each."""
    stride = width + 2
    below = (rows + 1) * stride
    first = np.searchsorted(rows * stride + ends, below + starts, "left")
    behind = np.searchsorted(rows * stride + starts, below + ends, "right")
    counts = np.maximum(behind - first, 0)
    upper = np.repeat(np.arange(len(rows)), counts)
    lower = np.arange(counts.sum()) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    return upper, lower


def _joined(count: int, upper: Positions, lower: Positions) -> Positions:
    """For each of ``count`` runs the first one that pairs connect it with."""
    roots = np.arange(count)
    while True:
        one, other = roots[upper], roots[lower]
        if (one == other).all():
            return roots
        np.minimum.at(roots, np.maximum(one, other), np.minimum(one, other))
        while (roots[roots] != roots).any():
            roots = roots[roots]
