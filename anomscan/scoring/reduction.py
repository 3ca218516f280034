"""A small gallery that stands for a large one."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anomscan.errors import GalleryTooSmall, UsageError
from anomscan.scoring.gallery import Gallery, kmeans
from anomscan.types import Features, Metric

_PROJECTION = 128
_POOL, _BLOCK = 2000, 20_000


@dataclass(frozen=True)
class Reduction:
    """How many normals become a small gallery: ``kmeans`` centroids, or a ``coreset`` of the normals."""

    name: str
    size: int

    @classmethod
    def parse(cls, text: str) -> Reduction:
        """From ``kmeans:K`` or ``coreset:K``; raises UsageError."""
        match = re.fullmatch(r"(kmeans|coreset):([1-9]\d*)", text)
        if match is None:
            raise UsageError(f"there is no reduction called {text!r}; choose kmeans:K or coreset:K")
        return cls(match[1], int(match[2]))

    def __str__(self) -> str:
        return f"{self.name}:{self.size}"

    @property
    def keeps_normals(self) -> bool:
        """Whether every vector of the gallery is still that of a normal."""
        return self.name == "coreset"

    def apply(self, features: Features, metric: Metric, seed: int) -> tuple[Features, NDArray[np.int64]]:
        """The reduced features, (size, D), and the row of the normal that each stands for, (size,) int64.

        A centroid, scaled to norm 1 for the cosine, stands for the normal nearest to it.

        Raises:
            GalleryTooSmall: fewer features than ``size``.
        """
        if self.keeps_normals:
            rows = coreset(features, self.size, seed)
            return features[rows], rows
        centroids = kmeans(features, self.size, seed)
        if metric == "cosine":
            centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
        _, nearest = Gallery.build(features, "euclidean").search(centroids, 1)
        return centroids, nearest[:, 0]


def coreset(features: Features, size: int, seed: int, projection: int = _PROJECTION) -> NDArray[np.int64]:
    """Rows of ``features`` that cover the others: each is the farthest from those before it.

    Greedy k-center (PatchCore, alg. 1): no feature is farther from the nearest row than twice the best
    possible. As there, distances are taken in a random projection.

    Args:
        features: (n, D) float32.
        size: of the coreset, at most n.
        seed: of the projection and of the first row.
        projection: dimensions that more of them are projected to.

    Returns:
        (size,) int64, in the order in which they were chosen.

    Raises:
        GalleryTooSmall: a larger coreset than there are rows.
    """
    if size > len(features):
        raise GalleryTooSmall(f"{len(features)} normals are too few for a coreset of {size}")
    generator = np.random.default_rng(seed)
    if features.shape[1] > projection:
        features = features @ generator.standard_normal((features.shape[1], projection), np.float32)
    squares = np.square(features).sum(axis=1)
    nearest = np.full(len(features), np.inf, np.float32)
    chosen = [int(generator.integers(len(features)))]
    _cover(features, squares, nearest, chosen)
    while len(chosen) < size:
        rows = _farthest(features, squares, nearest, size - len(chosen))
        _cover(features, squares, nearest, rows)
        chosen += rows
    return np.array(chosen, np.int64)


def _farthest(features: Features, squares: Features, nearest: Features, most: int) -> list[int]:
    """The next rows of the greedy choice, as many as can be told without looking at all rows again.

    Among the ``_POOL`` rows that are farthest now, the farthest is farther than all others as long as it is
    not nearer than the nearest of the pool was.
    """
    pool = np.argpartition(nearest, -min(_POOL, len(nearest)))[-_POOL:]
    left = nearest[pool]
    limit = left.min() if len(pool) < len(nearest) else -np.inf
    products = features[pool] @ features[pool].T
    rows: list[int] = []
    while len(rows) < most:
        place = int(left.argmax())
        if rows and left[place] < limit:
            break
        rows.append(int(pool[place]))
        away = squares[pool] + squares[pool[place]] - 2 * products[place]
        left = np.minimum(left, away)
        left[place] = -np.inf
    return rows


def _cover(features: Features, squares: Features, nearest: Features, rows: list[int]) -> None:
    """Lower the squared distance of every row to the nearest chosen one, by those chosen last."""
    for start in range(0, len(features), _BLOCK):
        block = slice(start, start + _BLOCK)
        away = squares[block, None] + squares[rows] - 2 * (features[block] @ features[rows].T)
        np.minimum(nearest[block], away.min(axis=1), out=nearest[block])
    nearest[rows] = -np.inf
