"""How like each other the normals are, which tells much of what kind of images they are."""

from __future__ import annotations

import numpy as np

from anomscan.spread import spread_over
from anomscan.types import Features

MOST = 240
"""Normals that are compared with each other, spread over all."""


def distinctness(features: Features) -> float:
    """How far a normal is from its two nearest, by the cosine, over how far it is from any on average.

    Small where all normals show the same thing in the same way, near 1 where each is a thing of its own.

    Args:
        features: of normals, (n, D), by the pretrained network.
    """
    chosen = spread_over(len(features), MOST)
    unit = features[chosen] / np.maximum(np.linalg.norm(features[chosen], axis=1, keepdims=True), 1e-12)
    away = 1.0 - unit @ unit.T
    if len(away) < 4:
        return 1.0
    average = away.sum() / (len(away) * (len(away) - 1))
    np.fill_diagonal(away, np.inf)
    nearest = np.partition(away, 1, axis=1)[:, :2].mean()
    return float(nearest / max(average, 1e-12))
