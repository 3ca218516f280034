"""Rank images with a model."""

from __future__ import annotations

import heapq
import math
import os
import random
import sqlite3
from collections.abc import Iterable, Iterator
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from anomscan.bundle import Model
from anomscan.calibration import Calibration, benjamini_hochberg
from anomscan.config import Progress
from anomscan.drift import LARGEST_SAMPLE
from anomscan.errors import CalibrationTooSmall, NoImages, UsageError
from anomscan.extractor import Features
from anomscan.images import Decoded, Source, decode_all
from anomscan.options import Decision
from anomscan.report import Row, plain_path

SEARCH = 256
"""Images a search: together they are one matrix product, nine times faster than one by one."""


class FeatureSample:
    """Features of the ``top`` most anomalous images, and of others at random: few, of however many.

    The others are none of the model's normals.
    """

    def __init__(self, top: int = 0) -> None:
        self._top = _Largest(top)
        self._others = _Largest(LARGEST_SAMPLE)
        self._random = random.Random(0)  # noqa: S311 - a choice of what to look at, no secret

    def add(self, path: str, score: float, feature: Features, known: bool) -> None:
        """Keep the (D,) feature of an image, if it belongs here; ``known`` says that it is a normal's."""
        image = (plain_path(path), score, feature.copy())
        self._top.add(score, image)
        if not known:
            self._others.add(self._random.random(), image)

    def features(self) -> dict[str, Features]:
        """All features by path, as ``Ranking`` writes it."""
        return {path: feature for path, _, feature in (*self._top, *self._others)}

    def others(self) -> tuple[NDArray[np.float64], Features]:
        """Scores, (n,), and features, (n, D), of the others; a path counts once."""
        images = {path: (score, feature) for path, score, feature in self._others}.values()
        return np.array([score for score, _ in images]), np.array([feature for _, feature in images])


class _Largest:
    """The images with the largest keys."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._added = 0
        self._heap: list[tuple[float, int, tuple[str, float, Features]]] = []

    def add(self, key: float, image: tuple[str, float, Features]) -> None:
        self._added += 1
        heapq.heappush(self._heap, (key, -self._added, image))
        if len(self._heap) > self._count:
            heapq.heappop(self._heap)

    def __iter__(self) -> Iterator[tuple[str, float, Features]]:
        return (image for _, _, image in self._heap)


class Ranking:
    """Scored images, sorted on demand; on disk, so that memory does not grow with their number.

    A context manager: the temporary database is gone when the block ends.
    """

    def __init__(self) -> None:
        self._db = sqlite3.connect("")  # SQLite's private temporary file, deleted on close
        self._db.execute(
            "CREATE TABLE row "
            "(path BLOB, score REAL, p_value REAL, anomalous INTEGER, nearest BLOB, error TEXT)"
        )
        self.unreadable = 0
        self.scored = 0

    def __enter__(self) -> Ranking:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    @property
    def total(self) -> int:
        """Images added, readable or not."""
        return self.scored + self.unreadable

    def add(self, path: str, score: float, nearest_normal: str, p_value: float | None = None) -> None:
        """Add an image that was scored."""
        values = (os.fsencode(plain_path(path)), score, p_value, os.fsencode(nearest_normal))
        self._db.execute("INSERT INTO row VALUES (?, ?, ?, NULL, ?, NULL)", values)
        self.scored += 1

    def add_unreadable(self, path: str, error: str) -> None:
        """Add an image that cannot be read, with the reason."""
        values = (os.fsencode(plain_path(path)), error.encode("utf-8", "backslashreplace").decode())
        self._db.execute("INSERT INTO row VALUES (?, NULL, NULL, NULL, NULL, ?)", values)
        self.unreadable += 1

    def mark(self, *, p_value: float | None = None, score: float | None = None) -> None:
        """Call anomalous what has at most that p-value, or else at least that score."""
        if p_value is not None:
            self._db.execute("UPDATE row SET anomalous = p_value <= ? WHERE error IS NULL", (p_value,))
        else:
            self._db.execute("UPDATE row SET anomalous = score >= ? WHERE error IS NULL", (score,))

    @property
    def anomalous(self) -> int:
        """How many images were called anomalous."""
        return int(self._db.execute("SELECT COUNT(*) FROM row WHERE anomalous").fetchone()[0])

    def p_values(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The distinct p-values, ascending, and how many images have each; at most one a held-out normal."""
        found = self._db.execute(
            "SELECT p_value, COUNT(*) FROM row WHERE p_value IS NOT NULL GROUP BY p_value ORDER BY p_value"
        ).fetchall()
        return np.array([p for p, _ in found], np.float64), np.array([count for _, count in found], np.int64)

    def quantile(self, share: float) -> float:
        """The smallest score that this share of the scored images, in [0, 1], does not exceed."""
        place = max(0, math.ceil(share * self.scored) - 1)
        found = self._db.execute(
            "SELECT score FROM row WHERE error IS NULL ORDER BY score LIMIT 1 OFFSET ?", (place,)
        )
        return float(found.fetchone()[0])

    def histogram(self, low: float, high: float, bins: int) -> list[int]:
        """How many scores fall into each of ``bins`` equal parts of [low, high]; others into the ends."""
        counts = [0] * bins
        for place, count in self._db.execute(
            "SELECT CAST((score - ?) / ? * ? AS INTEGER) AS place, COUNT(*) FROM row WHERE error IS NULL "
            "GROUP BY place",
            (low, (high - low) or 1.0, bins),
        ):
            counts[min(max(place, 0), bins - 1)] += count
        return counts

    def rows(self, top: int | None = None) -> Iterator[Row]:
        """The ``top`` most anomalous images (all by default), then every unreadable one.

        Equal scores keep the order in which they were added.
        """
        ranked = self._db.execute(
            "SELECT path, score, p_value, anomalous, nearest FROM row WHERE error IS NULL "
            "ORDER BY score DESC, rowid LIMIT ?",
            (-1 if top is None else top,),
        )
        for rank, (path, score, p_value, anomalous, nearest) in enumerate(ranked, start=1):
            called = None if anomalous is None else bool(anomalous)
            yield Row(rank, os.fsdecode(path), score, p_value, called, os.fsdecode(nearest))
        for path, error in self._db.execute(
            "SELECT path, error FROM row WHERE error IS NOT NULL ORDER BY rowid"
        ):
            yield Row(None, os.fsdecode(path), None, error=error)

    def anomalous_paths(self) -> Iterator[str]:
        """Where the images called anomalous are, each once, the most anomalous first."""
        for (path,) in self._db.execute(
            "SELECT path FROM row WHERE anomalous GROUP BY path ORDER BY MAX(score) DESC, MIN(rowid)"
        ):
            yield os.fsdecode(path)


