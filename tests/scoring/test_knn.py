from __future__ import annotations

import numpy as np

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
