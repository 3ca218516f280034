from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anomscan.errors import GalleryTooSmall, ModelDamaged
from anomscan.extractor import Features
from anomscan.gallery import Gallery


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
