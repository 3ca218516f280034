from __future__ import annotations

import numpy as np
import pytest

from anomscan.adapt.likeness import MOST, distinctness
from tests.adapt.test_focus import apart, clustered


def test_things_of_a_few_kinds_are_not_distinct_and_things_of_their_own_are() -> None:
    assert distinctness(clustered(60)) < 0.05
    assert distinctness(clustered(60)) < distinctness(clustered(60, spread=0.3)) < 0.2
    assert 0.85 < distinctness(apart(60)) <= 1
    assert distinctness(10 * apart(60)) == pytest.approx(distinctness(apart(60)), abs=1e-5)
    assert distinctness(clustered(3)) == distinctness(np.empty((0, 1), np.float32)) == 1
    assert np.isfinite(distinctness(np.ones((9, 4), np.float32)))
    assert np.isfinite(distinctness(np.zeros((9, 4), np.float32)))


def test_distinctness_is_that_to_the_two_nearest_over_that_to_any() -> None:
    features = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    away = np.sort(1 - unit @ unit.T, axis=1)[:, 1:]
    assert distinctness(features) == pytest.approx(away[:, :2].mean() / away.mean(), rel=1e-3)


def test_many_normals_are_judged_by_a_few() -> None:
    many = np.concatenate([clustered(2000), apart(2000)[:, :4]])
    assert distinctness(many[:MOST]) != distinctness(many)
    spread = np.linspace(0, len(many) - 1, MOST).astype(int)
    assert distinctness(many) == distinctness(many[spread])
