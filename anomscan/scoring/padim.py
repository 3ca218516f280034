"""PaDiM (Defard et al. 2021): a Gaussian at each place, for parts that always lie in the same place.

What differs from the paper: patches are kept in 16 bits, and the map is not smoothed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from anomscan.errors import ModelDamaged
from anomscan.scoring.bank import Bank
from anomscan.scoring.base import Scorer, read_arrays
from anomscan.scoring.every_patch import MOST, EveryPatch, WholeBank
from anomscan.scoring.info import GalleryInfo, PatchInfo
from anomscan.scoring.patched import Patched
from anomscan.scoring.patches import PATCHES, PLACES
from anomscan.types import Features, Outputs, PatchMaps

GAUSSIANS = "gaussians"
"""Role of the file with a Gaussian for each place."""
REGULAR = 0.01
"""Epsilon of eq. 1: what is added to the variance of each component."""
_LEAST = 1e-6


class Gaussians:
    """N(mu, Sigma) at each of P places.

    Args:
        means: (P, d) float32.
        factors: (P, d, d) float32, lower triangular; L' L is the inverse of Sigma.
        count: of the normals that they are of.
    """

    def __init__(self, means: Features, factors: Features, count: int) -> None:
        self.means, self.factors, self.count = means, factors, count

    @classmethod
    def of(cls, patches: NDArray[np.float16]) -> Gaussians:
        """Of n normals, (n, rows, columns, d): Sigma is sum (x - mu)(x - mu)' / (n - 1) + eps I (eq. 1)."""
        count, rows, columns, dim = patches.shape
        places = patches.reshape(count, rows * columns, dim)
        means = np.empty((rows * columns, dim), np.float32)
        factors = np.empty((rows * columns, dim, dim), np.float32)
        for place in range(rows * columns):
            own = places[:, place].astype(np.float64)
            mean = own.mean(axis=0)
            centred = own - mean
            covariance = centred.T @ centred / max(count - 1, 1) + REGULAR * np.eye(dim)
            means[place], factors[place] = mean, np.linalg.inv(np.linalg.cholesky(covariance))
        return cls(means, factors, count)

    def distances(self, patches: Features) -> Features:
        """M = sqrt((x - mu)' Sigma^-1 (x - mu)) of an image's patches, (P, d), each at its place (eq. 2)."""
        white = self.factors @ (patches - self.means)[:, :, None]
        distances: Features = np.linalg.norm(white[:, :, 0], axis=1)
        return distances

    def without(self, distances: Features) -> Features:
        """What the distances of a normal that they are of would be, had they been made of the others alone.

        In closed form (Sherman and Morrison), but for epsilon, which is taken to grow by (n - 1) / (n - 2).
        """
        if self.count < 3:
            return distances
        n = self.count
        squares = np.square(distances.astype(np.float64)) * (n - 2) / (n - 1)
        left = np.maximum(1 - squares * n / ((n - 1) * (n - 2)), _LEAST)
        without: Features = (n / (n - 1) * np.sqrt(squares / left)).astype(np.float32)
        return without


class PlacedPatches(EveryPatch):
    """All patches of the normals, which it takes to leave some out again, and a Gaussian at each place."""

    gaussians: Gaussians

    def __init__(
        self, features: NDArray[np.float16], paths: list[str], gaussians: Gaussians | None = None
    ) -> None:
        super().__init__(features, paths)
        self.gaussians = gaussians or Gaussians.of(features)

    def save(self, folder: Path) -> dict[str, Path]:
        """Write its files into ``folder``; returns them by role."""
        file = folder / "gaussians.npz"
        np.savez(file, means=self.gaussians.means, factors=self.gaussians.factors)
        return {**super().save(folder), GAUSSIANS: file}

    @classmethod
    def load(cls, files: Mapping[str, Path]) -> Self:
        """Read it back; nothing in the files is executed. Raises ModelDamaged where they do not fit."""
        patches, arrays, name = EveryPatch.load(files), read_arrays(files[GAUSSIANS]), files[GAUSSIANS].name
        places, dim = int(np.prod(patches.grid)), patches.features.shape[-1]
        for array, shape in (("means", (places, dim)), ("factors", (places, dim, dim))):
            found = arrays.get(array, np.empty(0, np.float32))
            if found.dtype != np.float32 or found.shape != shape or not np.isfinite(found).all():
                raise ModelDamaged(f"{name} does not go with the patches of the normals; adapt again")
        gaussians = Gaussians(arrays["means"], arrays["factors"], len(patches.paths))
        return cls(patches.features, patches.paths, gaussians)


class Padim(Patched[PlacedPatches]):
    """The largest Mahalanobis distance of a patch to those of the normals at its place."""

    name = title = "padim"
    most = MOST
    banks = WholeBank
    roles = (PATCHES, PLACES, GAUSSIANS)

    @classmethod
    def stored(cls, bank: Bank, seed: int) -> tuple[PlacedPatches, GalleryInfo]:
        """All that the bank holds, and Gaussians of it."""
        patches = PlacedPatches.of(bank)
        return patches, GalleryInfo(vectors=len(patches))

    @classmethod
    def over(cls, image: Scorer, info: PatchInfo, files: Mapping[str, Path]) -> Self:
        """Read the patches back and set them over a loaded scorer of whole images; raises ModelDamaged."""
        return cls(image, info.looks, PlacedPatches.load(files), info)

    def compare(self, outputs: Outputs, patches: Features) -> PatchMaps:
        """Mahalanobis distances, which come from no single patch, and the largest of an image."""
        distances = self._distances(patches)
        nowhere = np.full(distances.shape, -1, np.int64)
        return PatchMaps(distances, nowhere, distances.max(axis=(1, 2)))

    def _distances(self, patches: Features) -> Features:
        """(n, rows, columns) of (n, rows, columns, d)."""
        self.patches.check(patches)
        places, dim = self.patches.gaussians.means.shape
        if patches.shape[1:] != (*self.patches.grid, dim):
            raise ModelDamaged(f"the network gives patches of another length than {dim}; adapt again")
        flat = patches.reshape(len(patches), places, dim)
        each = [self.patches.gaussians.distances(image) for image in flat]
        return np.array(each, np.float32).reshape(patches.shape[:3])

    def among_other_patches(
        self, positions: NDArray[np.int32], patches: Features, normals: Outputs
    ) -> Features:
        """By Gaussians of the others."""
        return self.patches.gaussians.without(self._distances(patches))

    def patches_apart(self, own: NDArray[np.int64], sets: NDArray[np.int64], patches: Features) -> Features:
        """The largest, by Gaussians without the normal itself; copies of it stay in them."""
        distances, known = self._distances(patches), np.isin(own, sets)
        distances[known] = self.patches.gaussians.without(distances[known])
        largest: Features = distances.max(axis=(1, 2))
        return largest
