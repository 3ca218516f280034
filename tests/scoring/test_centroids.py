from __future__ import annotations

import numpy as np
import pytest

from anomscan.errors import GalleryTooSmall
from tests.scoring.features import fitted, scores, unit


def test_kmeans_finds_the_middle_of_two_heaps() -> None:
    heaps = np.repeat([[1, 0.1, 0], [0, 0.1, 1]], 9, axis=0).astype(np.float32)
    heaps /= np.linalg.norm(heaps, axis=1, keepdims=True)
    scorer = fitted("kmeans:2", heaps)
    on_a_heap, between = scores(scorer, np.array([heaps[0], [0, 1, 0]], np.float32), k=1)
    assert on_a_heap == pytest.approx(0, abs=1e-6)
    assert between > 0.5
    np.testing.assert_allclose(np.linalg.norm(scorer.arrays["centroids"], axis=1), 1, atol=1e-6)
    with pytest.raises(GalleryTooSmall, match="18 normals are too few for 19 clusters"):
        fitted("kmeans:19", heaps)


def test_more_neighbours_than_centroids_are_all_of_them() -> None:
    normals = unit(20)
    scorer = fitted("kmeans:3", normals)
    expected = (1 - normals @ scorer.arrays["centroids"].T).sum(axis=1)
    np.testing.assert_allclose(scores(scorer, normals, k=9), expected, atol=1e-5)


def test_mean() -> None:
    scorer = fitted("mean-euclidean", np.array([[0, 0], [2, 0], [1, 3]], np.float32))
    assert scores(scorer, np.array([[1, 1], [4, 5]], np.float32)).tolist() == pytest.approx([0, 5])


def test_the_mean_of_directions_is_a_direction() -> None:
    scorer = fitted("mean", np.eye(2, dtype=np.float32))
    assert scores(scorer, np.array([[0.5**0.5] * 2, [1, 0]], np.float32)).tolist() == pytest.approx(
        [0, 1 - 0.5**0.5], abs=1e-6
    )
