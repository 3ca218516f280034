from __future__ import annotations

import numpy as np
import pytest

from anomscan.adapt.made_anomalies import GLOBAL, KINDS, LOCAL, batched
from tests.conftest import draw


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(96, 96), (64, 90)])
def test_a_made_anomaly_is_another_image_of_the_same_shape(kind: str, shape: tuple[int, int]) -> None:
    image = np.asarray(draw(1))[: shape[0], : shape[1]]
    before = image.copy()
    for seed in range(20):
        made = KINDS[kind](image, np.random.default_rng(seed))
        assert made.shape == image.shape
        assert made.dtype == np.uint8
        assert (made != image).any()
    np.testing.assert_array_equal(image, before)


def test_local_ones_change_a_small_part_and_global_ones_the_whole() -> None:
    image = np.asarray(draw(1))
    changed = {
        kind: np.mean(
            [(KINDS[kind](image, np.random.default_rng(s)) != image).any(axis=2).mean() for s in range(20)]
        )
        for kind in KINDS
    }
    assert max(changed[kind] for kind in LOCAL) < 0.2
    assert min(changed[kind] for kind in GLOBAL) > 0.7


def test_the_seed_repeats_the_batch() -> None:
    pixels = np.stack([np.asarray(draw(seed)) for seed in (1, 1)])
    first, again = (batched(KINDS["scar"], 3)(pixels) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (first[0] != first[1]).any()
