"""The ranking: scored images, sorted on demand."""

from __future__ import annotations

import json
import math
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomscan.errors import OutputError
from anomscan.files.storage import Identity
from anomscan.images.find import Unreadable
from anomscan.report.rows import FIELDS, Row
from anomscan.screen.screener import Scored
from anomscan.types import Box

_MOST = 2**62
"""More rows than SQLite can count to are all of them."""
_COLUMNS = ", ".join(FIELDS[1:])
"""All but the rank, which the order gives."""

Judge = Callable[[list[Row], int], Row]
"""Makes one row of those of a part's readable views, the most anomalous first, and of how many are not."""


def _stored(value: object) -> object:
    """A name may have bytes that are no text; lists become text."""
    if isinstance(value, list):
        return json.dumps(value)
    return os.fsencode(value) if isinstance(value, str) else value


def _row(rank: int | None, values: tuple[Any, ...]) -> Row:
    cells: dict[str, Any] = dict(
        zip(FIELDS[1:], (os.fsdecode(v) if isinstance(v, bytes) else v for v in values), strict=True)
    )
    for name in ("anomalous", "review"):
        cells[name] = None if cells[name] is None else bool(cells[name])
    for name in ("regions", "views"):
        cells[name] = None if cells[name] is None else json.loads(cells[name])
    if cells["regions"]:
        cells["regions"] = [tuple(box) for box in cells["regions"]]
    return Row(rank, **cells)


