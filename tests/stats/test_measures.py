from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from anomscan.stats.measures import (
    Labels,
    auroc,
    average_precision,
    bootstrap_intervals,
    count_by_score,
    fpr_at_tpr,
    spearman,
)

LABELS = np.array([False, False, True, True])


def of_images(normal: int, anomalous: int, seed: int) -> tuple[NDArray[np.float64], Labels]:
    """Scores of a normal distribution for each kind, 1.5 apart; every third set rounded, so that it ties."""
    generator = np.random.default_rng(seed)
    labels = np.repeat([False, True], [normal, anomalous])
    scores = generator.normal(1.5 * labels)
    return scores.round(1) if seed % 3 == 0 else scores, labels


@pytest.mark.parametrize(
    ("scores", "area", "precision", "alarms"),
    [
        ([1, 2, 3, 4], 1.0, 1.0, 0.0),
        ([4, 3, 2, 1], 0.0, (1 / 3 + 2 / 4) / 2, 1.0),
        ([1, 1, 1, 1], 0.5, 2 / 4, 1.0),
        ([1, 3, 2, 4], 0.75, (1 / 1 + 2 / 3) / 2, 0.5),
        ([1, 2, 2, 3], 0.875, (1 / 1 + 2 / 3) / 2, 0.5),
        ([3, 1, 3, 2], 0.625, (1 / 2 + 2 / 3) / 2, 0.5),
        ([-0.1, -0.4, -0.35, 0.8], 0.75, (1 / 1 + 2 / 3) / 2, 0.5),
        ([np.inf, 0, 1, 2], 0.5, (1 / 2 + 2 / 3) / 2, 0.5),
    ],
)
def test_the_measures_of_four_images(
    scores: list[float], area: float, precision: float, alarms: float
) -> None:
    values = np.array(scores, np.float32)
    assert auroc(values, LABELS) == area
    assert average_precision(values, LABELS) == pytest.approx(precision)
    assert fpr_at_tpr(values, LABELS) == alarms


def test_the_measures_are_what_their_definitions_say() -> None:
    for seed in range(20):
        generator = np.random.default_rng(seed)
        scores, labels = generator.integers(0, 12, 90).astype(np.float32), generator.random(90) < 0.3
        difference = scores[labels][:, None] - scores[~labels][None, :]
        precision, recall, rates = 0.0, 0.0, []
        for threshold in sorted(set(scores.tolist()), reverse=True):
            called = scores >= threshold
            found = float(called[labels].mean())
            precision += (found - recall) * float(labels[called].mean())
            recall = found
            rates += [float(called[~labels].mean())] if found >= 0.95 else []
        assert auroc(scores, labels) == pytest.approx(((difference > 0) + 0.5 * (difference == 0)).mean())
        assert average_precision(scores, labels) == pytest.approx(precision)
        assert fpr_at_tpr(scores, labels) == min(rates)


@pytest.mark.parametrize(
    ("tpr", "found", "anomalous"), [(0.95, 19, 20), (0.95, 950, 1000), (0.07, 7, 100), (0.55, 55, 100)]
)
def test_exactly_enough_is_enough(tpr: float, found: int, anomalous: int) -> None:
    labels = np.repeat([False, True], [10, anomalous])
    scores = np.repeat([1.0, 0.0, 2.0], [10, anomalous - found, found])
    assert fpr_at_tpr(scores, labels, tpr) == 0
    scores[-1] = 0
    assert fpr_at_tpr(scores, labels, tpr) == 1


def test_counts_go_down_from_the_highest_score() -> None:
    normal, anomalous = count_by_score(np.array([5, 1, 5, 3.0]), LABELS)
    assert (normal.tolist(), anomalous.tolist()) == ([1, 0, 1], [1, 1, 0])


def test_the_kinds_are_resampled_apart() -> None:
    scores, labels = of_images(30, 7, 1)
    seen = []

    def measure(normal: NDArray[np.int64], anomalous: NDArray[np.int64]) -> NDArray[np.float64]:
        seen.append((normal, anomalous))
        return np.zeros(len(normal))

    bootstrap_intervals(scores, labels, [measure], seed=0)
    normal, anomalous = (np.concatenate(counts) for counts in zip(*seen, strict=True))
    assert normal.shape == anomalous.shape == (1000, 37)
    assert set(normal.sum(axis=1)) == {30}
    assert set(anomalous.sum(axis=1)) == {7}
    assert not (normal * count_by_score(scores, labels)[1]).any()
    assert np.abs(normal.mean(axis=0)[normal.any(axis=0)] - 1).max() < 0.2


def test_the_bootstrap_does_not_grow_in_memory() -> None:
    scores, labels = of_images(30_000, 3_000, 1)
    tracemalloc.start()
    bootstrap_intervals(
        scores, labels, [lambda normal, anomalous: anomalous[:, 0] / 1], seed=0, resamples=400
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60_000_000  # all resamples at once: 33,000 x 400 numbers, several times


def test_spearman_sees_ranks_only_and_halves_ties() -> None:
    values = np.array([3.0, 1.0, 2.0, 5.0])
    assert spearman(values, np.exp(values)) == pytest.approx(1)
    assert spearman(values, -values) == pytest.approx(-1)
    tied = np.array([1.0, 1.0, 2.0, 3.0])  # ranks 1.5, 1.5, 3, 4
    assert spearman(tied, np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(4.5 / np.sqrt(4.5 * 5))
    assert spearman(np.zeros(3), np.ones(3)) == 1
    assert spearman(np.zeros(3), np.arange(3.0)) == 0
