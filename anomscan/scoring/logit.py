"""What a layer says that learnt to tell outliers apart."""

from __future__ import annotations

from anomscan.scoring.base import Scorer
from anomscan.scoring.info import DEFAULT_K, ScorerInfo
from anomscan.types import Features, Outputs


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
