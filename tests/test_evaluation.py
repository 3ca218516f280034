from __future__ import annotations

import numpy as np
import pytest

from anomscan.evaluation import auroc

LABELS = np.array([False, False, True, True])


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([1, 2, 3, 4], 1.0),
        ([4, 3, 2, 1], 0.0),
        ([1, 1, 1, 1], 0.5),
        ([1, 3, 2, 4], 0.75),
        ([1, 2, 2, 3], 0.875),
    ],
)
def test_auroc(scores: list[float], expected: float) -> None:
    assert auroc(np.array(scores, np.float32), LABELS) == expected


def test_auroc_is_the_share_of_ordered_pairs() -> None:
    generator = np.random.default_rng(0)
    scores, anomalous = generator.integers(0, 20, 200).astype(np.float32), generator.random(200) < 0.3
    difference = scores[anomalous][:, None] - scores[~anomalous][None, :]
    assert auroc(scores, anomalous) == pytest.approx(((difference > 0) + 0.5 * (difference == 0)).mean())
