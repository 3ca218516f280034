"""Distance to the nearest normals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from anomscan.errors import GalleryTooSmall, ModelDamaged
from anomscan.scoring.base import Apart, Scorer, cosine_or_euclidean, knn_score
from anomscan.scoring.gallery import Gallery
from anomscan.scoring.info import ScorerInfo
from anomscan.spread import spread_over
from anomscan.types import Features, Outputs, Rows

if TYPE_CHECKING:
    from anomscan.network.graph import Graph, GraphOutputs, Value
    from anomscan.scoring.rejects import Rejects

MEASURED = 2000
"""Tiles that are compared with those of other images, at most, to see how their scores spread."""


class Knn(Scorer):
    """Sum of the distances to the k nearest normals (DN2; Mean-Shifted Contrastive, eq. 5).

    By the cosine, or, as ``knn-euclidean``, by Euclidean distance of features as they are (PANDA, sec. 3).
    """

    name = "knn"
    uses_neighbours = True
    _rejected: Gallery | None = None

    @classmethod
    def parse(cls, text: str) -> ScorerInfo | None:
        """``knn`` or ``knn-euclidean``."""
        return cosine_or_euclidean(text, cls.name)

    def learn(self, features: Features, seed: int) -> None:
        """Nothing: the gallery is all there is."""

    def score(self, outputs: Outputs, k: int) -> Features:
        """See ``knn_score``, and ``rejects`` where there are any."""
        return self._raised(knn_score(self.gallery.search(outputs.image, k)[0]), outputs.image, k)

    def reject(self, rejects: Rejects | None) -> None:
        """Compare with these from now on."""
        if rejects is not None and rejects.features.shape[1] != self.gallery.dim:
            raise ModelDamaged("the rejects of the model do not go with its gallery; adapt again")
        self.rejects = rejects
        self._rejected = None if rejects is None else Gallery.build(rejects.features, self.info.metric)

    def why_no_rejects(self) -> str | None:
        """None: a reject is a neighbour."""
        return None

    def _raised(self, scores: Features, features: Features, k: int) -> Features:
        if self._rejected is None:
            return scores
        from anomscan.scoring.rejects import IMAGE_MARGIN, raised

        return raised(scores, k * self._rejected.search(features, 1)[0][:, 0], IMAGE_MARGIN)

    def score_and_nearest(self, outputs: Outputs, k: int) -> tuple[Features, Rows]:
        """Both from the same neighbours."""
        distances, neighbours = self.gallery.search(outputs.image, k)
        return self._raised(knn_score(distances), outputs.image, k), neighbours[:, 0]

    def among_others(self, normals: Outputs, tiles: int, rows: Rows) -> Features:
        """See there; of tiles those of ``MEASURED``, spread over all."""
        if tiles == 1:
            return super().among_others(normals, tiles, rows)
        few = spread_over(len(normals), MEASURED)
        most = min(self.info.k + tiles, len(self.gallery))
        distances, found = self.gallery.search(normals.image[few], most)
        others = (rows[found] // tiles != few[:, None] // tiles) & (found >= 0)
        nearest = others & (others.cumsum(axis=1) <= self.info.k)
        return knn_score(np.where(nearest, distances, np.float32(0)))

    @property
    def compares_apart(self) -> bool:
        """Where the search is exact."""
        return self.gallery.exact

    def apart(self, outputs: Outputs, k: int, apart: Apart) -> Features:
        """See there: nothing but neighbours makes up this score."""
        numbers, counts = np.unique(apart.vectors, return_counts=True)
        most = len(self.gallery) - int(counts[np.isin(numbers, apart.own)].max(initial=0))
        if most < k:
            raise GalleryTooSmall(
                f"{most} normals are left for one that is compared with the others, too few for {k} "
                f"neighbours; the largest possible --k is {most}"
            )
        distances, _ = self.gallery.search_apart(outputs.image, k, apart.own, apart.vectors)
        return self._raised(knn_score(distances), outputs.image, k)

    def graph(self, graph: Graph, outputs: GraphOutputs) -> Value:
        """The sum of the distances, raised beside rejects."""
        score = graph.sum(self.gallery.graph(graph, outputs.image, self.info.k)[0], 1)
        if self._rejected is None:
            return score
        from anomscan.scoring.rejects import IMAGE_MARGIN, raised_graph

        nearest = graph.shaped(self._rejected.graph(graph, outputs.image, 1)[0], -1)
        return raised_graph(graph, score, graph.add("Mul", nearest, float(self.info.k)), IMAGE_MARGIN)
