from __future__ import annotations

import numpy as np
import pytest

from tests.scoring.features import fitted, scores, unit


def test_mahalanobis_measures_in_units_of_the_spread() -> None:
    generator = np.random.default_rng(0)
    normals = generator.normal([5, 5], [10, 1], (4000, 2)).astype(np.float32)
    along, across = scores(fitted("mahalanobis", normals), np.array([[25, 5], [5, 7]], np.float32))
    assert along == pytest.approx(2, rel=0.05)
    assert across == pytest.approx(2, rel=0.05)


def test_mahalanobis_with_fewer_normals_than_dimensions_is_finite() -> None:
    found = scores(fitted("mahalanobis", unit(5, dim=40)), unit(9, dim=40, seed=2))
    assert np.isfinite(found).all()
    assert (found > 0).all()


def test_normals_that_are_all_the_same_are_no_division_by_zero() -> None:
    scorer = fitted("mahalanobis", np.tile(unit(1), (9, 1)))
    same, other = scores(scorer, np.concatenate([unit(1), unit(1, seed=1)]))
    assert np.isfinite([same, other]).all()
    assert same < 1 < other
