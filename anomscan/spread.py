"""A few of many, evenly spread: what stands in a folder in order, by day or by kind, is seen all over."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def spread_over(count: int, most: int) -> NDArray[np.int64]:
    """Which of ``count`` things stand for all: (min(count, most),), from the first to the last, in order."""
    return np.linspace(0, count - 1, min(most, count)).astype(np.int64)
