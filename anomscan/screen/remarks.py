"""What is odd about the images of a run, counted: a row alone would not show it."""

from __future__ import annotations

from collections import Counter

import numpy as np

from anomscan.images.decode import Decoded
from anomscan.images.glance import LEAST_DIFFERENCE, small_picture
from anomscan.screen.screener import Scored
from anomscan.text import many
from anomscan.types import Features

FEWEST_ALIKE = 5
"""Images of which it is odd that they all look the same."""


class RemarkCounts:
    """Counts what the decoder found odd, and sees when all images are alike.

    They are where none differs from the first by more than normals that are refused may from each other: a
    camera that is stuck, or capped, still adds its noise.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._first: Features | None = None
        self._images = 0
        self._alike = True

    def add(self, scored: Scored) -> None:
        """Look at a batch."""
        for image in scored.images:
            remarks = image.remarks
            self.counts["clipped"] += remarks.clipped
            self.counts["flat"] += remarks.flat
            self.counts["thumbnail"] += remarks.thumbnail
            self.counts["further_pages"] += remarks.pages > 0
            self._alike = self._alike and self._is_like_the_first(image)
        self._images += len(scored.images)

    def _is_like_the_first(self, image: Decoded) -> bool:
        tiles = image.pixels if image.pixels.ndim == 4 else image.pixels[None]
        picture = np.stack([small_picture(tile) for tile in tiles])
        if self._first is None:
            self._first = picture
        difference = float(np.sqrt(np.square(picture - self._first).mean()))
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
