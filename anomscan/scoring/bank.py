"""The patches of the normals, as many as fit, however many images they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from anomscan.scoring.reduction import coreset
from anomscan.types import Features

MOST = 10_000
"""Patches in a gallery where no other number was asked for: their search costs less than the network."""
WAITING = 100_000
"""Patches that are gathered before they are reduced."""
SAMPLED = 48
"""Images of which every patch is kept, to measure by."""
_PROJECTION = 256


@dataclass(frozen=True)
class Patches:
    """K patches of normals, and where each came from.

    ``features`` is (K, C) float32; ``images`` (K,) positions in a list of images; ``places`` (K, 2) int16,
    row and column in a grid.
    """

    features: Features
    images: NDArray[np.int32]
    places: NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.features)

    def at(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Patches:
        """Some of them."""
        return Patches(self.features[rows], self.images[rows], self.places[rows])


class Bank:
    """Gathers patches of one image after the other and keeps at most ``most`` that cover all others.

    A coverage is what counts: of 74,000 patches of tiles, 2,000 at random miss most of what is normal, a
    greedy choice of 2,000 does not (PatchCore, sec. 3.2). It is made whenever ``WAITING`` more have come, so
    that memory does not grow with the number of images.

    Args:
        most: patches to keep.
        seed: of the choices.
        tiles: of an image, whose patches stand below each other; 1 of one that is looked at as a whole.
    """

    share: ClassVar[float] = 1.0
    """Of all patches that came, the most that are kept."""

    def __init__(self, most: int = MOST, seed: int = 0, tiles: int = 1) -> None:
        self.most, self._seed, self.tiles = most, seed, tiles
        self._came = 0
        self._parts: list[Patches] = []
        self._waiting = 0
        self.paths: list[str] = []
        self.grid = (0, 0)
        self._sample: list[tuple[int, Features]] = []
        self._generator = np.random.default_rng(seed)

    @classmethod
    def of(
        cls,
        patches: Patches,
        paths: list[str],
        grid: tuple[int, int],
        most: int,
        seed: int,
        tiles: int = 1,
    ) -> Self:
        """A bank that holds patches already."""
        bank = cls(most, seed, tiles)
        bank.paths, bank.grid, bank._parts = list(paths), grid, [patches]
        bank._came = round(len(patches) / cls.share)
        return bank

    def add(self, patches: Features, paths: list[str]) -> None:
        """Take the patches, (n, rows, columns, C), of n images."""
        count, rows, columns, _ = patches.shape
        self.grid = (rows, columns)
        place = np.indices((rows, columns), np.int16).reshape(2, -1).T
        first = len(self.paths)
        images = np.repeat(np.arange(first, first + count, dtype=np.int32), rows * columns)
        self._parts.append(
            Patches(patches.reshape(len(images), -1).copy(), images, np.tile(place, (count, 1)))
        )
        high = rows // self.tiles
        for i in range(count):
            top = high * ((first + i) % self.tiles)
            self._consider(first + i, patches[i, top : top + high])
        self.paths += paths
        self._came += len(images)
        self._waiting += len(images)
        if self._waiting >= WAITING:
            self._reduce()

    def forget(self, paths: set[str], before: int) -> None:
        """Drop the patches of some images among the first ``before``."""
        gone = [i for i, path in enumerate(self.paths[:before]) if path in paths]
        self._parts = [part.at(~np.isin(part.images, gone)) for part in self._parts]

    def _consider(self, image: int, patches: Features) -> None:
        """Draw ``SAMPLED`` of however many images (reservoir sampling)."""
        place = image if image < SAMPLED else int(self._generator.integers(image + 1))
        if image < SAMPLED:
            self._sample.append((image, patches.astype(np.float16)))
        elif place < SAMPLED:
            self._sample[place] = (image, patches.astype(np.float16))

    def _reduce(self) -> None:
        patches = joined(self._parts)
        most = min(self.most, max(1, round(self.share * self._came)))
        if len(patches) > most:
            patches = patches.at(np.sort(coreset(patches.features, most, self._seed, _PROJECTION)))
        self._parts, self._waiting = [patches], 0

    def patches(self) -> Patches:
        """What is kept of all that came."""
        self._reduce()
        return self._parts[0]

    def sample(self) -> tuple[NDArray[np.int32], Features]:
        """The positions of a few images, (m,), and all patches of a tile of each, (m, rows, columns, C)."""
        positions = np.array([image for image, _ in self._sample], np.int32)
        return positions, np.array([patches for _, patches in self._sample], np.float32)


def joined(parts: list[Patches]) -> Patches:
    """All of them, in order."""
    return Patches(
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.places for part in parts]),
    )
