"""Distance to the mean of the normals in units of their covariance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from anomscan.scoring.base import Scorer
from anomscan.types import Features, Outputs

if TYPE_CHECKING:
    from anomscan.network.graph import Graph, GraphOutputs, Value


class Mahalanobis(Scorer):
    """Distance to the mean of the normals in units of their covariance, shrunk by OAS (Rippel et al. 2020).

    Oracle Approximating Shrinkage (Chen et al. 2010, eq. 23) pulls the covariance S of n normals in D
    dimensions towards mu I, mu = tr(S) / D, which makes it invertible when n < D.
    """

    name = "mahalanobis"

    def learn(self, features: Features, seed: int) -> None:
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
        self.arrays = {"mean": mean.astype(np.float32), "whitening": whitening.astype(np.float32)}

    def score(self, outputs: Outputs, k: int) -> Features:
        """||(x - mean) W||."""
        centred = outputs.image - self.arrays["mean"]
        distances: Features = np.linalg.norm(centred @ self.arrays["whitening"], axis=1)
        return distances

    def graph(self, graph: Graph, outputs: GraphOutputs) -> Value:
        """The norm of what is centred and whitened."""
        centred = graph.add("Sub", outputs.image, self.arrays["mean"])
        return graph.norm(graph.add("MatMul", centred, self.arrays["whitening"]), 1)
