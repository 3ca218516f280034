"""How well a ranking separates labelled images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def auroc(scores: NDArray[np.floating], anomalous: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: the chance that an anomalous image scores above a normal one.

    Ties count half (Mann-Whitney).

    Args:
        scores: (n,), larger is more anomalous.
        anomalous: (n,) labels, with both kinds among them.

    Returns:
        The area, in [0, 1].
    """
    normal = np.sort(scores[~anomalous])
    below = np.searchsorted(normal, scores[anomalous], side="left")
    not_above = np.searchsorted(normal, scores[anomalous], side="right")
    return float((below + not_above).mean() / 2 / len(normal))
