from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomscan.errors import ModelDamaged
from anomscan.scoring import patches as module
from anomscan.scoring.bank import Bank
from anomscan.scoring.gallery import Gallery
from anomscan.scoring.patches import PATCHES, PLACES, PatchGallery, averages, peaks
from anomscan.types import Features, Rows

ROWS, COLUMNS = 4, 5
PATHS = [os.fsdecode(name) for name in (b"/n/0.png", b"/n/\xff\n.png", "/n/ü 🔩.png".encode())]


def made(images: int, seed: int = 0) -> Features:
    """Random patches, (images, 4, 5, 6)."""
    return np.random.default_rng(seed).normal(size=(images, ROWS, COLUMNS, 6)).astype(np.float32)


def gallery_of(patches: Features, paths: list[str] | None = None, most: int = 10_000) -> PatchGallery:
    bank = Bank(most)
    bank.add(patches, paths or [f"/n/{i}.png" for i in range(len(patches))])
    return PatchGallery.build(bank, seed=0)[0]


def test_an_image_of_the_gallery_is_nowhere_far_from_itself() -> None:
    patches = made(3)
    gallery = gallery_of(patches)
    maps = gallery.maps(patches)
    assert maps.distances.shape == maps.nearest.shape == (3, ROWS, COLUMNS)
    assert maps.distances.dtype == np.float32
    assert maps.nearest.dtype == np.int64
    assert maps.distances.max() < 1e-3
    for image in range(3):
        for row in range(ROWS):
            for column in range(COLUMNS):
                origin = gallery.origin(int(maps.nearest[image, row, column]))
                assert origin == (f"/n/{image}.png", row, column)


def test_distances_are_those_to_the_nearest_patch_wherever_it_is() -> None:
    normals, new = made(3), made(2, seed=1)
    flat = normals.reshape(-1, 6)
    away = np.linalg.norm(new[..., None, :] - flat, axis=-1)
    maps = gallery_of(normals).maps(new)
    np.testing.assert_allclose(maps.distances, away.min(axis=-1), rtol=1e-4)
    np.testing.assert_array_equal(maps.nearest, away.argmin(axis=-1))


def test_an_image_has_the_same_map_alone_and_among_others() -> None:
    gallery, new = gallery_of(made(3)), made(5, seed=1)
    together = gallery.maps(new)
    for i in (0, 3):
        alone = gallery.maps(new[i : i + 1])
        np.testing.assert_array_equal(alone.distances[0], together.distances[i])
        np.testing.assert_array_equal(alone.nearest[0], together.nearest[i])


def test_normals_are_compared_with_the_patches_of_others() -> None:
    patches = made(4)
    found = gallery_of(patches).maps_without(np.array([2, 0], np.int32), patches[[2, 0]])
    for distances, own in zip(found, (2, 0), strict=True):
        others = np.delete(patches, own, axis=0).reshape(-1, 6)
        away = np.linalg.norm(patches[own][..., None, :] - others, axis=-1)
        np.testing.assert_allclose(distances, away.min(axis=-1), rtol=1e-4)


@pytest.mark.parametrize("images", [2, 3])
def test_normals_with_many_patches_alike_are_compared_with_the_patches_of_others(images: int) -> None:
    """A plain background: all patches of an image are nearer to each other than to those of any other."""
    patches = 0.01 * made(images) + 10 * np.arange(images, dtype=np.float32)[:, None, None, None]
    found = gallery_of(patches).maps_without(np.arange(images, dtype=np.int32), patches)
    assert found.min() > 20


@pytest.mark.parametrize("place", [(-1, 0), (0, -1), (ROWS, 0), (0, COLUMNS)])
def test_a_place_outside_the_grid_is_refused(place: tuple[int, int], tmp_path: Path) -> None:
    gallery = gallery_of(made(3))
    gallery.places[7] = place
    files = gallery.save(tmp_path)
    with pytest.raises(ModelDamaged, match="does not go with its patches"):
        PatchGallery.load(files)


def test_an_only_image_is_compared_with_itself() -> None:
    patches = made(1)
    found = gallery_of(patches).maps_without(np.array([0], np.int32), patches)
    assert np.isfinite(found).all()
    assert found.min() > 0


