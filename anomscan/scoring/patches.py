"""The gallery of patches: how far each patch of an image is from the nearest patch of a normal."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anomscan.errors import ModelDamaged
from anomscan.scoring.bank import Bank, Patches
from anomscan.scoring.base import read_arrays
from anomscan.scoring.gallery import Gallery
from anomscan.scoring.info import GalleryInfo
from anomscan.types import Arrays, Features, PatchMaps

if TYPE_CHECKING:
    from anomscan.network.graph import Graph, Value

PATCHES, PLACES = "patches", "places"
"""Roles of its files: the search, and where each patch came from."""
TOP = 0.005
"""Share of the patches of an image, the farthest, whose mean distance is its peak."""
_LARGEST_GRID = 1 << 15
_EXACT_UP_TO, _LISTS = 2000, 32
# A search that misses the nearest finds one almost as near; so many lists cost less than the network.
_OTHERS = 16


class NormalPatches(ABC):
    """Patches of the normals, and where each came from; ``grid`` has the rows and columns of an image."""

    paths: list[str]
    grid: tuple[int, int]

    @abstractmethod
    def __len__(self) -> int:
        """How many there are."""

    @abstractmethod
    def origin(self, position: int) -> tuple[str, int, int]:
        """The normal that a patch came from, and its row and column there."""

    @abstractmethod
    def held(self) -> Patches:
        """The patches themselves."""

    @abstractmethod
    def save(self, folder: Path) -> dict[str, Path]:
        """Write its files into ``folder``; returns them by role."""

    @abstractmethod
    def graph(self, graph: Graph, patches: Value) -> Value:
        """Add the comparison to ``graph``: of patches (N, rows, columns, C) the distances (N, rows, columns).

        Raises:
            UsageError: it cannot be written as ONNX.
        """

    def check(self, patches: Features) -> None:
        """Raise ModelDamaged where (n, rows, columns, C) do not lie on the grid of the normals'.

        One tile of several that stand below each other has a part of the rows.
        """
        rows, columns = patches.shape[1:3]
        if columns != self.grid[1] or not rows or self.grid[0] % rows:
            raise ModelDamaged(
                f"the network gives {rows} x {columns} patches and those of the normals lie on "
                f"{self.grid[0]} x {self.grid[1]}; adapt again"
            )


class PatchGallery(NormalPatches):
    """Patches of the normals, and the nearest of them (SPADE sec. 3.3; PatchCore eq. 5 and 6).

    Args:
        gallery: the search among them, by Euclidean distance.
        images: (K,) for each the position of its image in ``paths``.
        places: (K, 2) its row and column in ``grid``.
        paths: of the normals.
        grid: rows and columns of patches in an image.
    """

    def __init__(
        self,
        gallery: Gallery,
        images: NDArray[np.int32],
        places: NDArray[np.int16],
        paths: list[str],
        grid: tuple[int, int],
    ) -> None:
        self.gallery, self.images, self.places, self.paths, self.grid = gallery, images, places, paths, grid

    @classmethod
    def build(cls, bank: Bank, seed: int, exact_up_to: int | None = None) -> tuple[PatchGallery, GalleryInfo]:
        """A gallery of what the bank holds, and what it is.

        One of no more than ``exact_up_to`` patches is searched exactly, or of ``_EXACT_UP_TO``.
        """
        kept, limit = bank.patches(), _EXACT_UP_TO if exact_up_to is None else exact_up_to
        gallery, info = Gallery.build_fast(kept.features, "euclidean", seed, limit, _LISTS)
        return cls(gallery, kept.images, kept.places, bank.paths, bank.grid), info

    def __len__(self) -> int:
        return len(self.gallery)

    def maps(self, patches: Features) -> PatchMaps:
        """Compare n images, (n, rows, columns, C); one after the other, so that none depends on another.

        Raises:
            ModelDamaged: they lie on another grid than the normals'.
        """
        self.check(patches)
        found = [self.gallery.search(image.reshape(-1, image.shape[-1]), 1) for image in patches]
        shape = patches.shape[:3]
        return PatchMaps(
            np.array([distances for distances, _ in found], np.float32).reshape(shape),
            np.array([nearest for _, nearest in found], np.int64).reshape(shape),
        )

    def graph(self, graph: Graph, patches: Value) -> Value:
        """Add the search to ``graph``: of patches (N, rows, columns, C) the distances (N, rows, columns)."""
        flat = graph.shaped(patches, -1, self.gallery.dim)
        return graph.shaped(self.gallery.graph(graph, flat, 1)[0], -1, *self.grid)

    def maps_without(self, positions: NDArray[np.int32], patches: Features) -> Features:
        """Distances of the patches of m normals, (m, rows, columns, C), to those of the others.

        An only normal is compared with itself: with the ``_OTHERS``-th nearest of its patches.
        """
        return self.maps_apart(positions, np.arange(len(self.paths)), patches)

    def maps_apart(
        self,
        positions: NDArray[np.int32] | NDArray[np.int64],
        sets: NDArray[np.int64],
        patches: Features,
        metric: Features | None = None,
    ) -> Features:
        """The same where ``sets``, a number for each of ``paths``, says which normals are copies.

        ``positions`` are the numbers of the m normals among those. ``metric``, (C, C), is what differences
        are multiplied by before their lengths are taken; of the nearest as they are the nearest counts.
        """
        found, sets = np.empty(patches.shape[:3], np.float32), sets[self.images]
        vectors = self.gallery.vectors() if metric is not None else None
        for image, own, into in zip(patches, positions, found, strict=True):
            flat = image.reshape(-1, image.shape[-1])
            distances, rows = self.gallery.search(flat, min(_OTHERS, len(self)))
            others = (sets[rows] != own) & (rows >= 0)
            if vectors is None or metric is None:
                nearest = distances[np.arange(len(flat)), others.argmax(axis=1)]
            else:
                away = np.linalg.norm((vectors[rows] - flat[:, None]) @ metric, axis=2)
                nearest = np.where(others, away, np.inf).min(axis=1)
            hidden = ~others.any(axis=1)  # behind its own
            if hidden.any():
                nearest[hidden] = self._to_others(flat[hidden], sets != own, metric)
            into[:] = nearest.reshape(into.shape)
        return found

    def nearest_others(self, patches: Features, own: NDArray[np.int64], sets: NDArray[np.int64]) -> Features:
        """Distances of the patches of an image, (rows, columns, C), to the nearest that are not of a set.

        Args:
            patches: of any image.
            own: (rows columns,) the set of each patch.
            sets: a number for each of ``paths``.

        Returns:
            (rows columns,) float32; infinite where none of the nearest ``_OTHERS`` is of another set.
        """
        distances, rows = self.gallery.search(patches.reshape(-1, patches.shape[-1]), min(_OTHERS, len(self)))
        others = (sets[self.images[rows]] != own[:, None]) & (rows >= 0)
        found: Features = np.where(others, distances, np.float32(np.inf)).min(axis=1)
        return found

    def _to_others(
        self, patches: Features, which: NDArray[np.bool_], metric: Features | None = None
    ) -> Features:
        """Exact distances of (n, C) patches to the nearest of some, (K,), of the gallery's."""
        others = self.gallery.vectors()[which]
        if len(others) == 0:
            return self.gallery.search(patches, min(_OTHERS, len(self)))[0][:, -1]
        if metric is not None:
            others, patches = others @ metric, patches @ metric
        return Gallery.build(others, "euclidean").search(patches, 1)[0][:, 0]

    def origin(self, position: int) -> tuple[str, int, int]:
        """The normal that a patch came from, and its row and column there."""
        row, column = self.places[position]
        return self.paths[self.images[position]], int(row), int(column)

    def held(self) -> Patches:
        """The patches themselves."""
        return Patches(self.gallery.vectors(), self.images, self.places)

    def save(self, folder: Path) -> dict[str, Path]:
        """Write its files into ``folder``; texts in ASCII, so that names of any bytes come back exactly."""
        files = {PATCHES: folder / "patches.faiss", PLACES: folder / "places.npz"}
        self.gallery.save(files[PATCHES])
        arrays = written_origin(self.paths, self.grid)
        np.savez(files[PLACES], images=self.images, places=self.places, **arrays)  # type: ignore[arg-type]
        return files

    @classmethod
    def load(cls, files: Mapping[str, Path]) -> PatchGallery:
        """Read it back; nothing in the files is executed. Raises ModelDamaged where they do not fit."""
        return cls.fitting(Gallery.load(files[PATCHES]), read_arrays(files[PLACES]), files[PLACES].name)

    @classmethod
    def fitting(cls, gallery: Gallery, arrays: Arrays, name: str) -> PatchGallery:
        """A search with what a file, ``name``, says of its patches; raises ModelDamaged where they differ."""
        paths, grid = read_origin(arrays, name)
        images, places = (_whole_numbers(arrays, array, name) for array in ("images", "places"))
        fits = images.shape == (len(gallery),) and places.shape == (len(gallery), 2)
        if fits and len(images):
            fits = bool((places >= 0).all() and (places < grid).all())
            fits = fits and 0 <= images.min() <= images.max() < len(paths)
        if not fits:
            raise ModelDamaged(f"{name} does not go with its patches; adapt again")
        return cls(gallery, images.astype(np.int32), places.astype(np.int16), paths, grid)


