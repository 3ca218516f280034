"""What is odd about the images of a run, counted: a row alone would not show it."""

from __future__ import annotations

from collections import Counter

import numpy as np

from anomscan.screen.screener import Scored
from anomscan.types import Features

ALIKE = 1e-3
"""Distance of two images' features, as a share of their length, below which they look the same."""
FEWEST_ALIKE = 5
"""Images of which it is odd that they all look the same."""


class RemarkCounts:
    """Counts what the decoder found odd, and sees when all images are alike."""

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
        features = scored.outputs.image
        self._first = features[0].copy() if self._first is None else self._first
        farthest = np.linalg.norm(features - self._first, axis=1).max()
        self._alike &= bool(farthest <= ALIKE * np.linalg.norm(self._first))
        self._images += len(features)

    @property
    def alike(self) -> bool:
        """Whether all images, of several, look the same to the network."""
        return self._alike and self._images >= FEWEST_ALIKE

    def messages(self) -> list[str]:
        """What a person should know."""
        lines = []
        if self.alike:
            lines.append(
                f"all {self._images} images look the same: is the camera stuck, the lens capped, the range "
                "of grey levels another?"
            )
        for what, sentence in (
            (
                "clipped",
                "images have over 1 % of their pixels outside the normals' range of grey levels",
            ),
            ("flat", "images are of one single colour"),
            ("thumbnail", "files hold a reduced version first, and that was looked at"),
            ("further_pages", "files have further pages or frames that were not looked at; see --pages all"),
        ):
            if self.counts[what]:
                lines.append(f"{self.counts[what]} {sentence}")
        return lines
