"""PatchCore (Roth et al. 2022): how far the farthest patch is from a coreset of those of the normals.

What differs from the paper: the coreset is 10 % of the patches of all normals, as there, but no more than
``--patches``; and it is chosen again whenever ``bank.WAITING`` more patches have come, from those and from
what was kept, so that memory is bounded. The map is not smoothed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from anomscan.scoring.bank import Bank
from anomscan.scoring.base import Scorer
from anomscan.scoring.gallery import EXACT_UP_TO
from anomscan.scoring.info import GalleryInfo, PatchInfo
from anomscan.scoring.patched import Patched
from anomscan.scoring.patches import PatchGallery
from anomscan.types import Features, Outputs, PatchMaps

SHARE = 0.1
"""Of the patches of all normals, those that are kept, as in the paper's PatchCore-10 %."""
NEIGHBOURS = 9
"""b of eq. 7: the nearest patches of the gallery to one of them, itself among them."""


class CoresetBank(Bank):
    """Keeps a share of what came (alg. 1), and no more than the most."""

    share = SHARE


class PatchCore(Patched[PatchGallery]):
    """The distance of the farthest patch, weighted by how crowded its nearest normal patch is."""

    name = title = "patchcore"
    banks = CoresetBank

    @classmethod
    def stored(cls, bank: Bank, seed: int) -> tuple[PatchGallery, GalleryInfo]:
        """A gallery of what the bank holds, searched exactly: one patch alone decides."""
        return PatchGallery.build(bank, seed, EXACT_UP_TO)

    @classmethod
    def over(cls, image: Scorer, info: PatchInfo, files: Mapping[str, Path]) -> Self:
        """Read the patches back and set them over a loaded scorer of whole images; raises ModelDamaged."""
        return cls(image, info.looks, PatchGallery.load(files), info)

    def compare(self, outputs: Outputs, patches: Features) -> PatchMaps:
        """Distances to the nearest patch of a normal (eq. 6), and the score by the farthest."""
        maps = self.patches.maps(patches)
        scores = [
            self._score(image.reshape(-1, image.shape[-1]), distances.ravel(), nearest.ravel())
            for image, distances, nearest in zip(patches, maps.distances, maps.nearest, strict=True)
        ]
        return PatchMaps(maps.distances, maps.nearest, np.array(scores, np.float32))

    def _score(self, patches: Features, distances: Features, nearest: NDArray[np.int64]) -> float:
        """Eq. 5 to 7 of an image, by its patches, (P, C), and how far they are, (P,), from which, (P,).

        The farthest patch is m_test, the normal one nearest to it m*; its distance is multiplied by
        1 - exp |m_test - m*| / sum over the b nearest m to m* of exp |m_test - m|.
        """
        gallery, place = self.patches.gallery, int(distances.argmax())
        if nearest[place] < 0:
            return float("nan")  # a patch that is no number has no neighbour; who judges says so
        around = gallery.at(nearest[place : place + 1])
        neighbours = gallery.search(around, min(NEIGHBOURS, len(gallery)))[1][0]
        found = gallery.at(neighbours[neighbours >= 0])
        away = np.linalg.norm(found - patches[place], axis=1).astype(np.float64)
        farthest = float(distances[place])
        return farthest * (1.0 - 1.0 / float(np.exp(away - farthest).sum()))

    def among_other_patches(
        self, positions: NDArray[np.int32], patches: Features, normals: Outputs
    ) -> Features:
        """Without those of the same normal."""
        return self.patches.maps_without(positions, patches)

    def patches_apart(self, own: NDArray[np.int64], sets: NDArray[np.int64], patches: Features) -> Features:
        """The farthest of their patches (eq. 6); what eq. 7 makes of it hardly changes an order."""
        farthest: Features = self.patches.maps_apart(own, sets, patches).max(axis=(1, 2))
        return farthest
