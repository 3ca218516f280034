from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from anomscan.errors import MissingExtra
from anomscan.report.parquet import check_installed, write_parquet
from anomscan.report.rows import COLUMNS, FIELDS, PARQUET, Row, write_csv, write_rows
from tests.report.test_rows import BOXES, ROWS

parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
FULL = [
    Row(1, "a.png", 1 / 3, 0.1, True, "n.png", None, 0.3, 0.4, BOXES, False, "p", ["a.png", "b"], "a.png"),
    Row(2, "b,c.png", 0.125, regions=[]),
    Row(None, "d.png", error="broken"),
]


def table(rows: list[Row], columns: tuple[str, ...] = COLUMNS) -> Any:
    file = io.BytesIO()
    write_parquet(rows, file, columns)
    return parquet.read_table(io.BytesIO(file.getvalue()))


def test_every_field_of_a_row_comes_back() -> None:
    written = table(FULL, FIELDS)
    assert written.column_names == [field.name for field in fields(Row)]
    rows = written.to_pylist()
    for row in rows:
        row["regions"] = row["regions"] and [tuple(box) for box in row["regions"]]
    assert [Row(**row) for row in rows] == FULL


def test_columns_and_values_are_those_of_csv_with_types() -> None:
    text = io.StringIO(newline="")
    write_csv(FULL, text, FIELDS)
    kinds = {"int64": int, "double": float, "string": str, "bool": lambda cell: cell == "True"}
    written = table(FULL, FIELDS)
    assert [str(kind) for kind in written.schema.types][:7] == [
        *("int64", "string", "double", "double", "bool", "string", "string")
    ]
    named = {name: kinds.get(str(written.schema.field(name).type), json.loads) for name in FIELDS}
    rows = list(csv.DictReader(io.StringIO(text.getvalue(), newline="")))
    assert [{name: named[name](row[name]) if row[name] else None for name in FIELDS} for row in rows] == (
        written.to_pylist()
    )


def test_a_name_that_is_no_text_is_one_with_escapes() -> None:
    paths = table(ROWS)["path"].to_pylist()
    assert paths == [os.fsencode(row.path).decode("utf-8", "backslashreplace") for row in ROWS]
    assert "\\xff\\xfe not utf-8.png" in paths


def test_nothing_is_a_table_without_rows() -> None:
    assert table([]).num_rows == 0
    assert table([]).column_names == list(COLUMNS)


def test_many_rows_are_written_in_groups(tmp_path: Path) -> None:
    with open(tmp_path / "rows", "w") as file:
        assert write_rows((Row(i, str(i)) for i in range(25_000)), PARQUET, file)
    read = parquet.ParquetFile(tmp_path / "rows")
    assert (read.metadata.num_row_groups, read.metadata.num_rows) == (3, 25_000)
    assert read.read()["rank"].to_pylist() == list(range(25_000))


def test_a_reader_that_has_gone_is_no_error() -> None:
    script = (
        "import sys\nfrom anomscan.report.rows import Row, write_rows\n"
        "there = write_rows((Row(i, 'x' * 100) for i in range(200_000)), 'parquet', sys.stdout)\n"
        "print(there, file=sys.stderr)"
    )
    command = f'{sys.executable} -c "$SCRIPT" | head -c 4 >/dev/null'
    done = subprocess.run(
        ["sh", "-c", command],
        env={**os.environ, "SCRIPT": script},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "False\n"


def test_without_pyarrow_one_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"^--format parquet needs .*anomscan\[parquet\]'$"):
        check_installed()
