from __future__ import annotations

import numpy as np
import pytest

from anomscan.errors import GalleryTooSmall, UsageError
from anomscan.scoring.reduction import Reduction, coreset
from anomscan.types import Features


def unit(rows: int, seed: int = 0, dim: int = 16) -> Features:
    features = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def test_a_coreset_covers_what_a_random_choice_leaves_out() -> None:
    crowd, loner = unit(400), -10 * unit(1, seed=9)
    features = np.concatenate([crowd, loner])
    chosen = coreset(features, 5, seed=0)
    assert len(set(chosen.tolist())) == 5
    assert 400 in chosen[:2]
    assert sorted(coreset(features, 401, seed=0).tolist()) == list(range(401))
    with pytest.raises(GalleryTooSmall, match="too few for a coreset of 402"):
        coreset(features, 402, seed=0)


def test_a_coreset_of_many_dimensions_is_chosen_in_fewer() -> None:
    crowd, loner = unit(200, dim=300) * 0.1, unit(1, seed=9, dim=300) * 20
    chosen = coreset(np.concatenate([crowd, loner]), 2, seed=0)
    assert 200 in chosen
    assert chosen.tolist() == coreset(np.concatenate([crowd, loner]), 2, seed=0).tolist()


@pytest.mark.parametrize("text", ["kmeans:5", "coreset:12"])
def test_a_reduction_is_written_as_it_is_read(text: str) -> None:
    assert str(Reduction.parse(text)) == text
    assert Reduction.parse(text).keeps_normals == text.startswith("coreset")


@pytest.mark.parametrize("text", ["", "kmeans", "kmeans:0", "coreset:-1", "random:5", "coreset:5x"])
def test_what_is_no_reduction_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="choose kmeans:K or coreset:K"):
        Reduction.parse(text)


def test_a_coreset_is_made_of_normals() -> None:
    features = unit(50)
    reduced, rows = Reduction("coreset", 8).apply(features, "cosine", seed=0)
    np.testing.assert_array_equal(reduced, features[rows])
    assert len(set(rows.tolist())) == 8


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_centroid_stands_for_the_normal_nearest_to_it(metric: str) -> None:
    features = unit(50)
    reduced, rows = Reduction("kmeans", 8).apply(features, metric, seed=0)  # type: ignore[arg-type]
    assert (np.abs(np.linalg.norm(reduced, axis=1) - 1).max() < 1e-5) == (metric == "cosine")
    distances = np.linalg.norm(reduced[:, None] - features, axis=2)
    np.testing.assert_allclose(distances[range(8), rows], distances.min(axis=1), atol=1e-6)
    with pytest.raises(GalleryTooSmall, match="50 normals are too few for 51 clusters"):
        Reduction("kmeans", 51).apply(features, "cosine", seed=0)
