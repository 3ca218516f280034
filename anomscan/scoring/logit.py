"""What a layer says that learnt to tell outliers apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from anomscan.scoring.base import Scorer
from anomscan.scoring.info import DEFAULT_K, ScorerInfo
from anomscan.types import Features, Outputs

if TYPE_CHECKING:
    from anomscan.network.graph import Graph, GraphOutputs, Value


class Logit(Scorer):
    """w . phi(x) + b, from the objective that learnt it (PANDA eq. 5; ADIB eq. 1)."""

    name = "logit"
    needs = frozenset(("weight", "bias"))

    @classmethod
    def parse(cls, text: str) -> ScorerInfo | None:
        """``logit``; the layer reads features as they are, not scaled to norm 1."""
        return ScorerInfo(cls.name, DEFAULT_K, "euclidean") if text == cls.name else None

    def learn(self, features: Features, seed: int) -> None:
        """Nothing: the layer was learnt with the network."""

    def score(self, outputs: Outputs, k: int) -> Features:
        """The logit of being an outlier."""
        logits: Features = outputs.image @ self.arrays["weight"] + self.arrays["bias"]
        return logits

    def graph(self, graph: Graph, outputs: GraphOutputs) -> Value:
        """The layer."""
        weight, bias = self.arrays["weight"], self.arrays["bias"]
        product = graph.add("MatMul", outputs.image, weight.reshape(-1, 1))
        return graph.shaped(graph.add("Add", product, np.reshape(bias, -1)), -1)
