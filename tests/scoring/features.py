"""Made features, and scorers fitted to them."""

from __future__ import annotations

import numpy as np

from anomscan.scoring.base import Scorer
from anomscan.scoring.registry import make_scorer, parse_scorer
from anomscan.types import Features, Outputs

LEARNT: dict[str, Features] = {
    "checkpoints": np.array([2], np.float32),
    "weight": np.linspace(-1, 1, 8, dtype=np.float32),
    "bias": np.array([0.5], np.float32),
}
"""All that a network's training can leave to a scorer of 8 features."""


def unit(rows: int, dim: int = 8, seed: int = 0) -> Features:
    """Vectors of norm 1 around one direction."""
    features = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32) + 1
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def fitted(name: str, features: Features, **learnt: Features) -> Scorer:
    """The scorer of that name on the command line, fitted to normals."""
    scorer = make_scorer(parse_scorer(name), learnt)
    scorer.fit(Outputs(features), seed=0)
    return scorer


def scores(scorer: Scorer, features: Features, k: int = 2) -> Features:
    """The scores of images, (n,)."""
    return scorer.score(Outputs(features), k)
