from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from anomscan.scoring import bank as module
from anomscan.scoring.bank import Bank, Patches
from anomscan.scoring.reduction import coreset
from anomscan.types import Features

ROWS, COLUMNS = 3, 4


def made(images: int, seed: int = 0) -> Features:
    """Random patches, (images, 3, 4, 5)."""
    return np.random.default_rng(seed).normal(size=(images, ROWS, COLUMNS, 5)).astype(np.float32)


def names(images: int) -> list[str]:
    return [f"/n/{i}.png" for i in range(images)]


def filled(patches: Features, most: int, seed: int = 0, batch: int = 4) -> Bank:
    bank, paths = Bank(most, seed), names(len(patches))
    for i in range(0, len(patches), batch):
        bank.add(patches[i : i + batch], paths[i : i + batch])
    return bank


def radius(patches: Features, kept: Features) -> float:
    """How far the patch that is farthest from all that were kept is from the nearest of them."""
    flat = patches.reshape(-1, patches.shape[-1])
    return max(float(np.linalg.norm(kept - patch, axis=1).min()) for patch in flat)


def come_from_where_they_say(kept: Patches, patches: Features) -> bool:
    rows, columns = kept.places.T
    return np.array_equal(kept.features, patches[kept.images, rows, columns])


def test_up_to_the_limit_all_are_kept_in_order() -> None:
    patches = made(5)
    bank = filled(patches, most=60)
    kept = bank.patches()
    np.testing.assert_array_equal(kept.features, patches.reshape(60, 5))
    assert kept.images.tolist() == np.repeat(range(5), 12).tolist()
    assert kept.places[:13].tolist() == [[r, c] for r in range(3) for c in range(4)] + [[0, 0]]
    assert (bank.paths, bank.grid, len(kept)) == (names(5), (3, 4), 60)


def test_one_more_than_the_limit_is_one_too_many() -> None:
    patches = made(5)
    kept = filled(patches, most=59).patches()
    assert len(kept) == 59
    assert come_from_where_they_say(kept, patches)


def test_memory_is_bounded_however_many_images_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING", 100)
    seen = []

    def counted(features: Features, *arguments: Any) -> Any:
        seen.append(len(features))
        return coreset(features, *arguments)

    monkeypatch.setattr(module, "coreset", counted)
    patches = made(200)
    bank = filled(patches, most=30)
    batch = 4 * ROWS * COLUMNS
    assert 200 * ROWS * COLUMNS // (100 + batch) <= len(seen) <= 200 * ROWS * COLUMNS // 100
    assert max(seen) < 30 + 100 + batch
    kept = bank.patches()
    assert len(kept) == 30
    assert len({tuple(patch) for patch in kept.features}) == 30
    assert come_from_where_they_say(kept, patches)
    assert kept.images.max() > 150
    assert bank.paths == names(200)


def test_what_is_dropped_is_covered_better_than_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING", 100)
    patches = made(60)
    patches[:] *= np.where(np.random.default_rng(1).random((60, 3, 4, 1)) < 0.02, 5, 1)  # a few rare ones
    flat = patches.reshape(-1, 5)
    kept = filled(patches, most=60).patches().features
    by_chance = [
        radius(patches, flat[np.random.default_rng(seed).choice(len(flat), 60, replace=False)])
        for seed in range(10)
    ]
    assert radius(patches, kept) < 0.5 * min(by_chance)
    assert radius(patches, kept) <= 1.5 * radius(patches, flat[coreset(flat, 60, 0)])


def test_patches_are_copied() -> None:
    patches = made(2)
    before = patches.copy()
    bank = filled(patches, most=100)
    patches[:] = 0
    np.testing.assert_array_equal(bank.patches().features, before.reshape(24, 5))
    np.testing.assert_array_equal(bank.sample()[1], before.astype(np.float16))


def test_images_are_forgotten_among_the_first_only() -> None:
    patches = made(6)
    bank = Bank(1000)
    bank.add(patches[:4], ["a", "b", "c", "a"])
    bank.add(patches[4:], ["a", "d"])
    bank.forget({"a", "d", "elsewhere"}, before=4)
    kept = bank.patches()
    assert sorted(set(kept.images.tolist())) == [1, 2, 4, 5]
    assert come_from_where_they_say(kept, patches)
    assert {bank.paths[image] for image in kept.images} == {"a", "b", "c", "d"}


def test_a_bank_of_kept_patches_goes_on() -> None:
    patches = made(7)
    first = filled(patches[:5], most=40)
    again = Bank.of(first.patches(), first.paths, first.grid, 40, seed=0)
    np.testing.assert_array_equal(again.patches().features, first.patches().features)
    again.add(patches[5:], names(7)[5:])
    kept = again.patches()
    assert len(kept) == 40
    assert set(kept.images.tolist()) & {5, 6}
    assert come_from_where_they_say(kept, patches)
    assert again.paths == names(7)
    assert first.paths == names(5)


def test_of_a_few_images_every_patch_is_there_to_measure_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLED", 5)
    patches = made(40)
    positions, sample = filled(patches, most=10).sample()
    assert sample.shape == (5, 3, 4, 5)
    assert sample.dtype == np.float32
    assert len(set(positions.tolist())) == 5
    np.testing.assert_array_equal(sample, patches[positions].astype(np.float16))
    few, all_of_them = filled(patches[:3], most=10).sample()
    assert few.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(all_of_them, patches[:3].astype(np.float16))


def test_every_image_is_as_likely_to_be_measured_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLED", 5)
    patches = np.zeros((20, 1, 1, 1), np.float32)
    drawn = np.concatenate([filled(patches, 10, seed).sample()[0] for seed in range(400)])
    counts = np.bincount(drawn, minlength=20)  # each 100 times, give or take 9
    assert counts.min() > 60
    assert counts.max() < 140


def test_the_seed_repeats_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING", 100)
    monkeypatch.setattr(module, "SAMPLED", 5)
    patches = made(40)
    first, again, other = (filled(patches, 30, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.patches().features, again.patches().features)
    np.testing.assert_array_equal(first.sample()[0], again.sample()[0])
    assert not np.array_equal(first.patches().features, other.patches().features)
    assert not np.array_equal(first.sample()[0], other.sample()[0])


def test_of_an_image_in_tiles_one_tile_is_there_to_measure_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLED", 5)
    patches = made(4)  # 3 rows: three tiles of a row
    bank = Bank(10, tiles=3)
    bank.add(patches, list("abcd"))
    positions, sample = bank.sample()
    assert positions.tolist() == [0, 1, 2, 3]
    assert sample.shape == (4, 1, 4, 5)
    for i in range(4):
        np.testing.assert_array_equal(sample[i, 0], patches[i, i % 3].astype(np.float16))
    assert bank.grid == (3, 4)
