"""Distance to centroids of the normals, or to their mean."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from anomscan.scoring.base import Scorer, cosine_or_euclidean, knn_score
from anomscan.scoring.gallery import Gallery, kmeans
from anomscan.scoring.info import ScorerInfo
from anomscan.types import Features, Outputs

if TYPE_CHECKING:
    from anomscan.network.graph import Graph, GraphOutputs, Value


class Centroids(Scorer):
    """Sum of the distances to the k nearest centroids of the normals (DN2 tab. 6; MSC tab. 6)."""

    name = "kmeans"
    uses_neighbours = True

    @classmethod
    def parse(cls, text: str) -> ScorerInfo | None:
        """``kmeans:K``."""
        match = re.fullmatch(r"kmeans:([1-9]\d*)", text)
        return replace(ScorerInfo(cls.name), clusters=int(match[1])) if match else None

    @classmethod
    def describe(cls, info: ScorerInfo) -> str:
        """The number of centroids too."""
        return f"kmeans, {info.clusters} centroids, k = {info.k}, {info.metric} distance"

    def learn(self, features: Features, seed: int) -> None:
        """Cluster the normals; with the cosine the centroids are scaled to norm 1."""
        centroids = kmeans(features, self.info.clusters, seed)
        if self.info.metric == "cosine":
            centroids = centroids / np.linalg.norm(centroids, axis=1, keepdims=True)
        self.arrays = {"centroids": centroids}

    def score(self, outputs: Outputs, k: int) -> Features:
        """As ``knn_score``, among the centroids; k is at most their number."""
        centroids = Gallery.build(self.arrays["centroids"], self.info.metric)
        return knn_score(centroids.search(outputs.image, min(k, len(centroids)))[0])

    def graph(self, graph: Graph, outputs: GraphOutputs) -> Value:
        """The sum of the distances to centroids."""
        centroids = Gallery.build(self.arrays["centroids"], self.info.metric)
        return graph.sum(centroids.graph(graph, outputs.image, min(self.info.k, len(centroids)))[0], 1)


class Mean(Centroids):
    """Distance to the mean of the normals (PANDA sec. 3, i): the one centroid."""

    name = "mean"

    @classmethod
    def parse(cls, text: str) -> ScorerInfo | None:
        """``mean`` or ``mean-euclidean``."""
        info = cosine_or_euclidean(text, cls.name)
        return replace(info, clusters=1) if info else None

    @classmethod
    def describe(cls, info: ScorerInfo) -> str:
        """No k: there is one centroid."""
        return f"mean, {info.metric} distance"
