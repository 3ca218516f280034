from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from anomscan.adapt.made_defects import PATCH
from tests.conftest import draw


@pytest.mark.parametrize("kind", PATCH)
@pytest.mark.parametrize("shape", [(96, 96), (64, 90)])
def test_a_made_defect_is_another_image_of_the_same_shape(kind: str, shape: tuple[int, int]) -> None:
    image = np.asarray(draw(1))[: shape[0], : shape[1]]
    before = image.copy()
    for seed in range(20):
        made = PATCH[kind](image, np.random.default_rng(seed))
        assert made.shape == image.shape
        assert made.dtype == np.uint8
        assert (made != image).any()
    np.testing.assert_array_equal(image, before)


def changes(kind: str, side: int) -> list[NDArray[np.int16]]:
    """How much is added where, (side, side), by many draws."""
    image = np.asarray(draw(1, side=side))
    made = [PATCH[kind](image, np.random.default_rng(seed)) for seed in range(60)]
    return [(other.astype(np.int16) - image).sum(axis=2) // 3 for other in made]


@pytest.mark.parametrize("side", [64, 224])
@pytest.mark.parametrize("kind", PATCH)
def test_those_of_the_size_of_a_patch_change_little(kind: str, side: int) -> None:
    for change in changes(kind, side):
        rows, columns = np.nonzero(np.abs(change) > 2)
        assert len(rows) < 0.02 * side**2
        assert max(np.ptp(rows, axis=0), np.ptp(columns, axis=0)) <= 0.2 * side


@pytest.mark.parametrize("kind", ["spot", "hairline"])
def test_they_are_lighter_or_darker(kind: str) -> None:
    peaks = [int(change.ravel()[np.abs(change).argmax()]) for change in changes(kind, 224)]
    assert 15 < sum(peak > 0 for peak in peaks) < 45
    assert max(map(abs, peaks)) <= 61


@pytest.mark.parametrize("kind", ["spot"])
def test_what_is_darker_is_as_large_as_what_is_lighter(kind: str) -> None:
    sizes: dict[bool, list[int]] = {True: [], False: []}
    for change in changes(kind, 224):
        sizes[bool(change.sum() > 0)].append(int(np.count_nonzero(change)))
    assert np.mean(sizes[False]) == pytest.approx(np.mean(sizes[True]), rel=0.5)


def test_a_small_patch_is_copied_from_elsewhere() -> None:
    ramp = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    image = np.stack([ramp >> 8, ramp & 255, np.zeros_like(ramp)], axis=2).astype(np.uint8)
    made = PATCH["small patch"](image, np.random.default_rng(0))
    rows, columns = np.nonzero((made != image).any(axis=2))
    part = made[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].astype(int)
    values = 256 * part[..., 0] + part[..., 1]
    assert (np.diff(values, axis=0) == 64).all()
    assert (np.diff(values, axis=1) == 1).all()


@pytest.mark.parametrize("kind", PATCH)
def test_the_seed_repeats_a_defect(kind: str) -> None:
    image = np.asarray(draw(1))
    first, again, other = (PATCH[kind](image, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
