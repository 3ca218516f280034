from __future__ import annotations

import numpy as np
import pytest

from anomscan.scoring.base import Scorer, knn_score
from anomscan.scoring.gallery import Gallery
from anomscan.scoring.reduction import Reduction
from anomscan.scoring.registry import make_scorer, parse_scorer
from anomscan.types import Features, Outputs
from tests.scoring.features import scores, unit

TWO = {"checkpoints": np.array([2], np.float32)}


def of_two(rows: int, seed: int) -> Features:
    """Features of two checkpoints side by side."""
    return np.concatenate([unit(rows, seed=seed), unit(rows, seed=seed + 100)], axis=1)


def scorer_of(normals: Features) -> Scorer:
    scorer = make_scorer(parse_scorer("samplewise"), TWO)
    scorer.fit(Outputs(normals), seed=0)
    return scorer


def test_samplewise_takes_the_checkpoint_that_separates_most() -> None:
    normals = of_two(30, seed=1)
    scorer = scorer_of(normals)
    scales = scorer.arrays["scales"]
    query = np.concatenate([normals[:1, :8], -normals[:1, 8:]], axis=1)
    (score,) = scores(scorer, query)
    second = Gallery.build(normals[:, 8:])
    assert score == pytest.approx(knn_score(second.search(query[:, 8:], 2)[0])[0] / scales[1], rel=1e-5)
    typical = scores(scorer, of_two(200, seed=3))
    assert 0.5 < np.median(typical) < 3


def test_the_galleries_of_an_earlier_fit_are_forgotten() -> None:
    first, second, queries = of_two(30, seed=1), of_two(40, seed=2), of_two(5, seed=3)
    scorer = scorer_of(first)
    before = scores(scorer, queries)
    scorer.fit(Outputs(second), seed=0)
    np.testing.assert_array_equal(scores(scorer, queries), scores(scorer_of(second), queries))
    assert not np.array_equal(before, scores(scorer, queries))
    assert scores(scorer, second, k=1).max() < 1e-3


def test_a_coreset_is_searched_by_every_checkpoint() -> None:
    normals, scorer = of_two(30, seed=1), make_scorer(parse_scorer("samplewise"), TWO)
    rows = scorer.fit(Outputs(normals), seed=0, reduction=Reduction("coreset", 6)).rows
    assert scores(scorer, normals[rows], k=1).max() < 1e-3
    others = np.setdiff1d(np.arange(30), rows)
    assert scores(scorer, normals[others], k=1).min() > 1e-3
    assert scorer.exclusive
    assert scorer.uses_neighbours
