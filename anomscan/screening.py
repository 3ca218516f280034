"""Rank images with a model."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from types import TracebackType

import numpy as np

from anomscan.bundle import Model
from anomscan.config import Progress
from anomscan.errors import NoImages, UsageError
from anomscan.extractor import Features
from anomscan.images import Decoded, Source, decode_all
from anomscan.report import Row, plain_path

SEARCH = 256
"""Images a search: together they are one matrix product, nine times faster than one by one."""


class Ranking:
    """Scored images, sorted on demand; on disk, so that memory does not grow with their number.

    A context manager: the temporary database is gone when the block ends.
    """

    def __init__(self) -> None:
        self._db = sqlite3.connect("")  # SQLite's private temporary file, deleted on close
        self._db.execute("CREATE TABLE row (path BLOB, score REAL, nearest BLOB, error TEXT)")
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

    def add(self, path: str, score: float, nearest_normal: str) -> None:
        """Add an image that was scored."""
        values = (os.fsencode(plain_path(path)), score, os.fsencode(nearest_normal))
        self._db.execute("INSERT INTO row VALUES (?, ?, ?, NULL)", values)
        self.scored += 1

    def add_unreadable(self, path: str, error: str) -> None:
        """Add an image that cannot be read, with the reason."""
        values = (os.fsencode(plain_path(path)), error.encode("utf-8", "backslashreplace").decode())
        self._db.execute("INSERT INTO row VALUES (?, NULL, NULL, ?)", values)
        self.unreadable += 1

    def rows(self, top: int | None = None) -> Iterator[Row]:
        """The ``top`` most anomalous images (all by default), then every unreadable one.

        Equal scores keep the order in which they were added.
        """
        ranked = self._db.execute(
            "SELECT path, score, nearest FROM row WHERE error IS NULL ORDER BY score DESC, rowid LIMIT ?",
            (-1 if top is None else top,),
        )
        for rank, (path, score, nearest) in enumerate(ranked, start=1):
            yield Row(rank, os.fsdecode(path), score, nearest_normal=os.fsdecode(nearest))
        for path, error in self._db.execute(
            "SELECT path, error FROM row WHERE error IS NOT NULL ORDER BY rowid"
        ):
            yield Row(None, os.fsdecode(path), None, error=error)


def score(
    sources: Iterable[Source],
    model: Model,
    ranking: Ranking,
    *,
    k: int | None,
    threads: int,
    progress: Progress,
) -> None:
    """Score ``sources`` into ``ranking`` by the model's scorer.

    Args:
        sources: the images, lazily; memory does not grow with their number.
        model: what to compare with.
        ranking: receives one row for every source.
        k: neighbours; None takes the model's.
        threads: threads that decode; the model's extractor has its own. The rows do not depend on them.
        progress: see ``config.Progress``.

    Raises:
        GalleryTooSmall: fewer normals than ``k``.
        UsageError: ``k`` for a scorer without neighbours.
        NoImages: ``sources`` is empty.
    """
    if k is not None and not model.scorer.uses_neighbours:
        raise UsageError(f"the model's scorer, {model.scorer.info.name}, has no neighbours; leave --k out")
    k = k or model.manifest.scorer.k
    images = decode_all(sources, model.manifest.preprocessing, threads)
    for paths, features in _readable(model.extractor.embed(images), ranking, progress):
        scores, nearest = model.scorer.score_and_nearest(features, model.gallery, k)
        for path, value, normal in zip(paths, scores, nearest, strict=True):
            ranking.add(path, float(str(value)), model.normals[normal])
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
