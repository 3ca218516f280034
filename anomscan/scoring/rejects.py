"""Missed anomalies: a second, small gallery, whose like score higher from then on.

What is at a distance d from the normals and r from the nearest reject counts as if it were at

    d' = d + WEIGHT max(d - MARGIN r, 0)

from the normals: a patch by the nearest patch of each, a whole image by the sum of its k distances and k
times that to the nearest reject. So nothing scores lower than without rejects, and what is farther from every
reject than from the normals scores what it did. Since d' grows with d, all that ``stats.calibration`` says of
scores by neighbours holds of these, too: rejects are no normals, and r depends on none.

Most of a reject is as normal as any normal. Of its patches only those count that are farther from the
normals' than the patches of normals are from each other; where there are none, the few that are farthest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anomscan.errors import ModelDamaged
from anomscan.scoring.bank import Patches, joined
from anomscan.scoring.base import read_arrays
from anomscan.scoring.gallery import Gallery
from anomscan.scoring.patches import PatchGallery, in_peak, read_origin, written_origin
from anomscan.types import Features, PatchMaps, Rows

if TYPE_CHECKING:
    from anomscan.network.graph import Graph, Value

REJECTS = "rejects"
"""Role of their file."""
MOST = 200
"""Rejects of a model: their search still costs less than the network."""
WEIGHT, MARGIN = 1.0, 1.0
MOST_PATCHES = 32
"""Patches of a reject, at most."""
_NO_GRID = (1, 1)


@dataclass(frozen=True)
class Rejects:
    """R missed anomalies.

    ``paths`` is where they were; ``features`` (R, D) float32, of whole images; ``patches`` those of them that
    are odd, or None where only whole images are looked at.
    """

    paths: list[str]
    features: Features
    patches: PatchGallery | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def without(self, paths: set[str]) -> Rejects | None:
        """All but some; None where none is left."""
        kept = np.array([i for i, path in enumerate(self.paths) if path not in paths], np.int64)
        return self._at(kept) if len(kept) else None

    def _at(self, rows: Rows) -> Rejects:
        paths, patches = [self.paths[row] for row in rows], None
        if self.patches is not None:
            held = self.patches.held()
            own = held.at(np.isin(held.images, rows))
            images = np.searchsorted(rows, own.images)
            patches = gathered(replace(own, images=images.astype(np.int32)), paths, self.grid)
        return Rejects(paths, self.features[rows], patches)

    def and_(self, others: Rejects) -> Rejects:
        """These, and others behind them."""
        paths, patches = [*self.paths, *others.paths], None
        if self.patches is not None and others.patches is not None:
            first, second = self.patches.held(), others.patches.held()
            second = replace(second, images=second.images + np.int32(len(self)))
            patches = gathered(joined([first, second]), paths, self.grid)
        return Rejects(paths, np.concatenate([self.features, others.features]), patches)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches in an image."""
        return _NO_GRID if self.patches is None else self.patches.grid

    def holds(self, features: Features) -> NDArray[np.bool_]:
        """Which of (n, D) features of whole images are those of a reject, up to rounding."""
        own = Gallery.build(self.features, "euclidean")
        return own.holds(features, own.search(features, 1)[1][:, 0])

    def save(self, folder: Path) -> dict[str, Path]:
        """Write them into ``folder``; texts in ASCII, so that names of any bytes come back exactly."""
        file = folder / "rejects.npz"
        arrays: dict[str, NDArray[Any]] = {"features": self.features}
        if self.patches is not None:
            held = self.patches.held()
            arrays |= {"patches": held.features, "images": held.images, "places": held.places}
        np.savez(file, **arrays, **written_origin(self.paths, self.grid))  # type: ignore[arg-type]
        return {REJECTS: file}

    @classmethod
    def load(cls, path: Path) -> Rejects:
        """Read them back; nothing in the file is executed. Raises ModelDamaged where they make no sense."""
        arrays, name = read_arrays(path), path.name
        paths, _ = read_origin(arrays, name)
        features, patches = _vectors(arrays, "features", name), None
        if not 0 < len(paths) == len(features) <= MOST:
            raise ModelDamaged(f"{name} does not hold rejects; adapt again")
        if "patches" in arrays:
            gallery = Gallery.build(_vectors(arrays, "patches", name), "euclidean")
            patches = PatchGallery.fitting(gallery, arrays, name)
        return cls(paths, features, patches)


def _vectors(arrays: dict[str, NDArray[Any]], array: str, name: str) -> Features:
    """An array of features, (n, D); raises ModelDamaged where it is something else."""
    found = arrays.get(array, np.empty(0))
    if found.dtype != np.float32 or found.ndim != 2 or not found.size or not np.isfinite(found).all():
        raise ModelDamaged(f"{name} does not hold rejects; adapt again")
    return found


def gathered(patches: Patches, paths: list[str], grid: tuple[int, int]) -> PatchGallery:
    """A gallery of patches of rejects, searched exactly; ``paths`` are those of the rejects."""
    gallery = Gallery.build(patches.features, "euclidean")
    return PatchGallery(gallery, patches.images, patches.places, paths, grid)


def odd_places(distances: Features, limit: float, inside: NDArray[np.bool_] | None) -> Rows:
    """The places of an image that a reject is known by, hottest first.

    Args:
        distances: (rows, columns), of its patches to the nearest of a normal.
        limit: how far patches of normals are from each other; what is beyond is odd.
        inside: (rows, columns), where a person has seen the defect: there the hotter half counts as well.

    Returns:
        Positions in the flat grid, at least one and at most ``MOST_PATCHES``.
    """
    flat = distances.ravel()
    order = np.argsort(-flat, kind="stable")
    least = in_peak(flat.size)
    if inside is not None:
        order = order[inside.ravel()[order]]
        least = max(least, len(order) // 2)
    return order[: min(max(least, int((flat[order] > limit).sum())), MOST_PATCHES)]


def raised(distances: Features, to_rejects: Features) -> Features:
    """Distances from normals as they count beside rejects, at ``to_rejects``, of the same shape."""
    nearer = np.maximum(distances - np.float32(MARGIN) * to_rejects, np.float32(0))
    found: Features = distances + np.float32(WEIGHT) * nearer
    return found


def raised_maps(maps: PatchMaps, rejects: PatchMaps, normals: int) -> PatchMaps:
    """The same of maps, by the normals' patches and by those of rejects.

    Where a patch is nearer to one of a reject by enough to count, ``nearest`` is the position of that behind
    those of the ``normals``, so many.
    """
    distances = raised(maps.distances, rejects.distances)
    nearest = np.where(distances > maps.distances, normals + rejects.nearest, maps.nearest)
    return PatchMaps(distances, nearest)


def raised_graph(graph: Graph, distances: Value, to_rejects: Value) -> Value:
    """Add what ``raised`` does to ``graph``."""
    nearer = graph.add("Max", graph.add("Sub", distances, graph.add("Mul", to_rejects, MARGIN)), 0.0)
    return graph.add("Add", distances, graph.add("Mul", nearer, WEIGHT))
