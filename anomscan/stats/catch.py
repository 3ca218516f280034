"""How large, or how strong, a defect must be to be caught: a curve through what was, with its interval.

The share that is caught is modelled as a logistic function of the logarithm of the size, or of the contrast.
Where all or none were caught no curve fits best: half a defect caught and half a one missed at either end
keep it finite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anomscan.stats.calibration import Floats

TARGET = 0.9
"""Nine times of ten."""
CONFIDENCE = 0.9
RESAMPLES = 200


@dataclass(frozen=True)
class Catch:
    """What was caught at some steps of one grade, and what that says.

    Args:
        steps: (s,) sizes or contrasts, ascending.
        caught: (s,) how many of ``made`` were caught at each.
        made: how many were made at each.
        limit: from which on ``TARGET`` of them are caught, with the interval ``low`` to ``high``; infinite
            where that lies beyond the last step, 0 where before the first.
    """

    steps: list[float]
    caught: list[int]
    made: list[int]
    limit: float
    low: float
    high: float

    @property
    def rates(self) -> list[float]:
        """The share that was caught at each step."""
        return [
            caught / made if made else math.nan for caught, made in zip(self.caught, self.made, strict=True)
        ]


def catch(
    steps: Floats, grades: NDArray[np.int64], caught: NDArray[np.bool_], sources: NDArray[np.int64], seed: int
) -> Catch:
    """Where ``TARGET`` of the defects are caught, by n that were made.

    The interval holds the middle ``CONFIDENCE`` of the limits by resampled images: defects on one image
    are alike.

    Args:
        steps: (s,) sizes or contrasts, ascending.
        grades: (n,) which of them each defect has.
        caught: (n,) whether it was caught.
        sources: (n,) the number of the image that it was made on.
        seed: of the resampling.
    """
    counts = [int(((grades == i) & caught).sum()) for i in range(len(steps))]
    made = [int((grades == i).sum()) for i in range(len(steps))]
    generator, images = np.random.default_rng(seed), np.unique(sources)
    members = [np.flatnonzero(sources == image) for image in images]
    limits = []
    for _ in range(RESAMPLES):
        drawn = np.concatenate([members[i] for i in generator.integers(len(images), size=len(images))])
        limits.append(limit_of(steps, grades[drawn], caught[drawn]))
    tail = (1 - CONFIDENCE) / 2
    low, high = (float(np.quantile(limits, share, method="nearest")) for share in (tail, 1 - tail))
    limit = limit_of(steps, grades, caught)
    return Catch([float(step) for step in steps], counts, made, limit, min(low, limit), max(high, limit))


def limit_of(steps: Floats, grades: NDArray[np.int64], caught: NDArray[np.bool_]) -> float:
    """The step from which on ``TARGET`` are caught; infinite beyond the last one, 0 before the first."""
    x = np.log(steps)
    made = np.bincount(grades, minlength=len(steps)).astype(np.float64)
    hits = np.bincount(grades[caught], minlength=len(steps)).astype(np.float64)
    intercept, slope = _logistic(x - x.mean(), hits, made)
    if slope <= 0:
        all_caught = hits.sum() >= TARGET * made.sum()
        return 0.0 if all_caught else math.inf
    place = x.mean() + (math.log(TARGET / (1 - TARGET)) - intercept) / slope
    if place < x[0]:
        return 0.0
    return math.inf if place > x[-1] else float(math.exp(place))


def _logistic(x: Floats, hits: Floats, made: Floats) -> tuple[float, float]:
    """Intercept and slope of the most likely curve, by Newton's method, with half of each at the ends."""
    ends = np.zeros(len(x))
    ends[[0, -1]] = 0.5
    hits, made = hits + ends, made + 2 * ends
    design = np.stack([np.ones(len(x)), x], axis=1)
    beta = np.zeros(2)
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(design @ beta, -30, 30)))
        gradient = design.T @ (hits - made * p)
        curvature = (design * (made * p * (1 - p))[:, None]).T @ design + 1e-6 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        beta = beta + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-8:
            break
    return float(beta[0]), float(beta[1])
