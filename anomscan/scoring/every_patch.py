"""Every patch of every normal, for what compares with all those of some normals, or of one place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from anomscan.errors import ModelDamaged, UsageError
from anomscan.scoring.bank import Bank, Patches, joined
from anomscan.scoring.base import read_arrays
from anomscan.scoring.patches import PATCHES, PLACES, NormalPatches, read_origin, written_origin
from anomscan.spread import spread_over
from anomscan.types import Features

if TYPE_CHECKING:
    from anomscan.network.graph import Graph, Value

MOST = 2_000_000
"""Patches that are kept: of 2,500 normals on a grid of 28 x 28, 700 MB of the default network's."""
_LOOKED_AT = 16
"""Normals of a file that is read whose patches are looked at: whether they are numbers."""


class WholeBank(Bank):
    """Keeps all that comes, in 16 bits; more than the most is refused."""

    def add(self, patches: Features, paths: list[str]) -> None:
        """Take the patches, (n, rows, columns, C), of n images.

        Raises:
            UsageError: they are more than the most, with what came before.
        """
        rows, columns = patches.shape[1:3]
        if (len(self.paths) + len(paths)) * rows * columns > self.most:
            raise UsageError(
                f"the method keeps every patch of the normals, {rows * columns} of each, and no more than "
                f"{self.most} of all; give fewer normals, a larger --patches, or --method patchcore"
            )
        super().add(patches.astype(np.float16), paths)

    def _reduce(self) -> None:
        """Nothing is left out."""
        self._parts, self._waiting = [joined(self._parts)], 0


class EveryPatch(NormalPatches):
    """All patches of N normals.

    Args:
        features: (N, rows, columns, C) float16.
        paths: of the normals, in the order of the gallery of whole images.
    """

    def __init__(self, features: NDArray[np.float16], paths: list[str]) -> None:
        self.features, self.paths = features, paths
        self.grid = (features.shape[1], features.shape[2])

    @classmethod
    def of(cls, bank: Bank) -> Self:
        """All that the bank holds, of the images of which it holds any."""
        kept = bank.patches()
        images, counts = np.unique(kept.images, return_counts=True)
        rows, columns = bank.grid
        assert (counts == rows * columns).all()  # noqa: S101 - such a bank keeps all of an image, or none
        features = kept.features.reshape(len(images), rows, columns, -1).astype(np.float16, copy=False)
        return cls(features, [bank.paths[image] for image in images])

    def __len__(self) -> int:
        return int(np.prod(self.features.shape[:3]))

    def origin(self, position: int) -> tuple[str, int, int]:
        """The normal that a patch came from, and its row and column there."""
        image, row, column = np.unravel_index(position, self.features.shape[:3])
        return self.paths[int(image)], int(row), int(column)

    def held(self) -> Patches:
        """The patches themselves."""
        images, rows, columns, _ = self.features.shape
        image = np.repeat(np.arange(images, dtype=np.int32), rows * columns)
        place = np.indices((rows, columns), np.int16).reshape(2, -1).T
        flat = self.features.reshape(len(self), -1)
        return Patches(flat, image, np.tile(place, (images, 1)))  # type: ignore[arg-type]

    def graph(self, graph: Graph, patches: Value) -> Value:
        """None: the file would hold every patch. Raises UsageError."""
        raise UsageError("a model that keeps every patch cannot be written as ONNX; leave --with-scorer out")

    def save(self, folder: Path) -> dict[str, Path]:
        """Write its files into ``folder``; returns them by role."""
        files = {PATCHES: folder / "patches.npz", PLACES: folder / "places.npz"}
        np.savez(files[PATCHES], patches=self.features)
        np.savez(files[PLACES], **written_origin(self.paths, self.grid))  # type: ignore[arg-type]
        return files

    @classmethod
    def load(cls, files: Mapping[str, Path]) -> Self:
        """Read it back; nothing in the files is executed. Raises ModelDamaged where they do not fit."""
        arrays, name = read_arrays(files[PATCHES]), files[PATCHES].name
        paths, grid = read_origin(read_arrays(files[PLACES]), files[PLACES].name)
        features = arrays.get("patches", np.empty(0, np.float32))
        if features.dtype != np.float16 or features.ndim != 4 or not features.size:
            raise ModelDamaged(f"{name} does not hold patches; adapt again")
        if (len(features), *features.shape[1:3]) != (len(paths), *grid):
            raise ModelDamaged(f"{files[PLACES].name} does not go with its patches; adapt again")
        some = spread_over(len(features), _LOOKED_AT)
        if not np.isfinite(features[some]).all():
            raise ModelDamaged(f"{name} holds patches that are no numbers; adapt again")
        return cls(np.asarray(features, np.float16), paths)
