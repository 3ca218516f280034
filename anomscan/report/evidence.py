"""What a report shows of a run: made above, drawn here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anomscan.report.rows import Row
from anomscan.report.summary import Summary
from anomscan.types import Features

if TYPE_CHECKING:
    from anomscan.model.model import Model
    from anomscan.stats.calibration import Calibration

MOST_UNREADABLE = 1000
"""Unreadable files that are listed; more are counted."""


@dataclass(frozen=True)
class Evidence:
    """The most anomalous images of a run, and the whole in figures.

    ``rows`` are decided, the most anomalous first; ``unreadable`` lists files that could not be read;
    ``features`` has those of every row, and of some other images, by path; ``histogram`` counts scores: (low,
    high, parts) to a count for each part; ``calibration`` is what p-values come from, if anything.
    """

    rows: list[Row]
    unreadable: list[Row]
    features: dict[str, Features]
    histogram: Callable[[float, float, int], list[int]]
    summary: Summary
    model: Model
    calibration: Calibration | None
