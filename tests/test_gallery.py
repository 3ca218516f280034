from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anomscan import gallery as gallery_module
from anomscan.errors import GalleryTooSmall, ModelDamaged
from anomscan.extractor import Features
from anomscan.gallery import RECALL, Gallery, Metric, coreset


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


def test_a_coreset_covers_what_a_random_choice_leaves_out() -> None:
    crowd, loner = unit(400), -10 * unit(1, seed=9)
    features = np.concatenate([crowd, loner])
    chosen = coreset(features, 5, seed=0)
    assert len(set(chosen.tolist())) == 5
    assert 400 in chosen[:2]
    assert sorted(coreset(features, 401, seed=0).tolist()) == list(range(401))
    with pytest.raises(GalleryTooSmall, match="too few for a coreset of 402"):
        coreset(features, 402, seed=0)
