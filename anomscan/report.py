"""Rows to CSV and JSON lines.

Both carry the same values under the same names. A path is written so that it opens the same file and
comes back exactly:

* CSV is UTF-8; a name that is not keeps its bytes (read it with ``errors="surrogateescape"``).
* JSON lines are ASCII; such a byte is a lone surrogate escape, as ``json.loads`` and ``os.fsencode`` expect.
* A relative path that begins with a character which a spreadsheet takes for a formula is given a ``./``.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass
from typing import TextIO

from anomscan.config import COLUMNS

ENCODING = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
"""How a text file for ``FORMATS`` is opened."""


@dataclass(frozen=True)
class Row:
    """One image of a ranking; the fields are the columns, None is an empty cell."""

    rank: int | None
    path: str
    score: float | None
    p_value: float | None = None
    anomalous: bool | None = None
    nearest_normal: str | None = None
    error: str | None = None


def plain_path(path: str) -> str:
    """``path``, with ``./`` before a first character that a spreadsheet would take for a formula."""
    return "./" + path if path.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else path


class _LineFeeds:
    """Ends lines with a line feed; csv quotes a carriage return only where lines end with one."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, line: str) -> None:
        self._file.write(line.removesuffix("\r\n") + "\n")


def write_csv(rows: Iterable[Row], file: TextIO) -> None:
    """Write a header and one line a row; quoted where needed, lines end with a line feed."""
    writer = csv.writer(_LineFeeds(file))
    writer.writerow(COLUMNS)
    writer.writerows(map(astuple, rows))


def write_jsonl(rows: Iterable[Row], file: TextIO) -> None:
    """Write one JSON object a row, with a key for every column; an empty cell is null."""
    for row in rows:
        json.dump(dict(zip(COLUMNS, astuple(row), strict=True)), file)
        file.write("\n")


FORMATS: dict[str, Callable[[Iterable[Row], TextIO], None]] = {"csv": write_csv, "jsonl": write_jsonl}
