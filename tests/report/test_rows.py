from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest

from anomscan.files.streams import ENCODING
from anomscan.report.rows import COLUMNS, FORMATS, Row
from anomscan.text import plain_path

NAMES = [
    b"plain.png",
    b"with space.png",
    b'comma,quote".png',
    b"apostrophe'.png",
    b"line\nfeed.png",
    b"carriage\rreturn.png",
    b"\xff\xfe not utf-8.png",
    "emoji 🔩 ü.png".encode(),
    b"=1+2.png",
    b"-dash.png",
    b"@at.png",
    b"+plus.png",
    b"\ttab.png",
]
ROWS = [
    Row(i, plain_path(os.fsdecode(name)), 1 / (i + 3), nearest_normal="n") for i, name in enumerate(NAMES)
]
ROWS.append(Row(None, "broken.jpg", None, error="image file is truncated"))


def written(tmp_path: Path, format_: str) -> Path:
    path = tmp_path / "rows"
    with open(path, "w", **ENCODING) as file:  # type: ignore[call-overload]
        FORMATS[format_](ROWS, file)
    return path


def test_names_and_values_survive_csv(tmp_path: Path) -> None:
    with open(written(tmp_path, "csv"), **ENCODING) as file:  # type: ignore[call-overload]
        header, *rows = csv.reader(file)
    assert tuple(header) == COLUMNS
    assert [os.path.normpath(os.fsencode(row[1])) for row in rows[:-1]] == NAMES
    assert [float(row[2]) for row in rows[:-1]] == [row.score for row in ROWS[:-1]]
    assert rows[-1] == ["", "broken.jpg", "", "", "", "", "image file is truncated"]


def test_names_and_values_survive_json_lines(tmp_path: Path) -> None:
    lines = written(tmp_path, "jsonl").read_bytes().decode("ascii").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [os.path.normpath(os.fsencode(row["path"])) for row in rows[:-1]] == NAMES
    assert [Row(**row) for row in rows] == ROWS
    assert all(tuple(row) == COLUMNS for row in rows)


def test_lines_end_with_a_line_feed(tmp_path: Path) -> None:
    assert b"\r\n" not in written(tmp_path, "csv").read_bytes()


@pytest.mark.parametrize("name", ["=cmd.png", "+a", "-a", "@a", "\ta", "\ra"])
def test_no_path_starts_a_formula_and_it_still_names_the_file(name: str) -> None:
    assert plain_path(name) == "./" + name
    assert plain_path("a" + name) == "a" + name


def test_csv_of_nothing_is_a_header() -> None:
    file = io.StringIO()
    FORMATS["csv"]([], file)
    assert file.getvalue() == ",".join(COLUMNS) + "\n"
