"""What a report shows of a run: made above, drawn here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anomscan.report.rows import Row
from anomscan.report.summary import Summary
from anomscan.types import Features, PatchMaps, Reading

if TYPE_CHECKING:
    from anomscan.model.model import Model
    from anomscan.model.whereabouts import Whereabouts
    from anomscan.report.heatmaps import Scale
    from anomscan.stats.calibration import Calibration

MOST_UNREADABLE = 1000
"""Unreadable files that are listed; more are counted."""


@dataclass(frozen=True)
class Evidence:
    """The most anomalous images of a run, and the whole in figures.

    ``rows`` are decided, the most anomalous first; ``unreadable`` lists files that could not be read;
    ``features`` has those of every row, and of some other images, by path; ``histogram`` counts scores: (low,
    high, parts) to a count for each part; ``calibration`` is what p-values come from, if anything. Of a model
    with patches, ``maps`` has the map of every row by its path, each of one image; ``patch_source`` tells
    the path, row and column that a patch of the gallery came from; ``scale`` how hot a distance looks.
    ``reading`` is how its images were read, ``normals`` finds pictures of normals, if they are shown.
    """

    rows: list[Row]
    unreadable: list[Row]
    features: dict[str, Features]
    histogram: Callable[[float, float, int], list[int]]
    summary: Summary
    model: Model
    calibration: Calibration | None
    maps: dict[str, PatchMaps] = field(default_factory=dict)
    patch_source: Callable[[int], tuple[str, int, int]] | None = None
    scale: Scale | None = None
    reading: Reading = field(default_factory=Reading)
    normals: Whereabouts | None = None