def score(
    sources: Iterable[Source],
    model: Model,
    ranking: Ranking,
    *,
    k: int | None,
    threads: int,
    progress: Progress,
    sample: FeatureSample | None = None,
) -> None:
    """Score ``sources`` into ``ranking`` by the model's scorer.

    A copy of a normal, in the gallery or held out, has a p-value of 1: it was said to be normal.

    Args:
        sources: the images, lazily; memory does not grow with their number.
        model: what to compare with.
        ranking: receives one row for every source.
        k: neighbours; None takes the model's.
        threads: threads that decode; the model's extractor has its own. The rows do not depend on them.
        progress: see ``config.Progress``.
        sample: receives the features of the images, if they are wanted.

    Raises:
        GalleryTooSmall: fewer normals than ``k``.
        UsageError: ``k`` for a scorer without neighbours.
        NoImages: ``sources`` is empty.
    """
    if k is not None and not model.scorer.uses_neighbours:
        raise UsageError(f"the model's scorer, {model.scorer.info.name}, has no neighbours; leave --k out")
    k = k or model.manifest.scorer.k
    calibration = model.calibrated(k)
    images = decode_all(sources, model.manifest.preprocessing, threads)
    for paths, features in _readable(model.extractor.embed(images), ranking, progress):
        scores, nearest = model.scorer.score_and_nearest(features, model.gallery, k)
        known = model.gallery.holds(features, nearest)
        p_values: list[float] | list[None] = [None] * len(scores)
        if calibration is not None:
            known |= calibration.holds(features)
            p_values = np.where(known, 1.0, calibration.p_values(scores)).tolist()
        for path, value, p_value, normal in zip(paths, scores, p_values, nearest, strict=True):
            ranking.add(path, float(str(value)), model.normals[normal], p_value)
        if sample is not None:
            for path, value, feature, is_known in zip(paths, scores, features, known, strict=True):
                sample.add(path, float(value), feature, bool(is_known))
    if not ranking.total:
        raise NoImages("no images to score: the folder holds no file with an image suffix")


def _readable(
    batches: Iterable[tuple[list[Decoded], Features]], ranking: Ranking, progress: Progress
) -> Iterator[tuple[list[str], Features]]:
    """Paths and features, ``SEARCH`` images at a time; what is unreadable goes to ``ranking`` at once."""
    paths: list[str] = []
    parts: list[Features] = []
    for batch, features in batches:
        if batch[0].error is not None:
            ranking.add_unreadable(batch[0].path, batch[0].error)
        else:
            paths += [image.path for image in batch]
            parts.append(features)
        progress("scoring", ranking.total + len(paths), None, "")
        if len(paths) >= SEARCH:
            yield paths, np.concatenate(parts)
            paths, parts = [], []
    if paths:
        yield paths, np.concatenate(parts)


def check(decision: Decision, model: Model) -> None:
    """Refuse, before any work, a decision that the model cannot make.

    Raises:
        CalibrationTooSmall: it has no calibration, or one too small for the rate.
    """
    for rate, option in ((decision.fpr, "--fpr"), (decision.fdr, "--fdr")):
        if rate is None:
            continue
        if model.calibration is None:
            raise CalibrationTooSmall(
                f"{option} needs held-out normals and the model has none; index or adapt again, with "
                "--holdout above 0, or run 'anomscan calibrate' with other normals"
            )
        model.calibration.require(rate, option)


def decide(decision: Decision, ranking: Ranking, calibration: Calibration | None) -> float | None:
    """Call images of ``ranking`` anomalous; without any decision none is called anything.

    Returns:
        The score that the decision comes to: above it, or for a threshold from it on, an image is anomalous.
    """
    if decision.threshold is not None:
        ranking.mark(score=decision.threshold)
        return decision.threshold
    if calibration is None or decision == Decision():
        return None
    p_value = decision.fpr
    if p_value is None:
        p_value = benjamini_hochberg(*ranking.p_values(), decision.fdr or 0.0)
    ranking.mark(p_value=p_value)
    return calibration.limit(p_value)
