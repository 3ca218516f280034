"""SPADE (Cohen and Hoshen 2020): the normals nearest to an image, and what of it none of them has anywhere.

The score is that of the image as a whole; the map only says where. Distances are averaged, not their squares.
What differs from the paper: patches are kept in 16 bits, and the map is not smoothed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from anomscan.errors import ModelDamaged, UsageError
from anomscan.scoring.bank import Bank
from anomscan.scoring.base import Indexed, Scorer
from anomscan.scoring.every_patch import MOST, EveryPatch, WholeBank
from anomscan.scoring.gallery import Gallery
from anomscan.scoring.info import GalleryInfo, PatchInfo
from anomscan.scoring.patched import Patched
from anomscan.scoring.reduction import Reduction
from anomscan.types import Features, Outputs, PatchMaps, Rows

NORMALS = 50
"""K: the nearest normals (sec. 3.2)."""
NEIGHBOURS = 1
"""Kappa: the nearest patches of those (sec. 3.3)."""
_MEASURED = 16
"""Normals that are compared with the others, to tell what is dark: each takes as long as many others."""


class Spade(Patched[EveryPatch]):
    """The mean distance of the image to its K nearest normals; of each patch to its nearest among theirs."""

    name = title = "spade"
    most = MOST
    banks = WholeBank
    ranks_by_patches = False

    @classmethod
    def check(cls, reduction: Reduction | None) -> None:
        """Raise UsageError where the gallery is to be reduced."""
        if reduction is not None:
            raise UsageError("spade looks at the patches of the nearest of all normals; leave --reduce out")

    @classmethod
    def stored(cls, bank: Bank, seed: int) -> tuple[EveryPatch, GalleryInfo]:
        """All that the bank holds."""
        patches = EveryPatch.of(bank)
        return patches, GalleryInfo(vectors=len(patches))

    @classmethod
    def over(cls, image: Scorer, info: PatchInfo, files: Mapping[str, Path]) -> Self:
        """Read the patches back and set them over a loaded scorer of whole images; raises ModelDamaged."""
        patches = EveryPatch.load(files)
        if len(image.gallery) != len(patches.paths):
            raise ModelDamaged("the patches are of other normals than the gallery's; adapt again")
        return cls(image, info.looks, patches, info)

    def fit(self, normals: Outputs, seed: int, reduction: Reduction | None = None) -> Indexed:
        """As every scorer, with K neighbours where there are as many normals."""
        self.image.info = replace(self.image.info, k=NORMALS)
        return super().fit(normals, seed, reduction)

    def compare(self, outputs: Outputs, patches: Features) -> PatchMaps:
        """The map by the patches of the K nearest normals (eq. 3), and the mean distance to those (eq. 2)."""
        self.patches.check(patches)
        distances, rows = self.gallery.search(outputs.image, min(NORMALS, len(self.gallery)))
        found = [self._map(image, normals) for image, normals in zip(patches, rows, strict=True)]
        maps, nearest = (np.stack(parts) for parts in zip(*found, strict=True))
        return PatchMaps(maps, nearest, distances.mean(axis=1))

    def _map(self, patches: Features, normals: Rows) -> tuple[Features, Rows]:
        """Mean distance of (rows, columns, C) to their nearest among those of some normals; the nearest."""
        normals = normals[normals >= 0]
        gallery = self.patches.features[normals].astype(np.float32)
        each, length = len(self.patches) // len(self.patches.paths), gallery.shape[-1]
        search = Gallery.build(gallery.reshape(-1, length), "euclidean")
        distances, found = search.search(patches.reshape(-1, patches.shape[-1]), NEIGHBOURS)
        nearest = normals[found[:, 0] // each] * each + found[:, 0] % each
        return distances.mean(axis=1).reshape(patches.shape[:2]), nearest.reshape(patches.shape[:2])

    def among_other_patches(
        self, positions: NDArray[np.int32], patches: Features, normals: Outputs
    ) -> Features:
        """By the K nearest other normals; of an only one by itself."""
        some = slice(0, _MEASURED)
        count = min(NORMALS + 1, len(self.gallery))
        rows = self.gallery.search(normals.image[positions[some]], count)[1]
        maps = []
        for own, image, found in zip(positions[some], patches[some], rows, strict=True):
            others = found[found != own] if count > 1 else found
            maps.append(self._map(image, others[:NORMALS])[0])
        return np.stack(maps)

    def patches_apart(self, own: NDArray[np.int64], sets: NDArray[np.int64], patches: Features) -> Features:
        """Nothing: normals are ranked as whole images, as images are scored."""
        return np.zeros(len(patches), np.float32)