@contextmanager
def _room() -> Iterator[None]:
    """Say in one sentence that the temporary folder is full."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OutputError(f"cannot keep the ranking in the temporary folder: {error}") from error


class Ranking:
    """Scored images, sorted on demand; on disk, so that memory does not grow with their number.

    The temporary database is gone when it is closed.

    Args:
        part_of: the part that an image shows, by its path, where parts are judged.
    """

    def __init__(self, part_of: Callable[[str], str] | None = None) -> None:
        self._part_of = part_of
        self._files = "row"
        self._db = sqlite3.connect("")  # SQLite's private temporary file, deleted on close
        self._run(f"CREATE TABLE row ({_COLUMNS})")
        self._run("CREATE TABLE state (row INTEGER PRIMARY KEY, file, identity)")
        self.unreadable = 0
        self.scored = 0
        self.parts: int | None = None

    def close(self) -> None:
        """Give the disk space back."""
        self._db.close()

    def _run(self, sql: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        with _room():
            return self._db.execute(sql, values)

    def _many(self, sql: str, values: Iterable[Sequence[Any]]) -> None:
        with _room():
            self._db.executemany(sql, values)

    @property
    def total(self) -> int:
        """Images added, readable or not."""
        return self.scored + self.unreadable

    @property
    def ranked(self) -> int:
        """Rows that have a rank: images that were scored, or parts."""
        return self.scored if self.parts is None else self.parts

    def add(self, scored: Scored, regions: Sequence[list[Box] | None] | None = None) -> None:
        """Add images that were scored, and where they are odd, if that is known."""
        first = self.total + 1
        self._insert(Row.of(scored, regions or [None] * len(scored.images)))
        self._many(
            "INSERT INTO state VALUES (?, ?, ?)",
            (
                (first + i, os.fsencode(image.file), json.dumps(image.identity.values))
                for i, image in enumerate(scored.images)
                if image.identity is not None
            ),
        )
        self.scored += len(scored.images)

    def add_unreadable(self, unreadable: Unreadable) -> None:
        """Add an image that cannot be read, with the reason."""
        self._insert([Row.of_unreadable(unreadable)])
        self.unreadable += 1

    def _insert(self, rows: Iterable[Row]) -> None:
        self._many(
            f"INSERT INTO row VALUES ({', '.join('?' * len(FIELDS[1:]))})",  # noqa: S608 - only marks
            ([_stored(getattr(row, name)) for name in FIELDS[1:]] for row in map(self._with_part, rows)),
        )

    def _with_part(self, row: Row) -> Row:
        return row if self._part_of is None or row.part else replace(row, part=self._part_of(row.path))

    def gather(self, judge: Judge) -> None:
        """Let every part be one row, by ``judge``; unreadable views stay rows of their own, behind.

        Views that were said to be normal, with a p-value of 1, do not speak for a part that has others.
        """
        self._run("ALTER TABLE row RENAME TO view")
        self._run("CREATE INDEX views ON view (part)")
        self._run(f"CREATE TABLE row ({_COLUMNS})")
        views = self._run(
            f"SELECT {_COLUMNS} FROM view "  # noqa: S608
            "ORDER BY part, error IS NOT NULL, p_value = 1, score DESC, rowid"
        )
        self._files, self.parts = "view", 0
        for _, found in groupby((_row(None, values) for values in views), lambda row: row.part):
            rows = list(found)
            readable = [row for row in rows if row.error is None]
            unreadable = rows[len(readable) :]
            if readable:
                self._insert([judge(readable, len(unreadable))])
                self.parts += 1
            self._insert(unreadable)

    def mark(self, *, p_value: float | None = None, score: float | None = None) -> None:
        """Call anomalous what has at most that p-value, or else at least that score."""
        if p_value is not None:
            self._run("UPDATE row SET anomalous = p_value <= ? WHERE error IS NULL", (p_value,))
        else:
            self._run("UPDATE row SET anomalous = score >= ? WHERE error IS NULL", (score,))

    def mark_review(self, above: float, p_value: float) -> None:
        """Let a person look at what has at most that p-value, but more than ``above``."""
        self._run(
            "UPDATE row SET review = p_value > ? AND p_value <= ? WHERE error IS NULL", (above, p_value)
        )

    @property
    def to_review(self) -> int:
        """How many rows a person should look at."""
        return int(self._run("SELECT COUNT(*) FROM row WHERE review").fetchone()[0])

    @property
    def anomalous(self) -> int:
        """How many images were called anomalous."""
        return int(self._run("SELECT COUNT(*) FROM row WHERE anomalous").fetchone()[0])

    def p_values(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The distinct p-values, ascending, and how many images have each; at most one a held-out normal."""
        found = self._run(
            "SELECT p_value, COUNT(*) FROM row WHERE p_value IS NOT NULL GROUP BY p_value ORDER BY p_value"
        ).fetchall()
        return np.array([p for p, _ in found], np.float64), np.array([count for _, count in found], np.int64)

    def quantile(self, share: float) -> float:
        """The smallest score that this share of the scored images, in [0, 1], does not exceed."""
        place = max(0, math.ceil(share * self.ranked) - 1)
        found = self._run(
            "SELECT score FROM row WHERE error IS NULL ORDER BY score LIMIT 1 OFFSET ?", (place,)
        )
        return float(found.fetchone()[0])

    def histogram(self, low: float, high: float, bins: int) -> list[int]:
        """How many scores fall into each of ``bins`` equal parts of [low, high]; others into the ends."""
        counts = [0] * bins
        for place, count in self._run(
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
        ranked = self._run(
            f"SELECT {_COLUMNS} FROM row WHERE error IS NULL ORDER BY score DESC, rowid LIMIT ?",  # noqa: S608
            (-1 if top is None else min(top, _MOST),),
        )
        for rank, values in enumerate(ranked, start=1):
            yield _row(rank, values)
        for values in self._run(
            f"SELECT {_COLUMNS} FROM row WHERE error IS NOT NULL ORDER BY rowid"  # noqa: S608
        ):
            yield _row(None, values)

    def anomalous_files(self) -> Iterator[tuple[str, Identity]]:
        """The files of the images called anomalous, each once, in the state in which they were scored.

        The most anomalous first; a file that was given under two names, or has several pages, is one. Of an
        anomalous part they are those of all views that could be read.
        """
        return self._files_of("anomalous")

    def review_files(self) -> Iterator[tuple[str, Identity]]:
        """The same of what a person should look at."""
        return self._files_of("review")

    def _files_of(self, mark: str) -> Iterator[tuple[str, Identity]]:
        source = "row AS image" if self._files == "row" else "row JOIN view AS image ON row.part = image.part"
        marked = f"image.{mark}" if self._files == "row" else f"row.{mark}"
        found = self._run(
            f"SELECT file, identity FROM {source} JOIN state ON image.rowid = state.row "  # noqa: S608
            f"WHERE {marked} GROUP BY identity ORDER BY MAX(image.score) DESC, MIN(image.rowid)"
        )
        for file, identity in found:
            yield os.fsdecode(file), Identity(*json.loads(identity))
