from __future__ import annotations

import numpy as np
import pytest

from anomscan.errors import GalleryTooSmall, UsageError
from anomscan.scoring.base import Apart
from anomscan.types import Outputs
from tests.scoring.features import fitted, scores, unit


def test_knn() -> None:
    normals, queries = unit(20), unit(3, seed=1)
    expected = np.sort(1 - queries @ normals.T, axis=1)[:, :2].sum(axis=1)
    np.testing.assert_allclose(scores(fitted("knn", normals), queries), expected, atol=1e-6)


def test_knn_euclidean_is_not_squared() -> None:
    scorer = fitted("knn-euclidean", np.array([[0.0, 0.0], [0.0, 10.0]], np.float32))
    assert scores(scorer, np.array([[3.0, 4.0]], np.float32), k=1).tolist() == [5]


def test_a_normal_scores_about_nothing_by_one_neighbour() -> None:
    normals = unit(20)
    for name in ("knn", "knn-euclidean"):
        assert np.abs(scores(fitted(name, normals), normals, k=1)).max() < 1e-3


def test_each_normal_is_scored_by_those_that_stay() -> None:
    line = np.array([[0.0], [1.0], [3.0], [10.0]], np.float32)
    scorer = fitted("knn-euclidean", line)
    assert scorer.compares_apart
    sets = np.array([0, 0, 1, 2])
    found = scorer.apart(Outputs(line), 2, Apart(sets, sets, {}))
    assert found.tolist() == [13, 11, 5, 16]
    with pytest.raises(GalleryTooSmall, match="2 normals are left for one"):
        scorer.apart(Outputs(line), 3, Apart(sets, sets, {}))


def test_other_scorers_leave_none_out() -> None:
    scorer = fitted("mahalanobis", unit(20))
    assert not scorer.compares_apart
    with pytest.raises(UsageError, match="mahalanobis cannot leave a normal out"):
        scorer.apart(Outputs(unit(20)), 2, Apart(np.arange(20), np.arange(20), {}))