def test_a_gallery_in_lists_is_searched_as_one_that_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_EXACT_UP_TO", 100)
    patches = made(30)
    bank = Bank()
    bank.add(patches, [f"/n/{i}.png" for i in range(30)])
    gallery, info = PatchGallery.build(bank, seed=0)
    assert info.index.startswith("IVF")
    assert info.vectors == len(gallery) == 600
    maps = gallery.maps(patches[7:8])
    assert maps.distances.max() < 0.05  # of features in 16 bits
    assert {gallery.origin(int(row))[0] for row in maps.nearest.ravel()} == {"/n/7.png"}
    others = gallery.maps_without(np.array([7], np.int32), patches[7:8])
    away = np.linalg.norm(patches[7][..., None, :] - np.delete(patches, 7, axis=0).reshape(-1, 6), axis=-1)
    assert (others[0] > 0.99 * away.min(axis=-1)).all()
    assert np.median(others[0] / away.min(axis=-1)) < 1.1


class FindsFew(Gallery):
    """Finds but three, as a search in lists may; the others are nowhere, as FAISS says it."""

    def search(self, queries: Features, k: int) -> tuple[Features, Rows]:
        distances, rows = super().search(queries, k)
        distances[:, 3:], rows[:, 3:] = np.sqrt(np.finfo(np.float32).max), -1
        return distances, rows


def test_a_patch_that_was_not_found_is_at_no_distance() -> None:
    patches = 0.01 * made(2) + np.arange(2, dtype=np.float32)[:, None, None, None]
    exact = gallery_of(patches)
    few = FindsFew.build(patches.reshape(-1, 6), "euclidean")
    gallery = PatchGallery(few, exact.images, exact.places, exact.paths, exact.grid)
    assert gallery.maps_without(np.arange(2, dtype=np.int32), patches).max() < 100


def test_what_is_held_can_be_gathered_again() -> None:
    patches = made(3)
    gallery = gallery_of(patches, most=25)
    held = gallery.held()
    assert len(held) == len(gallery) == 25
    np.testing.assert_array_equal(held.features, patches[held.images, held.places[:, 0], held.places[:, 1]])


def test_a_gallery_is_read_as_it_was_written(tmp_path: Path) -> None:
    gallery = gallery_of(made(3), PATHS, most=50)
    files = gallery.save(tmp_path)
    assert sorted(files) == sorted((PATCHES, PLACES))
    again = PatchGallery.load(files)
    assert (again.paths, again.grid, len(again)) == (PATHS, (ROWS, COLUMNS), 50)
    np.testing.assert_array_equal(again.images, gallery.images)
    np.testing.assert_array_equal(again.places, gallery.places)
    new = made(2, seed=1)
    np.testing.assert_array_equal(again.maps(new).distances, gallery.maps(new).distances)
    np.testing.assert_array_equal(again.maps(new).nearest, gallery.maps(new).nearest)
    assert [again.origin(i) for i in range(50)] == [gallery.origin(i) for i in range(50)]


def texts(content: bytes) -> Any:
    return np.frombuffer(content, np.uint8)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("images", np.zeros(59, np.int32)),
        ("images", np.full(60, 3, np.int32)),
        ("images", np.full(60, -1, np.int32)),
        ("images", np.array(["x"] * 60)),
        ("images", np.zeros(60)),
        ("images", np.full(60, np.nan)),
        ("images", np.full(60, 1 << 40)),
        ("images", np.array(0)),
        ("places", np.full((60, 2), np.nan)),
        ("places", np.full((60, 2), 1 << 16)),
        ("places", np.zeros((60, 3), np.int16)),
        ("places", np.zeros((59, 2), np.int16)),
        ("grid", np.zeros(3, np.int64)),
        ("grid", np.array(7)),
        ("grid", np.array([ROWS, np.nan])),
        ("grid", np.array([ROWS, 0])),
        ("grid", np.array([ROWS, 1 << 40])),
        ("texts", texts(b"[" * 100_000)),
        ("texts", texts(b"[1, 2, 3]")),
        ("texts", texts(b"[")),
        ("texts", texts(b"\xff")),
        ("texts", texts(b'{"/n/0.png": 0}')),
        ("texts", texts(b'"/n/0.png"')),
        ("texts", texts(b'["/n/0.png"]')),
        *((name, None) for name in ("images", "places", "grid", "texts")),
    ],
)
def test_places_that_do_not_fit_are_damage(tmp_path: Path, name: str, value: Any) -> None:
    files = gallery_of(made(3), PATHS).save(tmp_path)
    PatchGallery.load(files)
    with np.load(files[PLACES]) as arrays:
        content = {**arrays, name: value}
    np.savez(files[PLACES], **{key: array for key, array in content.items() if array is not None})
    with pytest.raises(ModelDamaged, match=r"places\.npz"):
        PatchGallery.load(files)


