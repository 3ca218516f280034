"""The ranking: scored images, sorted on demand."""

from __future__ import annotations

import json
import math
import os
import sqlite3
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomscan.files.storage import Identity, storage_of
from anomscan.images.decode import Decoded
from anomscan.images.find import Found, Source, Unreadable
from anomscan.report.rows import FIELDS, Row
from anomscan.screen.journal import Journal
from anomscan.screen.screener import Scored
from anomscan.types import Box, Features, PatchMaps

_MOST = 2**62
"""More rows than SQLite can count to are all of them."""
_COLUMNS = ", ".join(FIELDS[1:])
"""All but the rank, which the order gives."""
_KEPT = "path, score, mark, known, p_value IS NOT 1, feature, whole, shape, distances, nearest"
"""What a ``Before`` is made of."""

Judge = Callable[[list[Row], int], Row]
"""Makes one row of those of a part's readable views, the most anomalous first, and of how many are not."""


def _stored(value: object) -> object:
    """A name may have bytes that are no text; lists become text."""
    if isinstance(value, list):
        return json.dumps(value)
    return os.fsencode(value) if isinstance(value, str) else value


def _features(scored: Scored, i: int) -> list[object]:
    """The features of an image, and the shape and content of its maps, as they are stored."""
    features = [scored.outputs.image[i].tobytes(), scored.whole[i].tobytes()]
    maps = scored.outputs.maps
    if maps is None:
        return [*features, None, None, None]
    distances, nearest = maps.distances[i], maps.nearest[i]
    return [*features, json.dumps(distances.shape), distances.tobytes(), nearest.tobytes()]


def _before(values: Sequence[Any]) -> Before:
    path, score, mark, known, odd, feature, whole, shape, distances, nearest = values
    maps = None
    if shape is not None:
        one = (1, *json.loads(shape))
        maps = PatchMaps(
            np.frombuffer(distances, np.float32).reshape(one),
            np.frombuffer(nearest, np.int64).reshape(one),
        )
    vectors = (
        None if feature is None else (np.frombuffer(feature, np.float32), np.frombuffer(whole, np.float32))
    )
    return Before(os.fsdecode(path), float(np.float32(score)), mark, bool(known), bool(odd), vectors, maps)


def _unchanged(path: str, identity: str) -> Identity | None:
    """What a file is now, if that is what it was; a disk may have another number since."""
    try:
        now = storage_of(path).identity(path)
    except (OSError, ValueError):
        return None
    before = Identity(*json.loads(identity))
    return now if replace(before, device=now.device) == now else None


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


@dataclass(frozen=True)
class Before:
    """An image that a run before has scored, whose journal is gone on with.

    ``mark`` is what ``RemarkCounts`` made of it, ``known`` whether it is a copy of a normal, ``odd`` that its
    p-value is not 1. ``features``, as ``Sample.offer`` takes them, and ``maps`` where there are
    any, are there if it was in the ``Sample`` when it was added.
    """

    path: str
    score: float
    mark: int
    known: bool
    odd: bool
    features: tuple[Features, Features] | None
    maps: PatchMaps | None


