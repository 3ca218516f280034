"""From features to scores; a scorer is named on the command line and recorded in the model.

| name | score | source |
|---|---|---|
| ``knn`` | sum of the cosine distances to the k nearest normals | DN2; MSC eq. 5 |
| ``knn-euclidean`` | the same by Euclidean distance of the features as they are | DN2; PANDA sec. 3 |
| ``kmeans:K`` | the same to the k nearest of K centroids | DN2 tab. 6; MSC tab. 6 |
| ``mean``, ``mean-euclidean`` | distance to the mean of the normals | PANDA sec. 3, i |
| ``mahalanobis`` | the same, in units of the normals' shrunk covariance | Rippel et al. 2020 |
| ``samplewise`` | largest of the scores by each checkpoint, over their typical score | PANDA-SES sec. 3 |
| ``logit`` | output of the layer that learned to tell outliers apart | PANDA eq. 5; ADIB eq. 1 |
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from anomscan.config import DEFAULT_K, ScorerInfo
from anomscan.errors import UsageError
from anomscan.extractor import Features
from anomscan.gallery import Gallery, kmeans

NAMES = "knn, knn-euclidean, kmeans:K, mean, mean-euclidean, mahalanobis, samplewise or logit"
_HELD_OUT = 0.1  # PANDA, appendix D: the typical distance is that of 10 % of the normals to the other 90 %


def knn_score(distances: Features) -> Features:
    """Sum of the distances from each query to its k nearest normals.

    Larger is more anomalous. With L2-normalised features the unit is cosine distance, 1 - cos, in
    [0, 2] per neighbour (DN2; Mean-Shifted Contrastive, eq. 5).

    Args:
        distances: (n, k) float32, ascending in each row, each >= 0.

    Returns:
        (n,) float32, >= 0.
    """
    scores: Features = distances.sum(axis=1)
    return scores


class Scorer(ABC):
    """What turns features into scores; ``fit`` learns arrays from the normals, which are its state."""

    uses_neighbours: ClassVar[bool] = False
    """Whether ``k`` means anything."""

    def __init__(self, info: ScorerInfo, state: dict[str, NDArray[np.float32]]) -> None:
        self.info = info
        self.state = state

    @abstractmethod
    def fit(self, features: Features, seed: int) -> None:
        """Set ``state`` from the normals' features, (n, D)."""

    @abstractmethod
    def score(self, features: Features, gallery: Gallery, k: int) -> Features:
        """The scores, (n,) float32, larger is more anomalous, of (n, D) features."""

    def score_and_nearest(
        self, features: Features, gallery: Gallery, k: int
    ) -> tuple[Features, NDArray[np.int64]]:
        """The same, and the position of the nearest normal, (n,), by a search for it."""
        return self.score(features, gallery, k), gallery.search(features, 1)[1][:, 0]

    def save(self, path: Path) -> None:
        """Write the state to an ``.npz`` file."""
        np.savez(path, **self.state)  # type: ignore[arg-type]


class Knn(Scorer):
    """Sum of the distances to the k nearest normals."""

    uses_neighbours = True

    def fit(self, features: Features, seed: int) -> None:
        """Nothing to learn: the gallery is all there is."""

    def score(self, features: Features, gallery: Gallery, k: int) -> Features:
        """See ``knn_score``."""
        return knn_score(gallery.search(features, k)[0])

    def score_and_nearest(
        self, features: Features, gallery: Gallery, k: int
    ) -> tuple[Features, NDArray[np.int64]]:
        """Both from the same neighbours."""
        distances, neighbours = gallery.search(features, k)
        return knn_score(distances), neighbours[:, 0]


class Centroids(Scorer):
    """Sum of the distances to the k nearest centroids of the normals."""

    uses_neighbours = True

    def fit(self, features: Features, seed: int) -> None:
        """Cluster the normals; with the cosine the centroids are scaled to norm 1."""
        centroids = kmeans(features, self.info.clusters, seed)
        if self.info.metric == "cosine":
            centroids = centroids / np.linalg.norm(centroids, axis=1, keepdims=True)
        self.state = {"centroids": centroids}

    def score(self, features: Features, gallery: Gallery, k: int) -> Features:
        """As ``knn_score``, among the centroids; k is at most their number."""
        centroids = Gallery.build(self.state["centroids"], self.info.metric)
        return knn_score(centroids.search(features, min(k, len(centroids)))[0])


