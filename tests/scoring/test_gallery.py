from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anomscan.errors import GalleryTooSmall, ModelDamaged
from anomscan.scoring import gallery as gallery_module
from anomscan.scoring.gallery import RECALL, Gallery, kmeans
from anomscan.types import Features, Metric


def unit(rows: int, seed: int = 0) -> Features:
    features = np.random.default_rng(seed).normal(size=(rows, 16)).astype(np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def test_a_normal_finds_itself_at_distance_zero() -> None:
    features = unit(30)
    distances, neighbours = Gallery.build(features).search(features, 2)
    assert neighbours[:, 0].tolist() == list(range(30))
    assert np.abs(distances[:, 0]).max() < 1e-6
    assert (distances >= 0).all()


def test_distances_are_one_minus_cosine_ascending() -> None:
    gallery, queries = unit(30), unit(5, seed=1)
    distances, neighbours = Gallery.build(gallery).search(queries, 4)
    expected = 1 - queries @ gallery.T
    np.testing.assert_allclose(distances, np.sort(expected, axis=1)[:, :4], atol=1e-6)
    np.testing.assert_array_equal(neighbours, np.argsort(expected, axis=1)[:, :4])


def test_it_comes_back_from_disk(tmp_path: Path) -> None:
    features = unit(7)
    Gallery.build(features).save(tmp_path / "g.faiss")
    loaded = Gallery.load(tmp_path / "g.faiss")
    assert (len(loaded), loaded.dim) == (7, 16)
    np.testing.assert_array_equal(loaded.vectors(), features)


def test_too_few_normals_names_the_largest_k() -> None:
    with pytest.raises(GalleryTooSmall, match="the largest possible --k is 3"):
        Gallery.build(unit(3)).search(unit(1), 4)


def test_what_is_no_index_is_a_damaged_model(tmp_path: Path) -> None:
    (tmp_path / "g.faiss").write_bytes(b"nonsense")
    with pytest.raises(ModelDamaged, match=r"g\.faiss"):
        Gallery.load(tmp_path / "g.faiss")


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_many_normals_are_searched_in_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: Metric
) -> None:
    features, queries = unit(3000), unit(200, seed=5)
    assert Gallery.build_fast(features, metric, seed=0)[0].kind == "exact"
    monkeypatch.setattr(gallery_module, "EXACT_UP_TO", 1000)
    gallery, info = Gallery.build_fast(features, metric, seed=0)
    assert RECALL <= info.recall_at_2 <= 1
    assert (info.index, info.vectors) == (gallery.kind, 3000)
    assert gallery.kind.startswith("IVF")
    gallery.save(tmp_path / "g.faiss")
    loaded = Gallery.load(tmp_path / "g.faiss")
    assert (loaded.kind, len(loaded), loaded.exact) == (gallery.kind, 3000, False)
    exact, rows = Gallery.build(features, metric).search(queries, 2)
    distances, found = loaded.search(queries, 2)
    assert np.abs(distances - exact).mean() < 0.01
    assert gallery.holds(features, gallery.search(features, 1)[1][:, 0]).all()
    assert not gallery.holds(queries, found[:, 0]).any()
    assert np.mean([len({*a} & {*b}) / 2 for a, b in zip(rows, found, strict=True)]) > RECALL - 0.05
    assert np.abs(loaded.vectors() - features).max() < 0.001


def test_where_lists_find_too_little_the_search_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery_module, "EXACT_UP_TO", 100)
    crowded = unit(1, seed=1) + 1e-4 * unit(300)
    crowded[:150] *= -1
    assert Gallery.build_fast(crowded, "euclidean", seed=0)[0].exact


def test_a_full_disk_is_an_error_not_a_short_file() -> None:
    with pytest.raises(OSError, match="No space left on device"):
        Gallery.build(unit(30)).save(Path("/dev/full"))


def test_a_few_features_are_spread_over_all() -> None:
    features = unit(10)
    gallery = Gallery.build(features)
    np.testing.assert_array_equal(gallery.some(3), features[[0, 4, 9]])
    np.testing.assert_array_equal(gallery.some(50), features)
    np.testing.assert_array_equal(gallery.at(np.array([7, 2])), features[[7, 2]])


def test_it_knows_its_own_by_the_features_themselves() -> None:
    features = unit(10)
    gallery = Gallery.build(features)
    rounded = (features + 1e-6).astype(np.float32)
    near = features + 1e-3 * unit(10, seed=1)
    rows = np.arange(10)
    assert gallery.holds(rounded, rows).all()
    assert not gallery.holds(near, rows).any()
    assert not gallery.holds(features, (rows + 1) % 10).any()


def test_clusters_are_where_the_features_are() -> None:
    heaps = np.repeat(10 * np.eye(3, dtype=np.float32), 5, axis=0)
    assert sorted(kmeans(heaps, 3, seed=0).round(3).tolist()) == sorted((10 * np.eye(3)).tolist())
    with pytest.raises(GalleryTooSmall, match="15 normals are too few for 16 clusters"):
        kmeans(heaps, 16, seed=0)


def test_a_distance_does_not_depend_on_how_many_are_asked_for() -> None:
    """Of 20 queries and more FAISS makes distances from products; a copy would be far from itself."""
    features = (unit(64) + 3).astype(np.float32)
    gallery = Gallery.build(features, "euclidean")
    many, rows = gallery.search(features, 3)
    alone = np.concatenate([gallery.search(feature[None], 3)[0] for feature in features])
    assert many[:, 0].max() == 0
    np.testing.assert_array_equal(many, alone)
    assert (np.diff(many, axis=1) >= 0).all()
    assert rows[:, 0].tolist() == list(range(64))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("together", [2, 64])
def test_the_nearest_of_other_sets(metric: Metric, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery_module, "_TOGETHER", together)
    monkeypatch.setattr(gallery_module, "_APART", 7)
    vectors, sets = unit(30), np.array([i if i < 12 else i % 3 for i in range(30)], np.int64)
    distances, rows = Gallery.build(vectors, metric).search_apart(vectors, 4, sets, sets)
    all_of_them = 1 - vectors @ vectors.T
    if metric == "euclidean":
        all_of_them = np.sqrt(np.maximum(2 * all_of_them, 0))
    all_of_them[sets[:, None] == sets[None]] = np.inf
    np.testing.assert_array_equal(rows, all_of_them.argsort(axis=1)[:, :4])
    np.testing.assert_allclose(distances, np.sort(all_of_them, axis=1)[:, :4], atol=1e-5)


@pytest.mark.parametrize("together", [1, 64])
def test_where_there_are_fewer_others_the_farthest_counts_again(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery_module, "_TOGETHER", together)
    line = np.array([[0.0], [1.0], [3.0], [7.0]], np.float32)
    gallery, sets = Gallery.build(line, "euclidean"), np.array([0, 0, 0, 1])
    distances, rows = gallery.search_apart(line, 3, sets, sets)
    assert distances.tolist() == [[7, 7, 7], [6, 6, 6], [4, 4, 4], [4, 6, 7]]
    assert rows.tolist() == [[3, 3, 3]] * 3 + [[2, 1, 0]]
    distances, _ = gallery.search_apart(line, 2, np.zeros(4, np.int64), np.zeros(4, np.int64))
    assert np.isfinite(distances).all()
