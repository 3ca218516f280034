"""Missed anomalies: a second, small gallery, whose like score higher from then on.

What is at a distance d from the normals and r from the nearest reject counts as if it were at

    d' = d + WEIGHT max(d - m r, 0)

from the normals: a patch by the nearest patch of each, with m ``PATCH_MARGIN``; a whole image by the sum of
its k distances and k times that to the nearest reject, with m ``IMAGE_MARGIN``. So nothing scores lower than
without rejects, and what is far from every reject scores what it did. Since d' grows with d, all that
``stats.calibration`` says of scores by neighbours holds of these, too: rejects are no normals, and r depends
on none.

Most of a reject is as normal as any normal. Of its patches only those count that are farther from those of
normals than these usually are from each other; where there are none, it is known as a whole only.

Where all normals calibrate, each scored by the others, a patch of a reject may be no odd one only because
a normal has one like it. Beside that normal, which is compared with the others alone, it counts: else patches
of rejects would be chosen to be unlike the normals that calibrate, and new ones would come nearer to them.
What is odd beside a larger gallery is part of what is odd beside a smaller one, so that r can only grow with
the gallery, and what is said above holds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anomscan.errors import ModelDamaged
from anomscan.scoring.bank import Patches, joined
from anomscan.scoring.base import read_arrays
from anomscan.scoring.gallery import Gallery
from anomscan.scoring.patches import PatchGallery, read_origin, written_origin
from anomscan.spread import spread_over
from anomscan.types import Features, PatchMaps, Rows

if TYPE_CHECKING:
    from anomscan.network.graph import Graph, Value

REJECTS = "rejects"
"""Role of their file."""
MOST = 200
"""Rejects of a model: their search still costs less than the network."""
WEIGHT, PATCH_MARGIN, IMAGE_MARGIN = 0.5, 0.7, 1.0
HOTTEST = 0.25
"""Chosen on made surfaces alone, see ``benchmarks/README.md``; of what lies under a box that share counts."""
MOST_PATCHES = 32
"""Patches of a reject, at most."""


@dataclass(frozen=True)
class Rejects:
    """R missed anomalies.

    ``paths`` is where they were; ``features`` (R, D) float32, of whole images; ``patches`` K of theirs, which
    lie on ``grid``, or None where only whole images are looked at. ``owners``, (K,), is -1 for a patch that
    counts, and for one that counts only beside one normal the position of that in ``normals``, by path.
    """

    paths: list[str]
    features: Features
    patches: Patches | None = None
    grid: tuple[int, int] = (1, 1)
    owners: Rows = field(default_factory=lambda: np.empty(0, np.int64))
    normals: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def counting(self) -> PatchGallery | None:
        """The patches that incoming images are compared with; None where there are none."""
        return self._some(self.owners < 0)

    def beside(self, numbers: Mapping[str, int], own: int) -> PatchGallery | None:
        """Those that count for normals of the number ``own``; ``numbers`` has that of each by its path."""
        hidden = np.array([numbers.get(path, -1) for path in self.normals] + [-1], np.int64)
        return self._some((self.owners < 0) | (hidden[self.owners] == own))

    def _some(self, which: NDArray[np.bool_]) -> PatchGallery | None:
        if self.patches is None or not which.any():
            return None
        held = self.patches.at(which)
        gallery = Gallery.build(held.features, "euclidean")
        return PatchGallery(gallery, held.images, held.places, self.paths, self.grid)

    def without(self, paths: set[str]) -> Rejects | None:
        """All but some; None where none is left."""
        rows = np.array([i for i, path in enumerate(self.paths) if path not in paths], np.int64)
        if not len(rows):
            return None
        left, patches, owners = [self.paths[row] for row in rows], None, self.owners
        if self.patches is not None:
            kept = np.isin(self.patches.images, rows)
            own, owners = self.patches.at(kept), owners[kept]
            patches = replace(own, images=np.searchsorted(rows, own.images).astype(np.int32))
        return replace(self, paths=left, features=self.features[rows], patches=patches, owners=owners)

    def and_(self, others: Rejects) -> Rejects:
        """These, and others of the same network behind them."""
        patches, behind = None, others.owners + len(self.normals) * (others.owners >= 0)
        if self.patches is not None and others.patches is not None:
            images = others.patches.images + np.int32(len(self))
            patches = joined([self.patches, replace(others.patches, images=images)])
        return Rejects(
            [*self.paths, *others.paths],
            np.concatenate([self.features, others.features]),
            patches,
            self.grid,
            np.concatenate([self.owners, behind]),
            [*self.normals, *others.normals],
        )

    def holds(self, features: Features) -> NDArray[np.bool_]:
        """Which of (n, D) features of whole images are those of a reject, up to rounding."""
        own = Gallery.build(self.features, "euclidean")
        return own.holds(features, own.search(features, 1)[1][:, 0])

    def save(self, folder: Path) -> dict[str, Path]:
        """Write them into ``folder``; texts in ASCII, so that names of any bytes come back exactly."""
        file = folder / "rejects.npz"
        arrays: dict[str, NDArray[Any]] = {"features": self.features, **written_origin(self.paths, self.grid)}
        if self.patches is not None:
            held, normals = self.patches, json.dumps(self.normals).encode("ascii")
            arrays |= {"patches": held.features, "images": held.images, "places": held.places}
            arrays |= {"owners": self.owners, "normals": np.frombuffer(normals, np.uint8)}
        np.savez(file, **arrays)  # type: ignore[arg-type]
        return {REJECTS: file}

    @classmethod
    def load(cls, path: Path) -> Rejects:
        """Read them back; nothing in the file is executed. Raises ModelDamaged where they make no sense."""
        arrays, name = read_arrays(path), path.name
        paths, grid = read_origin(arrays, name)
        features = _vectors(arrays, "features", name)
        if not 0 < len(features) <= MOST or len(paths) != len(features):
            raise ModelDamaged(f"{name} does not hold rejects; adapt again")
        if "patches" not in arrays:
            return cls(paths, features)
        gallery = Gallery.build(_vectors(arrays, "patches", name), "euclidean")
        held = PatchGallery.fitting(gallery, arrays, name).held()
        try:
            normals = json.loads(arrays["normals"].tobytes())
            owners = arrays["owners"].astype(np.int64)
        except (ValueError, KeyError, RecursionError) as error:
            raise ModelDamaged(f"{name} does not hold rejects; adapt again") from error
        known = isinstance(normals, list) and all(isinstance(normal, str) for normal in normals)
        if not known or owners.shape != (len(held),) or not ((owners >= -1) & (owners < len(normals))).all():
            raise ModelDamaged(f"{name} does not hold rejects; adapt again")
        return cls(paths, features, held, grid, owners, normals)


def _vectors(arrays: dict[str, NDArray[Any]], array: str, name: str) -> Features:
    """An array of features, (n, D); raises ModelDamaged where it is something else."""
    found = arrays.get(array, np.empty(0))
    if found.dtype != np.float32 or found.ndim != 2 or not found.shape[1] or not np.isfinite(found).all():
        raise ModelDamaged(f"{name} does not hold rejects; adapt again")
    return found


def odd_places(distances: Features, limit: float, inside: NDArray[np.bool_] | None) -> Rows:
    """The places of an image that a reject is known by, hottest first.

    Args:
        distances: (rows, columns), of its patches to the nearest of a normal.
        limit: how far patches of normals are from each other; what is beyond is odd.
        inside: (rows, columns), where a person has seen the defect: there ``HOTTEST`` count in any case.

    Returns:
        Positions in the flat grid, at most ``MOST_PATCHES``, and of a box at least one.
    """
    flat, least = distances.ravel(), 0
    order = np.argsort(-flat, kind="stable")
    if inside is not None:
        order = order[inside.ravel()[order]]
        least = math.ceil(HOTTEST * len(order))
    return order[: min(max(least, int((flat[order] > limit).sum())), MOST_PATCHES)]


def odd_places_apart(
    distances: Features, to_others: Features, limit: float, inside: NDArray[np.bool_] | None
) -> tuple[Rows, Rows]:
    """The same where all normals calibrate: by the limit, or, with ``inside``, by that alone.

    Args:
        distances: (rows, columns), as above.
        to_others: the same, to the nearest of any other normal than the one that has the nearest.
        limit: as above.
        inside: as above; of more than ``MOST_PATCHES`` places there as many, evenly spread.

    Returns:
        Positions of those that count, and of those that count only beside the normal that has the nearest.
    """
    flat = distances.ravel()
    if inside is not None:
        there = np.flatnonzero(inside)
        return there[spread_over(len(there), MOST_PATCHES)], there[:0]
    order = np.argsort(-flat, kind="stable")
    odd = order[flat[order] > limit][:MOST_PATCHES]
    return odd, np.flatnonzero((flat <= limit) & (to_others.ravel() > limit))


def raised(distances: Features, to_rejects: Features, margin: float) -> Features:
    """Distances from normals as they count beside rejects, at ``to_rejects``, of the same shape."""
    nearer = np.maximum(distances - np.float32(margin) * to_rejects, np.float32(0))
    return np.asarray(distances + np.float32(WEIGHT) * nearer, np.float32)


def raised_maps(maps: PatchMaps, rejects: PatchMaps, normals: int) -> PatchMaps:
    """The same of maps, by the normals' patches and by those of rejects.

    Where a patch is nearer to one of a reject than to any of a normal, ``nearest`` is the position of that
    behind those of the ``normals``, so many. Of what is far from both it says nothing that it counts.
    """
    distances = raised(maps.distances, rejects.distances, PATCH_MARGIN)
    nearest = np.where(rejects.distances < maps.distances, normals + rejects.nearest, maps.nearest)
    return PatchMaps(distances, nearest)


def raised_graph(graph: Graph, distances: Value, to_rejects: Value, margin: float) -> Value:
    """Add what ``raised`` does to ``graph``."""
    nearer = graph.add("Max", graph.add("Sub", distances, graph.add("Mul", to_rejects, margin)), 0.0)
    return graph.add("Add", distances, graph.add("Mul", nearer, WEIGHT))
