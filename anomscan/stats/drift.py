"""Whether a whole batch has moved away from the normals: another lamp, another lens, a new product.

The p-values alone do not tell. A kNN score is a distance, and where normals vary much, a step of the whole
batch in one direction leaves every image about as far from its nearest normal as before. So the features are
compared: the batch's with those of the held-out normals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anomscan.stats.calibration import Calibration, Floats
from anomscan.types import Features

FALSE_ALARMS = 0.01
"""How often, at most, a batch of the same normals is said to have shifted."""


FEWEST = 50
"""Images that a batch has at least."""


LARGEST_SAMPLE = 500
"""Features of either side, drawn at random from more."""


_ANOMALIES = 0.1


_PERMUTATIONS = 999


_SHRINKAGE = 0.25


_COPY = 1 - 1e-5


@dataclass(frozen=True)
class Drift:
    """How far the batch is from the held-out normals, in [0, 2], and how often chance makes that of it."""

    distance: float
    p_value: float
    shifted: bool


def drift(calibration: Calibration, normals: Features, batch: Features, scores: Floats) -> Drift | None:
    """Compare the mean direction of a batch with that of the held-out normals.

    Features are centred, whitened by the shrunk covariance of the gallery and scaled to norm 1, so that no
    single image counts more than another (a spatial sign test; Oja 2010). The highest scores of the two
    together, a share of ``_ANOMALIES``, are left out: true anomalies are not a shift of the rest. What
    remains is exchangeable where nothing shifted, so the permutation test is exact, however few the held-out
    normals are; copies of an image count once. Where normals come in groups, the batch may be a group: then
    its distance must also exceed that of every group from the others.

    Args:
        calibration: the held-out normals.
        normals: (n, D) float32 features of the gallery.
        batch: (m, D) float32 features of images that are not among the normals, m <= ``LARGEST_SAMPLE``.
        scores: (m,) theirs.

    Returns:
        None where too few images are left to compare.
    """
    generator = np.random.default_rng(0)
    drawn = generator.permutation(len(calibration.scores))[:LARGEST_SAMPLE]
    signs = _signs(np.concatenate([calibration.features[drawn], batch]), normals)
    pooled = np.concatenate([calibration.scores[drawn], scores])
    kernel = signs @ signs.T
    kept = (pooled <= np.quantile(pooled, 1 - _ANOMALIES)) & ~np.triu(kernel > _COPY, 1).any(axis=0)
    held_out = (np.arange(len(pooled)) < len(drawn))[kept]
    if min(held_out.sum(), (~held_out).sum()) < 2:
        return None
    kernel = kernel[np.ix_(kept, kept)]
    sides = np.stack([held_out, *(generator.permutation(held_out) for _ in range(_PERMUTATIONS))])
    distances = _distances(kernel, sides)
    p_value = float((distances >= distances[0] - 1e-9).mean())
    shifted = p_value <= FALSE_ALARMS
    if calibration.groups < len(calibration.paths):
        names = np.array(calibration.names)[drawn][kept[: len(drawn)]]
        groups = np.stack([names == name for name in set(names)])
        others = kernel[np.ix_(held_out, held_out)]
        shifted &= len(groups) > 1 and bool(distances[0] > _distances(others, groups).max())
    return Drift(float(distances[0]), p_value, shifted)


def _signs(features: Features, normals: Features) -> Floats:
    """Directions of (n, D) features from the mean of the normals, in units of their covariance; norm 1."""
    mean = normals.mean(axis=0, dtype=np.float64)
    _, values, axes = np.linalg.svd(normals - mean, full_matrices=False)
    variances = values**2 / len(normals)
    shrinkage = _SHRINKAGE * variances.mean() + 1e-12
    centred = features - mean
    scale = np.sqrt(shrinkage / (variances + shrinkage)) - 1
    white = centred + ((centred @ axes.T) * scale) @ axes
    signs: Floats = white / np.maximum(np.linalg.norm(white, axis=1, keepdims=True), 1e-12)
    return signs


def _distances(kernel: Floats, sides: NDArray[np.bool_]) -> Floats:
    """Distance of the mean of one side from that of the other, for each of (s, n) splits; kernel (n, n)."""
    weights = sides / sides.sum(axis=1, keepdims=True) - ~sides / (~sides).sum(axis=1, keepdims=True)
    squares = ((weights @ kernel) * weights).sum(axis=1)
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))