def written_origin(paths: list[str], grid: tuple[int, int]) -> dict[str, NDArray[Any]]:
    """Paths and a grid as arrays; in ASCII, so that names of any bytes come back exactly."""
    texts = np.frombuffer(json.dumps(paths).encode("ascii"), np.uint8)
    return {"grid": np.array(grid, np.int64), "texts": texts}


def read_origin(arrays: Arrays, name: str) -> tuple[list[str], tuple[int, int]]:
    """What ``written_origin`` wrote; raises ModelDamaged, which names the file ``name``."""
    grid = _whole_numbers(arrays, "grid", name)
    try:
        paths = json.loads(arrays["texts"].tobytes())
    except (ValueError, KeyError, RecursionError) as error:
        raise ModelDamaged(f"{name} does not say where patches are from; adapt again") from error
    named = isinstance(paths, list) and all(isinstance(path, str) for path in paths)
    if not named or grid.shape != (2,) or not ((grid > 0) & (grid < _LARGEST_GRID)).all():
        raise ModelDamaged(f"{name} does not say where patches are from; adapt again")
    return paths, (int(grid[0]), int(grid[1]))


def _whole_numbers(arrays: Arrays, array: str, name: str) -> NDArray[Any]:
    """An array of integers; raises ModelDamaged where it is missing or something else."""
    if array not in arrays or arrays[array].dtype.kind not in "iu":
        raise ModelDamaged(f"{name} does not say where patches are from; adapt again")
    return arrays[array]


def peaks(distances: Features) -> Features:
    """The mean of the largest ``TOP`` of the distances of each image, (n, rows, columns) to (n,).

    A small defect is a peak. PatchCore takes the largest alone (eq. 6); a few more are steadier.
    """
    flat = distances.reshape(len(distances), -1)
    count = in_peak(flat.shape[1])
    largest = np.partition(flat, -count, axis=1)[:, -count:]
    found: Features = largest.mean(axis=1)
    return found


def in_peak(patches: int) -> int:
    """How many of an image's patches make up its peak."""
    return max(1, round(TOP * patches))


def averages(distances: Features) -> Features:
    """The mean of all distances of each image, (n, rows, columns) to (n,): a large defect raises it."""
    found: Features = distances.reshape(len(distances), -1).mean(axis=1)
    return found