class Mahalanobis(Scorer):
    """Distance to the mean of the normals in units of their covariance, shrunk by OAS.

    Oracle Approximating Shrinkage (Chen et al. 2010, eq. 23) pulls the covariance S of n normals in D
    dimensions towards mu I, mu = tr(S) / D, which makes it invertible when n < D.
    """

    def fit(self, features: Features, seed: int) -> None:
        """Learn the mean and a whitening matrix W with W W^T the inverse of the covariance."""
        mean = features.mean(axis=0, dtype=np.float64)
        centred = features - mean
        n, dim = centred.shape
        covariance = centred.T @ centred / n
        mu, alpha = np.trace(covariance) / dim, np.square(covariance).mean()
        divisor = (n + 1) * (alpha - mu**2 / dim)
        shrinkage = 1.0 if divisor == 0 else min(1.0, (alpha + mu**2) / divisor)
        shrunk = (1 - shrinkage) * covariance + shrinkage * mu * np.eye(dim)
        values, vectors = np.linalg.eigh(shrunk)
        whitening = vectors / np.sqrt(np.maximum(values, 1e-12))
        self.state = {"mean": mean.astype(np.float32), "whitening": whitening.astype(np.float32)}

    def score(self, features: Features, gallery: Gallery, k: int) -> Features:
        """||(x - mean) W||."""
        distances: Features = np.linalg.norm(
            (features - self.state["mean"]) @ self.state["whitening"], axis=1
        )
        return distances


class Samplewise(Scorer):
    """Largest, over the checkpoints of a training run, of kNN score over typical score (PANDA-SES).

    The features are those of all checkpoints side by side, each of norm 1. The typical score of a
    checkpoint is the mean score of a tenth of the normals among the others (PANDA, appendix D).
    """

    uses_neighbours = True

    def fit(self, features: Features, seed: int) -> None:
        """Learn each checkpoint's typical score."""
        order = np.random.default_rng(seed).permutation(len(features))
        held_out = max(1, round(_HELD_OUT * len(features)))
        scales = []
        for block in self._blocks(features):
            rest = Gallery.build(block[order[held_out:]])
            distances, _ = rest.search(block[order[:held_out]], min(self.info.k, len(rest)))
            scales.append(knn_score(distances).mean())
        self.state["scales"] = np.maximum(np.array(scales, np.float32), 1e-12)

    def score(self, features: Features, gallery: Gallery, k: int) -> Features:
        """Maximum over t of the kNN score by checkpoint t over its typical score."""
        if not hasattr(self, "_galleries"):
            self._galleries = [Gallery.build(block) for block in self._blocks(gallery.vectors())]
        scores = [
            knn_score(checkpoint.search(block, k)[0]) / scale
            for checkpoint, block, scale in zip(
                self._galleries, self._blocks(features), self.state["scales"], strict=True
            )
        ]
        largest: Features = np.max(scores, axis=0)
        return largest

    def _blocks(self, features: Features) -> list[Features]:
        return np.split(features, int(self.state["checkpoints"][0]), axis=1)


class Logit(Scorer):
    """w . phi(x) + b, from the objective that learned it; there is nothing to fit."""

    def fit(self, features: Features, seed: int) -> None:
        """Keep the layer learned with the network."""

    def score(self, features: Features, gallery: Gallery, k: int) -> Features:
        """The logit of being an outlier."""
        logits: Features = features @ self.state["weight"] + self.state["bias"]
        return logits


_CLASSES: dict[str, type[Scorer]] = {
    "knn": Knn,
    "kmeans": Centroids,
    "mean": Centroids,
    "mahalanobis": Mahalanobis,
    "samplewise": Samplewise,
    "logit": Logit,
}


def parse_scorer(name: str) -> ScorerInfo:
    """What a name on the command line means; raises UsageError, which lists the names."""
    match = re.fullmatch(r"(knn|mean)(-euclidean)?|(kmeans):([1-9]\d*)|(mahalanobis|samplewise|logit)", name)
    if match is None:
        raise UsageError(f"there is no scorer called {name!r}; choose {NAMES}")
    kind = match[1] or match[3] or match[5]
    raw = match[2] is not None or kind == "logit"
    clusters = {"mean": 1, "kmeans": int(match[4] or 0)}.get(kind, 0)
    return ScorerInfo(kind, DEFAULT_K, "euclidean" if raw else "cosine", clusters)


def make_scorer(info: ScorerInfo, state: dict[str, NDArray[np.float32]] | None = None) -> Scorer:
    """The scorer that ``info`` describes, with the state it was saved with or is to start from."""
    return _CLASSES[info.name](info, state or {})


def load_scorer(info: ScorerInfo, path: Path) -> Scorer:
    """Read a scorer back; nothing in the file is executed."""
    with np.load(path, allow_pickle=False) as arrays:
        return make_scorer(info, dict(arrays))
