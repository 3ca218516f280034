"""The checkpoint that finds an image most anomalous, for every image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from anomscan.scoring.base import Indexed, Scorer, knn_score
from anomscan.scoring.gallery import Gallery
from anomscan.scoring.reduction import Reduction
from anomscan.types import Features, Outputs

if TYPE_CHECKING:
    from anomscan.network.graph import Graph, GraphOutputs, Value

_HELD_OUT = 0.1  # PANDA, appendix D: the typical distance is that of 10 % of the normals to the other 90 %


class Samplewise(Scorer):
    """Largest, over the checkpoints of a training run, of kNN score over typical score (PANDA-SES sec. 3).

    The features are those of all checkpoints side by side, each of norm 1. The typical score of a
    checkpoint is the mean score of a tenth of the normals among the others (PANDA, appendix D).
    """

    name = "samplewise"
    needs = frozenset(("checkpoints",))
    uses_neighbours = True
    exclusive = True
    takes_centroids = False

    def fit(self, normals: Outputs, seed: int, reduction: Reduction | None = None) -> Indexed:
        """As for every scorer; the galleries of an earlier fit are forgotten."""
        self._galleries: list[Gallery] = []
        return super().fit(normals, seed, reduction)

    def learn(self, features: Features, seed: int) -> None:
        """Learn each checkpoint's typical score."""
        order = np.random.default_rng(seed).permutation(len(features))
        held_out = max(1, round(_HELD_OUT * len(features)))
        scales = []
        for block in self._blocks(features):
            rest = Gallery.build(block[order[held_out:]])
            distances, _ = rest.search(block[order[:held_out]], min(self.info.k, len(rest)))
            scales.append(knn_score(distances).mean())
        self.arrays["scales"] = np.maximum(np.array(scales, np.float32), 1e-12)

    def score(self, outputs: Outputs, k: int) -> Features:
        """Maximum over t of the kNN score by checkpoint t over its typical score."""
        scores = [
            knn_score(checkpoint.search(block, k)[0]) / scale
            for checkpoint, block, scale in zip(
                self._checkpoints(), self._blocks(outputs.image), self.arrays["scales"], strict=True
            )
        ]
        largest: Features = np.max(scores, axis=0)
        return largest

    def graph(self, graph: Graph, outputs: GraphOutputs) -> Value:
        """The maximum over blocks of features."""
        scores = []
        scales = self.arrays["scales"]
        dim = self.gallery.dim // len(scales)
        for i, checkpoint in enumerate(self._checkpoints()):
            ends = np.array([i * dim]), np.array([(i + 1) * dim])
            block = graph.add("Slice", outputs.image, *ends, np.array([1]))
            score = graph.sum(checkpoint.graph(graph, block, self.info.k)[0], 1)
            scores.append(graph.add("Div", score, scales[i]))
        return graph.add("Max", *scores)

    def _checkpoints(self) -> list[Gallery]:
        """A gallery for every checkpoint, of its share of the features."""
        if not getattr(self, "_galleries", None):
            self._galleries = [Gallery.build(block) for block in self._blocks(self.gallery.vectors())]
        return self._galleries

    def _blocks(self, features: Features) -> list[Features]:
        return np.split(features, int(self.arrays["checkpoints"][0]), axis=1)
