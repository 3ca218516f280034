"""What is odd about the images of a run, counted: a row alone would not show it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import cast

import numpy as np

from anomscan.images.decode import Decoded
from anomscan.images.glance import LEAST_DIFFERENCE, small_picture
from anomscan.screen.screener import Scored
from anomscan.text import many
from anomscan.types import Features, Pixels

FEWEST_ALIKE = 5
"""Images of which it is odd that they all look the same."""


_ODD = ("clipped", "flat", "thumbnail", "further_pages")
"""What is counted; the bits of a mark, from the lowest."""
_UNLIKE = 1 << len(_ODD)


def as_seen(image: Decoded) -> Decoded:
    """The same image with so little of its pixels, as floats, that ``RemarkCounts`` counts it as before."""
    grey = _small(image)[..., np.newaxis]
    return replace(image, pixels=cast(Pixels, np.repeat(grey, 3, axis=-1)))


def _small(image: Decoded) -> Features:
    """Its tiles, or the one that it is, made small and grey: (T, rows, columns)."""
    tiles = image.pixels if image.pixels.ndim == 4 else image.pixels[None]
    return np.stack([small_picture(tile) for tile in tiles])


class RemarkCounts:
    """Counts what the decoder found odd, and sees when all images are alike.

    They are where none differs from the first by more than normals that are refused may from each other: a
    camera that is stuck, or capped, still adds its noise. What is odd about an image is also its mark, a
    number by which it is counted ``again`` in another run; ``first`` is the first image, made small.
    """

    def __init__(self, first: Features | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.first = first
        self._images = 0
        self._alike = True

    def add(self, scored: Scored) -> list[int]:
        """Look at a batch; the marks of its images."""
        marks = [self._mark(image) for image in scored.images]
        for mark in marks:
            self.again(mark)
        return marks

    def again(self, mark: int) -> None:
        """Count an image by its mark."""
        for bit, what in enumerate(_ODD):
            self.counts[what] += mark >> bit & 1
        self._alike = self._alike and not mark & _UNLIKE
        self._images += 1

    def _mark(self, image: Decoded) -> int:
        remarks = image.remarks
        odd = (remarks.clipped, remarks.flat, remarks.thumbnail, remarks.pages > 0)
        unlike = self._alike and not self._is_like_the_first(image)
        return sum(is_odd << bit for bit, is_odd in enumerate((*odd, unlike)))

    def _is_like_the_first(self, image: Decoded) -> bool:
        picture = _small(image)
        if self.first is None:
            self.first = picture
        difference = float(np.sqrt(np.square(picture - self.first).mean()))
        return difference <= 2 * LEAST_DIFFERENCE

    @property
    def alike(self) -> bool:
        """Whether all images, of several, look the same."""
        return self._alike and self._images >= FEWEST_ALIKE

    def messages(self) -> list[str]:
        """What a person should know."""
        lines = []
        if self.alike:
            lines.append(
                f"all {self._images} images look the same: is the camera stuck, the lens capped, the range "
                "of grey levels another?"
            )
        for what, one, more, sentence in (
            (
                "clipped",
                "image has",
                "images have",
                "over 1 % of pixels outside the normals' range of levels",
            ),
            ("flat", "image is", "images are", "of one single colour"),
            ("thumbnail", "file holds", "files hold", "a reduced version first, and that was looked at"),
            (
                "further_pages",
                "file has",
                "files have",
                "further pages or frames that were not looked at; see --pages all",
            ),
        ):
            if self.counts[what]:
                lines.append(f"{many(self.counts[what], one, more)} {sentence}")
        return lines
