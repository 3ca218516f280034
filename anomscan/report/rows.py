"""The rows of a ranking: the columns, and how they are written as CSV and JSON lines.

Both carry the same values under the same names. A path is written so that it opens the same file and
comes back exactly:

* CSV is UTF-8; a name that is not keeps its bytes (read it with ``errors="surrogateescape"``).
* JSON lines are ASCII; such a byte is a lone surrogate escape, as ``json.loads`` and ``os.fsencode`` expect.
* A relative path that begins with a character which a spreadsheet takes for a formula is given a ``./``.
"""

from __future__ import annotations

import csv
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from anomscan.errors import OutputError, UsageError
from anomscan.images.decode import Decoded
from anomscan.images.find import Unreadable
from anomscan.text import plain_path
from anomscan.types import Box, Features


class ScoredImages(Protocol):
    """What rows are made of: n images that were scored together, see ``screen.screener.Scored``."""

    @property
    def images(self) -> Sequence[Decoded]:
        """The images."""

    @property
    def scores(self) -> Features:
        """(n,) float32."""

    @property
    def p_values(self) -> NDArray[np.float64] | None:
        """(n,), or None."""

    @property
    def nearest(self) -> Sequence[str]:
        """The normal most like each."""

    @property
    def aspects(self) -> Mapping[str, Features]:
        """The scores that make up the score, by the names of their columns, each (n,)."""


@dataclass(frozen=True)
class Row:
    """One image of a ranking; the fields are the columns, None is an empty cell."""

    rank: int | None
    path: str
    score: float | None = None
    p_value: float | None = None
    anomalous: bool | None = None
    nearest_normal: str | None = None
    error: str | None = None
    image_score: float | None = None
    patch_score: float | None = None
    regions: list[Box] | None = None
    review: bool | None = None
    part: str | None = None
    views: list[str] | None = None
    judged_by: str | None = None

    @classmethod
    def of(cls, scored: ScoredImages, regions: Sequence[list[Box] | None]) -> Iterator[Row]:
        """The rows of a batch, neither ranked nor decided yet; ``regions`` are those of each image."""
        for i, image in enumerate(scored.images):
            aspects = {name: _shortest(values[i]) for name, values in scored.aspects.items()}
            yield cls(
                rank=None,
                path=plain_path(image.path),
                score=_shortest(scored.scores[i]),
                p_value=None if scored.p_values is None else float(scored.p_values[i]),
                nearest_normal=plain_path(scored.nearest[i]),
                image_score=aspects.get("image_score"),
                patch_score=aspects.get("patch_score"),
                regions=regions[i],
            )

    @classmethod
    def of_unreadable(cls, unreadable: Unreadable) -> Row:
        """The row of a file that could not be read."""
        reason = unreadable.reason.encode("utf-8", "backslashreplace").decode()
        return cls(rank=None, path=plain_path(unreadable.path), error=reason)


FIELDS = tuple(column.name for column in fields(Row))
REGIONS = "regions"
FURTHER = ("image_score", "patch_score", REGIONS)
"""Columns that are written where they are asked for; the last in JSON lines of patches, too."""
REVIEW, OF_PARTS = ("review",), ("part", "views", "judged_by")
"""Columns that go with ``--review`` and with ``--part-by``."""
COLUMNS = tuple(name for name in FIELDS if name not in (*FURTHER, *REVIEW, *OF_PARTS))


def further_columns(text: str | None) -> tuple[str, ...]:
    """Those of ``FURTHER`` that a list with commas names; raises UsageError."""
    named = tuple(name.strip() for name in (text or "").split(",") if name.strip())
    unknown = [name for name in named if name not in FURTHER]
    if unknown:
        raise UsageError(
            f"there is no further column called {unknown[0]!r}; choose from {', '.join(FURTHER)}"
        )
    return tuple(dict.fromkeys(named))


def _shortest(value: np.float32) -> float:
    """With the shortest decimal that is this float32."""
    return float(str(value))


class _LineFeeds:
    """Ends lines with a line feed; csv quotes a carriage return only where lines end with one."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, line: str) -> None:
        self._file.write(line.removesuffix("\r\n") + "\n")


def write_csv(rows: Iterable[Row], file: TextIO, columns: Sequence[str] = COLUMNS) -> None:
    """Write a header and one line a row; quoted where needed, lines end with a line feed."""
    writer = csv.writer(_LineFeeds(file))
    writer.writerow(columns)
    for row in rows:
        cells = [getattr(row, name) for name in columns]
        writer.writerow([json.dumps(cell) if isinstance(cell, list) else cell for cell in cells])


def write_jsonl(rows: Iterable[Row], file: TextIO, columns: Sequence[str] = COLUMNS) -> None:
    """Write one JSON object a row, with a key for every column; an empty cell is null."""
    for row in rows:
        json.dump({name: getattr(row, name) for name in columns}, file)
        file.write("\n")


FORMATS = {"csv": write_csv, "jsonl": write_jsonl}


PARQUET = "parquet"
"""The one format that has no lines, see ``report.parquet``."""


def check_format(form: str) -> None:
    """Raise MissingExtra, before any work, where rows cannot be written like that."""
    if form == PARQUET:
        from anomscan.report.parquet import check_installed

        check_installed()


def write_rows(rows: Iterable[Row], form: str, file: TextIO, further: Sequence[str] = ()) -> bool:
    """Write rows in one of ``FORMATS`` or as ``PARQUET``, down to the disk where ``file`` is on one.

    ``further`` are columns behind the usual ones.

    Returns:
        False where ``file`` is a pipe that nobody reads any more, which is no error.

    Raises:
        OutputError: the rows cannot be written, or not all of them.
    """
    try:
        if form == PARQUET:
            from anomscan.report.parquet import write_parquet

            write_parquet(rows, file.buffer, (*COLUMNS, *further))
        else:
            FORMATS[form](rows, file, (*COLUMNS, *further))
        file.flush()
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            os.fsync(file.fileno())
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
        return False
    except OSError as error:
        raise OutputError(f"cannot write the rows: {error.strerror}") from error
    return True
