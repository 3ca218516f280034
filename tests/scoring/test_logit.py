from __future__ import annotations

import numpy as np

from tests.scoring.features import fitted, scores


def test_logit_is_linear() -> None:
    learnt = {"weight": np.array([1, -2], np.float32), "bias": np.array([0.5], np.float32)}
    scorer = fitted("logit", np.ones((3, 2), np.float32), **learnt)
    assert scores(scorer, np.array([[3, 1], [0, 0]], np.float32)).tolist() == [1.5, 0.5]
    assert not scorer.uses_neighbours
    np.testing.assert_array_equal(scorer.arrays["weight"], learnt["weight"])
