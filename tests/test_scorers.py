from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anomscan.config import ScorerInfo
from anomscan.errors import GalleryTooSmall, UsageError
from anomscan.extractor import Features
from anomscan.gallery import Gallery
from anomscan.scorers import Scorer, knn_score, load_scorer, make_scorer, parse_scorer


def unit(rows: int, dim: int = 8, seed: int = 0) -> Features:
    features = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32) + 1
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def fitted(name: str, features: Features, **state: Features) -> tuple[Scorer, Gallery]:
    scorer = make_scorer(parse_scorer(name), dict(state))
    scorer.fit(features, seed=0)
    return scorer, Gallery.build(features, scorer.info.metric)


def test_the_score_is_the_sum_of_the_distances() -> None:
    distances = np.array([[0.0, 0.25], [0.5, 1.0]], np.float32)
    assert knn_score(distances).tolist() == [0.25, 1.5]


def test_knn() -> None:
    normals, queries = unit(20), unit(3, seed=1)
    scorer, gallery = fitted("knn", normals)
    expected = np.sort(1 - queries @ normals.T, axis=1)[:, :2].sum(axis=1)
    np.testing.assert_allclose(scorer.score(queries, gallery, 2), expected, atol=1e-6)


def test_knn_euclidean_is_not_squared() -> None:
    scorer, gallery = fitted("knn-euclidean", np.array([[0.0, 0.0], [0.0, 10.0]], np.float32))
    assert scorer.score(np.array([[3.0, 4.0]], np.float32), gallery, 1).tolist() == [5]


def test_kmeans_finds_the_middle_of_two_heaps() -> None:
    heaps = np.concatenate([np.tile([[1, 0.1, 0]], (9, 1)), np.tile([[0, 0.1, 1]], (9, 1))]).astype(
        np.float32
    )
    heaps /= np.linalg.norm(heaps, axis=1, keepdims=True)
    scorer, gallery = fitted("kmeans:2", heaps)
    on_a_heap, between = scorer.score(np.array([heaps[0], [0, 1, 0]], np.float32), gallery, 1)
    assert on_a_heap == pytest.approx(0, abs=1e-6)
    assert between > 0.5
    with pytest.raises(GalleryTooSmall, match="18 normals are too few for 19 clusters"):
        fitted("kmeans:19", heaps)


def test_mean() -> None:
    scorer, gallery = fitted("mean-euclidean", np.array([[0, 0], [2, 0], [1, 3]], np.float32))
    assert scorer.score(np.array([[1, 1], [4, 5]], np.float32), gallery, 2).tolist() == pytest.approx([0, 5])


def test_mahalanobis_measures_in_units_of_the_spread() -> None:
    generator = np.random.default_rng(0)
    normals = generator.normal([5, 5], [10, 1], (4000, 2)).astype(np.float32)
    scorer, gallery = fitted("mahalanobis", normals)
    along, across = scorer.score(np.array([[25, 5], [5, 7]], np.float32), gallery, 2)
    assert along == pytest.approx(2, rel=0.05)
    assert across == pytest.approx(2, rel=0.05)


def test_mahalanobis_with_fewer_normals_than_dimensions_is_finite() -> None:
    scorer, gallery = fitted("mahalanobis", unit(5, dim=40))
    scores = scorer.score(unit(9, dim=40, seed=2), gallery, 2)
    assert np.isfinite(scores).all()
    assert (scores > 0).all()


def test_samplewise_takes_the_checkpoint_that_separates_most() -> None:
    normals = np.concatenate([unit(30, seed=1), unit(30, seed=2)], axis=1)
    scorer, gallery = fitted("samplewise", normals, checkpoints=np.array([2], np.float32))
    scales = scorer.state["scales"]
    query = np.concatenate([normals[:1, :8], -normals[:1, 8:]], axis=1)
    (score,) = scorer.score(query, gallery, 2)
    second = Gallery.build(normals[:, 8:])
    assert score == pytest.approx(knn_score(second.search(query[:, 8:], 2)[0])[0] / scales[1], rel=1e-5)
    typical = scorer.score(np.concatenate([unit(200, seed=3), unit(200, seed=4)], axis=1), gallery, 2)
    assert 0.5 < np.median(typical) < 3


def test_logit_is_linear() -> None:
    state = {"weight": np.array([1, -2], np.float32), "bias": np.array([0.5], np.float32)}
    scorer, gallery = fitted("logit", np.ones((3, 2), np.float32), **state)
    assert scorer.score(np.array([[3, 1]], np.float32), gallery, 2).tolist() == [1.5]
    assert not scorer.uses_neighbours


@pytest.mark.parametrize("name", ["knn", "kmeans:3", "mean", "mahalanobis"])
def test_it_comes_back_from_disk(name: str, tmp_path: Path) -> None:
    normals, queries = unit(20), unit(4, seed=5)
    scorer, gallery = fitted(name, normals)
    scorer.save(tmp_path / "scorer.npz")
    again = load_scorer(scorer.info, tmp_path / "scorer.npz")
    np.testing.assert_array_equal(again.score(queries, gallery, 2), scorer.score(queries, gallery, 2))


def test_names() -> None:
    assert parse_scorer("kmeans:100") == ScorerInfo("kmeans", 2, "cosine", 100)
    assert parse_scorer("mean-euclidean") == ScorerInfo("mean", 2, "euclidean", 1)
    assert parse_scorer("logit").metric == "euclidean"
    for name in ("", "kmeans", "kmeans:0", "kmeans:x", "mahalanobis-euclidean", "nearest"):
        with pytest.raises(UsageError, match="choose knn, knn-euclidean, kmeans:K"):
            parse_scorer(name)