class Ranking:
    """Scored images, sorted on demand; on disk, so that memory does not grow with their number.

    The database is a temporary one, gone when it is closed, or the ``journal`` of a run. With the journal of
    a run before every image that is found again, by ``again``, gets the place in which it is found now, and
    ``drop_the_rest`` forgets the others.

    Args:
        journal: None for a temporary one.
        part_of: the part that an image shows, by its path, where parts are judged.
    """

    def __init__(self, journal: Journal | None = None, part_of: Callable[[str], str] | None = None) -> None:
        self.journal = journal or Journal.temporary()
        self._db = self.journal.db
        self._part_of = part_of
        self.unreadable = 0
        self.scored = 0
        self.parts: int | None = None
        self._places: dict[str, deque[int]] = defaultdict(deque)
        if self.journal.resumed:
            self._last = int(self._run("SELECT COALESCE(MAX(rowid), 0) FROM row").fetchone()[0])
            self._found = 0
            return
        self._last = self._found = 0
        self._run(f"CREATE TABLE row ({_COLUMNS}, place)")
        self._run(
            "CREATE TABLE state (row INTEGER PRIMARY KEY, name, file, identity, mark, known, "
            "feature, whole, shape, distances, nearest)"
        )

    def close(self) -> None:
        """Give the disk space back; a journal is its owner's to close."""
        if not self.journal.is_kept:
            self._db.close()

    def _run(self, sql: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        with self.journal.room():
            return self._db.execute(sql, values)

    def _many(self, sql: str, values: Iterable[Sequence[Any]]) -> None:
        with self.journal.room():
            self._db.executemany(sql, values)

    @property
    def total(self) -> int:
        """Images added, readable or not."""
        return self.scored + self.unreadable

    @property
    def ranked(self) -> int:
        """Rows that have a rank: images that were scored, or parts."""
        return self.scored if self.parts is None else self.parts

    def add(
        self,
        scored: Scored,
        regions: Sequence[list[Box] | None] | None = None,
        marks: Sequence[int] = (),
        sampled: Collection[int] = (),
    ) -> None:
        """Add images that were scored.

        Args:
            scored: n of them.
            regions: where each is odd, if that is known.
            marks: what ``RemarkCounts`` made of each.
            sampled: those that the ``Sample`` keeps, whose features are kept for a run that goes on.
        """
        first = self._last + 1
        self._insert(Row.of(scored, regions or [None] * len(scored.images)), scored.images)
        self._many(
            f"INSERT INTO state VALUES ({', '.join('?' * 11)})",  # noqa: S608 - only marks
            (
                (
                    first + i,
                    os.fsencode(image.path),
                    os.fsencode(image.file),
                    json.dumps(image.identity.values),
                    marks[i] if marks else 0,
                    bool(scored.known[i]),
                    *(_features(scored, i) if i in sampled else [None] * 5),
                )
                for i, image in enumerate(scored.images)
                if image.identity is not None
            ),
        )
        self.scored += len(scored.images)

    def add_unreadable(self, unreadable: Unreadable) -> None:
        """Add an image that cannot be read, with the reason."""
        self._insert([Row.of_unreadable(unreadable)], [unreadable])
        self.unreadable += 1

    def _insert(self, rows: Iterable[Row], images: Iterable[Decoded | Unreadable]) -> None:
        placed = []
        for row, image in zip(map(self._with_part, rows), images, strict=True):
            self._last += 1
            placed.append((self._last, row, self._place_of(image.path)))
        self._write(placed)

    def _write(self, placed: Iterable[tuple[int | None, Row, int]]) -> None:
        """Rows, each behind its number in the table, if that matters, and before its place."""
        names = FIELDS[1:]
        values = (
            [number, *(_stored(getattr(row, name)) for name in names), place] for number, row, place in placed
        )
        marks = ", ".join("?" * (len(names) + 2))
        self._many(f"INSERT INTO row (rowid, {_COLUMNS}, place) VALUES ({marks})", values)  # noqa: S608

    def _place_of(self, name: str) -> int:
        """Where an image stands among those found: the next place, unless it was expected at one."""
        places = self._places.get(name)
        if not places:
            self._found += 1
            return self._found
        place = places.popleft()
        if not places:
            del self._places[name]
        return place

    def forget_places(self) -> None:
        """Before the images are found anew; those that could not be read are looked at again."""
        self._run("DELETE FROM row WHERE error IS NOT NULL")
        self._run("UPDATE row SET place = NULL")
        self._run("CREATE INDEX IF NOT EXISTS named ON state (name)")

    def again(self, source: Found) -> Before | None:
        """What a run before made of an image that has not changed since; None if it is to be looked at.

        In either case the image has its place.
        """
        name = source.name if isinstance(source, Source) else source.path
        self._found += 1
        if isinstance(source, Source):
            found = self._run(
                f"SELECT row, identity, {_KEPT} FROM state JOIN row ON row.rowid = state.row "  # noqa: S608
                "WHERE name = ? AND place IS NULL ORDER BY row LIMIT 1",
                (os.fsencode(name),),
            ).fetchone()
            if found is not None and (now := _unchanged(source.path, found[1])) is not None:
                self._run("UPDATE row SET place = ? WHERE rowid = ?", (self._found, found[0]))
                self._run("UPDATE state SET identity = ? WHERE row = ?", (json.dumps(now.values), found[0]))
                self.scored += 1
                return _before(found[2:])
        self._places[name].append(self._found)
        return None

    def all_again(self) -> Iterator[Before]:
        """What a run before made of all its images, in their order, whether they are there still or not."""
        found = self._run(
            f"SELECT {_KEPT} FROM state JOIN row ON row.rowid = state.row ORDER BY place"  # noqa: S608
        )
        for values in found:
            self.scored += 1
            yield _before(values)
        self.unreadable = int(self._run("SELECT COUNT(*) FROM row WHERE error IS NOT NULL").fetchone()[0])

    def drop_the_rest(self) -> None:
        """Forget the images of a run before that were not found again."""
        self._run("DELETE FROM state WHERE row IN (SELECT rowid FROM row WHERE place IS NULL)")
        self._run("DELETE FROM row WHERE place IS NULL")

    def _with_part(self, row: Row) -> Row:
        return row if self._part_of is None or row.part else replace(row, part=self._part_of(row.path))

    def gather(self, judge: Judge) -> None:
        """Let every part be one row, by ``judge``; unreadable views stay rows of their own, behind.

        Views that were said to be normal, with a p-value of 1, do not speak for a part that has others.
        """
        self._run(f"CREATE TEMP TABLE row ({_COLUMNS}, place)")  # it hides that of the images, main.row
        found = self._run(
            f"SELECT place, {_COLUMNS} FROM main.row "  # noqa: S608
            "ORDER BY part, error IS NOT NULL, p_value = 1, score DESC, place"
        )
        self.parts = 0
        views = ((values[0], _row(None, values[1:])) for values in found)
        for _, group in groupby(views, lambda view: view[1].part):
            members = list(group)
            readable = [view for view in members if view[1].error is None]
            unreadable = members[len(readable) :]
            if readable:
                verdict = judge([row for _, row in readable], len(unreadable))
                self._write([(None, verdict, min(place for place, _ in readable))])
                self.parts += 1
            self._write((None, row, place) for place, row in unreadable)

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
            f"SELECT {_COLUMNS} FROM row WHERE error IS NULL ORDER BY score DESC, place LIMIT ?",  # noqa: S608
            (-1 if top is None else min(top, _MOST),),
        )
        for rank, values in enumerate(ranked, start=1):
            yield _row(rank, values)
        for values in self._run(
            f"SELECT {_COLUMNS} FROM row WHERE error IS NOT NULL ORDER BY place"  # noqa: S608
        ):
            yield _row(None, values)

    def anomalous_files(self) -> Iterator[tuple[str, Identity]]:
        """The files of the images called anomalous, each once, in the state in which they were scored.

        The most anomalous first; a file that was given under two names, or has several pages, is one. Of an
        anomalous part they are those of all views that could be read. Those that are gone since a run before
        had written its outputs are left out: it has moved them.
        """
        return self._files_of("anomalous")

    def review_files(self) -> Iterator[tuple[str, Identity]]:
        """The same of what a person should look at."""
        return self._files_of("review")

    def _files_of(self, mark: str) -> Iterator[tuple[str, Identity]]:
        same = "row.rowid = image.rowid" if self.parts is None else "row.part = image.part"
        found = self._run(
            f"SELECT file, identity FROM row JOIN main.row AS image ON {same} "  # noqa: S608
            f"JOIN state ON image.rowid = state.row WHERE row.{mark} "
            "GROUP BY identity ORDER BY MAX(image.score) DESC, MIN(image.place)"
        )
        for file, identity in found:
            if not self.journal.written or os.path.lexists(file):
                yield os.fsdecode(file), Identity(*json.loads(identity))
