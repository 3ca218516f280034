"""The features of the normals and the search among them. The only module that uses FAISS."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from anomscan.errors import GalleryTooSmall, ModelDamaged
from anomscan.extractor import Features

Metric = Literal["cosine", "euclidean"]

SAME = 1e-4
"""Relative distance up to which two features are of the same image: the rounding of other batch sizes."""


class Gallery:
    """Exact nearest-neighbour search, by cosine distance or by Euclidean distance.

    Invariant: a vector of the gallery, searched again, finds itself at a distance of about 0.
    """

    def __init__(self, index: faiss.Index) -> None:
        self._index = index

    @classmethod
    def build(cls, features: Features, metric: Metric = "cosine") -> Gallery:
        """A gallery of ``features``, (n, D) float32; for the cosine their rows have norm 1."""
        dim = features.shape[1]
        index = faiss.IndexFlatIP(dim) if metric == "cosine" else faiss.IndexFlatL2(dim)
        index.add(np.ascontiguousarray(features))
        return cls(index)

    @classmethod
    def load(cls, path: Path) -> Gallery:
        """Read a gallery; raises ModelDamaged where ``path`` is not one."""
        try:
            return cls(faiss.read_index(os.fspath(path)))
        except RuntimeError as error:
            raise ModelDamaged(f"FAISS cannot read {path.name}") from error

    def save(self, path: Path) -> None:
        """Write the index to ``path``."""
        faiss.write_index(self._index, os.fspath(path))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return int(self._index.d)

    def vectors(self) -> Features:
        """The features in the order in which they were added, (n, D) float32."""
        vectors: Features = self._index.reconstruct_n(0, len(self))
        return vectors

    def at(self, positions: NDArray[np.int64]) -> Features:
        """The features at some positions, (m, D) float32."""
        vectors: Features = self._index.reconstruct_batch(positions)
        return vectors

    def holds(self, queries: Features, neighbours: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which queries are vectors of the gallery, up to rounding.

        Args:
            queries: (n, D) float32.
            neighbours: (n,) the position of the vector nearest to each.

        Returns:
            (n,) whether the two are the same; directly, since a distance from an inner product is rounded.
        """
        nearest = self.at(neighbours)
        same: NDArray[np.bool_] = np.linalg.norm(queries - nearest, axis=1) <= SAME * np.linalg.norm(
            nearest, axis=1
        )
        return same

    def search(self, queries: Features, k: int) -> tuple[Features, NDArray[np.int64]]:
        """The ``k`` nearest normals of each query.

        Args:
            queries: (n, D) float32; for the cosine rows of norm 1.
            k: neighbours, at least 1.

        Returns:
            Distances, (n, k) float32 >= 0, ascending in each row: 1 - cos, at most 2, or Euclidean (not
            squared); and the positions of the normals in the gallery, (n, k) int64.

        Raises:
            GalleryTooSmall: fewer normals than ``k``.
        """
        if k > len(self):
            raise GalleryTooSmall(
                f"the gallery holds {len(self)} normal image{'s' * (len(self) != 1)}, "
                f"too few for {k} neighbours; the largest possible --k is {len(self)}"
            )
        values, neighbours = self._index.search(np.ascontiguousarray(queries), k)
        if self._index.metric_type == faiss.METRIC_INNER_PRODUCT:
            return np.clip(1.0 - values, 0.0, 2.0), neighbours
        return np.sqrt(np.maximum(values, 0.0)), neighbours


def kmeans(features: Features, clusters: int, seed: int) -> Features:
    """Centroids of ``features``, (clusters, D) float32.

    Args:
        features: (n, D) float32.
        clusters: at most n.
        seed: of the initial choice.

    Raises:
        GalleryTooSmall: more clusters than rows.
    """
    if clusters > len(features):
        raise GalleryTooSmall(f"{len(features)} normals are too few for {clusters} clusters")
    clustering = faiss.Kmeans(
        features.shape[1], clusters, niter=25, seed=seed, min_points_per_centroid=1, verbose=False
    )
    clustering.train(np.ascontiguousarray(features))
    return np.asarray(clustering.centroids, np.float32)
