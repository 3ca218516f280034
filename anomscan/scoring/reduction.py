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


def coreset(features: Features, size: int, seed: int) -> NDArray[np.int64]:
    """Rows of ``features`` that cover the others: each is the farthest from those before it.

    Greedy k-center (PatchCore, alg. 1): no feature is farther from the nearest row than twice the best
    possible. As there, distances are taken in a random projection to ``_PROJECTION`` dimensions.

    Args:
        features: (n, D) float32.
        size: of the coreset, at most n.
        seed: of the projection and of the first row.

    Returns:
        (size,) int64, in the order in which they were chosen.

    Raises:
        GalleryTooSmall: a larger coreset than there are rows.
    """
    if size > len(features):
        raise GalleryTooSmall(f"{len(features)} normals are too few for a coreset of {size}")
    generator = np.random.default_rng(seed)
    if features.shape[1] > _PROJECTION:
        features = features @ generator.standard_normal((features.shape[1], _PROJECTION), np.float32)
    chosen = np.empty(size, np.int64)
    squares = np.square(features).sum(axis=1)
    nearest = np.full(len(features), np.inf, np.float32)
    row = int(generator.integers(len(features)))
    for i in range(size):
        chosen[i] = row
        np.minimum(nearest, squares + squares[row] - 2 * (features @ features[row]), out=nearest)
        nearest[row] = -np.inf
        row = int(nearest.argmax())
    return chosen
