"""Whether an exported file says of real images what the model says of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import anomscan
from anomscan.errors import ParityError
from anomscan.fit.scored_graph import MAP, NEAREST, P_VALUE, SCORE, Results, ScoredGraph
from anomscan.images.decode import Decoded
from anomscan.network.backends import Backend
from anomscan.network.extractor import BATCH
from anomscan.stats.calibration import Calibration
from anomscan.stats.measures import spearman
from anomscan.text import now
from anomscan.types import Features

TOLERANCE = 1e-4
"""Largest difference of a score, relative to it, or to the median of all where that is larger.

Where the rounding of features to 32 bits does more to a score (1 - cos of what is all but the same), that is
what it may differ by.
"""
_ROUNDED = 1e-6
"""What a p-value loses in 32 bits."""


@dataclass(frozen=True)
class Agreement:
    """How alike two ways of scoring the same n images are.

    ``score`` and ``map`` are the largest relative differences; ``beyond`` is how many scores differ by more
    than they may, see ``TOLERANCE``; ``swapped`` how many images rank behind one that they were ahead of by
    more than that; ``ranks`` how many have another rank at all; ``spearman`` the correlation of the ranks;
    ``p_value`` the largest difference; ``p_values`` how many differ by more than the rounding of their scores
    explains; ``decisions`` how many images are called differently, None where nothing is decided; ``nearest``
    how many have another nearest normal.
    """

    score: float
    beyond: int
    swapped: int
    ranks: int
    spearman: float
    p_value: float | None
    p_values: int
    decisions: int | None
    nearest: int
    map: float | None

    @property
    def faults(self) -> list[str]:
        """What does not hold, in words; empty where the two agree."""
        found = {
            f"scores differ by up to {self.score:.2g}": self.beyond > 0,
            f"{self.swapped} images have another rank": self.swapped > 0,
            f"{self.p_values} p-values differ": self.p_values > 0,
            f"{self.decisions} images are called differently": bool(self.decisions),
            f"maps differ by up to {self.map or 0:.2g}": self.map is not None and not self.map <= TOLERANCE,
        }
        return [what for what, wrong in found.items() if wrong]


@dataclass(frozen=True)
class BackendReport:
    """How one backend did: its version, the median time of one image, and whether it agrees."""

    version: str
    milliseconds: float
    agreement: Agreement


@dataclass(frozen=True)
class Parity:
    """What was compared, on which images, and how it came out.

    ``fpr`` is the rate of false alarms that was decided by, None without p-values; ``anomalous`` how many
    images the model calls so. ``change`` is how alike the scores of the file and those of ``score`` are where
    the file has other weights, None where it has the same. ``rows`` has an entry an image,
    ``normals`` the names that ``nearest`` counts.
    """

    images: int
    fpr: float | None
    anomalous: int | None
    threads: int
    backends: list[BackendReport]
    change: Agreement | None
    rows: list[dict[str, Any]] = field(default_factory=list)
    normals: list[str] = field(default_factory=list)

    def save(self, path: Path, about: dict[str, Any]) -> None:
        """Write it as JSON; names of any bytes come back exactly."""
        record = {"anomscan": anomscan.__version__, "created": now(), **about, **asdict(self)}
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="ascii")


def compare(
    scored: ScoredGraph,
    loaded: list[Backend],
    images: list[Decoded],
    own: Results | None,
    normals: list[str],
    fpr: float | None,
    threads: int,
    *,
    strict: bool,
) -> Parity:
    """Score images by the model and by a written file, in each backend.

    Args:
        scored: the model, with what went into the file.
        loaded: the file, onnxruntime first.
        images: at least one.
        own: what the model as it is makes of them, where that is something else than ``scored``.
        normals: their names.
        fpr: decide by this rate of false alarms.
        threads: of the backends, for the record.
        strict: refuse whichever backend differs, not onnxruntime alone.

    Raises:
        ParityError: the file does not say the same; the sentence says what differs, and where.
    """
    expected = scored.results(images)
    pixels = [image.pixels for image in images]
    reports: list[BackendReport] = []
    first: dict[str, NDArray[Any]] = {}
    for backend in loaded:
        found = backend.run_each(pixels, BATCH)
        results = Results(
            found[SCORE],
            found.get(P_VALUE),
            expected.features,
            found[NEAREST][:, 0],
            found.get(MAP),
        )
        agreement = agree(expected, results, scored.calibration, fpr)
        if agreement.faults and (strict or not reports):
            raise ParityError(
                f"in {backend.version} the exported file does not say of real images what the model says: "
                f"{'; '.join(agreement.faults)}; it was not written"
            )
        reports.append(BackendReport(backend.version, round(backend.milliseconds(pixels), 3), agreement))
        first = first or found
    called = None if fpr is None or expected.p_values is None else int((expected.p_values <= fpr).sum())
    return Parity(
        images=len(images),
        fpr=fpr,
        anomalous=called,
        threads=threads,
        backends=reports,
        change=None if own is None else agree(own, expected, None, fpr),
        rows=_rows(images, expected, first),
        normals=normals,
    )


def agree(before: Results, after: Results, calibration: Calibration | None, fpr: float | None) -> Agreement:
    """How alike two results for the same images are; ``calibration`` is where p-values come from."""
    scale = np.maximum(np.abs(before.scores), np.median(np.abs(before.scores)))
    reach = np.maximum(TOLERANCE * scale, before.rounding)
    differences = after.scores - before.scores
    ahead = before.scores[:, None] - before.scores > reach[:, None]
    p_value, p_values, decisions = None, 0, None
    if before.p_values is not None and after.p_values is not None:
        p_value = float(np.abs(after.p_values - before.p_values).max())
        if calibration is not None:
            p_values = int((~_explained(before, after.p_values, calibration, reach)).sum())
        if fpr is not None:
            decisions = int(((before.p_values <= fpr) != (after.p_values <= fpr)).sum())
    maps = None
    if before.distances is not None and after.distances is not None:
        typical = np.maximum(before.distances, np.median(before.distances))
        maps = _largest(after.distances - before.distances, typical)
    return Agreement(
        score=_largest(differences, scale),
        beyond=int((~(np.abs(differences) <= reach)).sum()),
        swapped=int((ahead & (after.scores[:, None] < after.scores)).any(axis=1).sum()),
        ranks=int((ranks(before.scores) != ranks(after.scores)).sum()),
        spearman=spearman(before.scores, after.scores),
        p_value=p_value,
        p_values=p_values,
        decisions=decisions,
        nearest=int((before.nearest != after.nearest).sum()),
        map=maps,
    )


def ranks(scores: Features) -> NDArray[np.int64]:
    """(n,) from 1, the most anomalous first; images of one score in the order in which they came."""
    places = np.empty(len(scores), np.int64)
    places[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return places


def _largest(differences: Features, scale: Features) -> float:
    """The largest of them over their scale; of no numbers, infinity."""
    relative = np.abs(differences) / np.maximum(scale, 1e-12)
    return float(relative.max()) if np.isfinite(relative).all() else float("inf")


def _explained(
    before: Results, found: NDArray[Any], calibration: Calibration, reach: Features
) -> NDArray[np.bool_]:
    """Which p-values are those of scores that differ by ``reach`` at most, or of copies of a normal."""
    low, high = (calibration.p_values(before.scores + sign * reach) for sign in (1, -1))
    known = before.p_values == 1
    within: NDArray[np.bool_] = (found >= low - _ROUNDED) & (found <= high + _ROUNDED)
    return np.where(known, found == 1, within)


def _rows(images: list[Decoded], expected: Results, found: dict[str, NDArray[Any]]) -> list[dict[str, Any]]:
    order, exported = ranks(expected.scores), ranks(found[SCORE])
    rows = []
    for i, image in enumerate(images):
        row: dict[str, Any] = {"path": image.path}
        row |= {"rank": int(order[i]), "rank_exported": int(exported[i])}
        row |= {"score": float(expected.scores[i]), "score_exported": float(found[SCORE][i])}
        if expected.p_values is not None:
            row |= {"p_value": float(expected.p_values[i]), "p_value_exported": float(found[P_VALUE][i])}
        row["nearest"] = int(found[NEAREST][i, 0])
        rows.append(row)
    return rows
