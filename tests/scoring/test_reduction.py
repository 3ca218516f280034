from __future__ import annotations

import numpy as np
import pytest

from anomscan.errors import GalleryTooSmall, UsageError
from anomscan.scoring import reduction
from anomscan.scoring.reduction import Reduction, coreset
from anomscan.types import Features


def unit(rows: int, seed: int = 0, dim: int = 16) -> Features:
    features: Features = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return features


def whole(rows: int, largest: int, seed: int = 0, dim: int = 4) -> Features:
    """Features of whole numbers, whose squared distances are exact in 32 bits."""
    return np.random.default_rng(seed).integers(0, largest, (rows, dim)).astype(np.float32)


def one_by_one(features: Features, size: int, first: int) -> list[int]:
    """The greedy choice as the paper has it: whenever one is chosen, all distances are looked at again."""
    chosen = [first]
    nearest = np.square(features - features[first]).sum(axis=1)
    while len(chosen) < size:
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.square(features - features[chosen[-1]]).sum(axis=1))
    return chosen


def is_greedy(features: Features, chosen: list[int]) -> bool:
    """Whether none was farther from those before it than each that was chosen; of equal ones any may be."""
    nearest = np.square(features - features[chosen[0]]).sum(axis=1)
    for last, row in enumerate(chosen[1:], start=1):
        nearest[chosen[:last]] = -1
        if nearest[row] != nearest.max():
            return False
        nearest = np.minimum(nearest, np.square(features - features[row]).sum(axis=1))
    return len(set(chosen)) == len(chosen)


@pytest.mark.parametrize("pool", [1, 2, 20, 2000])
def test_choosing_many_at_a_time_is_choosing_one_by_one(pool: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduction, "_POOL", pool)
    monkeypatch.setattr(reduction, "_BLOCK", 70)
    for seed in range(5):
        features = whole(300, 1000, seed)
        chosen = coreset(features, 40, seed).tolist()
        assert chosen == one_by_one(features, 40, chosen[0])


@pytest.mark.parametrize("pool", [1, 7, 50, 2000])
@pytest.mark.parametrize("size", [1, 50, 399, 400])
def test_so_it_is_where_many_are_the_same_and_where_all_are_chosen(
    pool: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reduction, "_POOL", pool)
    monkeypatch.setattr(reduction, "_BLOCK", 70)
    for seed in range(3):
        features = whole(400, 3, seed)
        assert len(np.unique(features, axis=0)) < 100
        chosen = coreset(features, size, seed).tolist()
        assert len(chosen) == size
        assert is_greedy(features, chosen)


def test_copies_of_one_row_are_chosen_last() -> None:
    features = np.concatenate([np.zeros((50, 4), np.float32), whole(10, 100) + 1])
    chosen = coreset(features, 20, seed=0).tolist()
    assert len(set(chosen)) == 20
    assert set(range(50, 60)) <= set(chosen[:11])
    assert sorted(coreset(np.ones((9, 4), np.float32), 9, seed=0).tolist()) == list(range(9))


def test_the_choice_among_many_is_greedy_up_to_rounding() -> None:
    """More rows than a pool and a block, as patches come."""
    features = np.random.default_rng(0).normal(size=(25_000, 8)).astype(np.float32)
    chosen = coreset(features, 300, seed=0).tolist()
    nearest = np.square(features - features[chosen[0]]).sum(axis=1)
    for row in chosen[1:]:
        assert nearest[row] >= 0.999 * nearest.max()
        nearest = np.minimum(nearest, np.square(features - features[row]).sum(axis=1))


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