@pytest.mark.parametrize("shape", [(ROWS, COLUMNS + 1), (ROWS + 1, COLUMNS), (COLUMNS, ROWS), (3, COLUMNS)])
def test_a_network_with_another_grid_is_refused(shape: tuple[int, int]) -> None:
    gallery = gallery_of(made(3))
    with pytest.raises(
        ModelDamaged, match=rf"gives {shape[0]} x {shape[1]} patches .* on 4 x 5; adapt again"
    ):
        gallery.maps(np.zeros((1, *shape, 6), np.float32))


def test_one_tile_of_several_below_each_other_has_a_part_of_the_rows() -> None:
    gallery, patches = gallery_of(made(3)), made(2)
    whole, half = gallery.maps(patches), gallery.maps(patches.reshape(4, ROWS // 2, COLUMNS, 6))
    np.testing.assert_array_equal(half.distances.reshape(2, ROWS, COLUMNS), whole.distances)


@pytest.mark.parametrize("role", [PATCHES, PLACES])
@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_nonsense_is_damage(tmp_path: Path, role: str, content: bytes) -> None:
    files = gallery_of(made(3)).save(tmp_path)
    files[role].write_bytes(content)
    with pytest.raises(ModelDamaged):
        PatchGallery.load(files)


@pytest.mark.parametrize(("side", "count"), [(1, 1), (14, 1), (21, 2), (28, 4), (42, 9)])
def test_a_peak_is_the_mean_of_the_farthest_patches(side: int, count: int) -> None:
    distances = np.random.default_rng(0).random((3, side, side)).astype(np.float32)
    expected = np.sort(distances.reshape(3, -1), axis=1)[:, -count:].mean(axis=1)
    np.testing.assert_allclose(peaks(distances), expected, rtol=1e-6)
    assert peaks(distances).shape == (3,)


def test_an_average_is_of_all_patches() -> None:
    distances = np.random.default_rng(0).random((3, 7, 5)).astype(np.float32)
    np.testing.assert_allclose(averages(distances), distances.mean(axis=(1, 2)), rtol=1e-6)


def test_distances_are_measured_anew_by_another_metric() -> None:
    generator = np.random.default_rng(5)
    patches = generator.normal(size=(4, 3, 3, 6)).astype(np.float32)
    bank = Bank()
    bank.add(patches, list("abcd"))
    gallery, _ = PatchGallery.build(bank, 0)
    numbers, metric = np.arange(4), np.diag([2.0, 1, 1, 1, 1, 0.5]).astype(np.float32)
    plain = gallery.maps_apart(numbers, numbers, patches)
    np.testing.assert_allclose(
        gallery.maps_apart(numbers, numbers, patches, np.eye(6, dtype=np.float32)), plain, rtol=1e-5
    )
    found = gallery.maps_apart(numbers, numbers, patches, metric)
    flat = patches.reshape(4, 9, 6) @ metric
    for i in range(4):
        others = flat[numbers != i].reshape(-1, 6)
        nearest = np.linalg.norm(flat[i][:, None] - others[None], axis=2).min(axis=1)
        assert (found[i].ravel() >= nearest - 1e-5).all()
        np.testing.assert_allclose(found[i].ravel(), nearest, rtol=0.5)
