r"""Rows as Parquet: the columns and values of CSV, with types. pyarrow runs only here.

An empty cell is null. Text in Parquet is UTF-8: of a name that is not, each byte that is none is written as
``\xff``; CSV and JSON lines keep such a name exactly.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, get_args, get_type_hints

from anomscan.extras import extra
from anomscan.report.rows import Row
from anomscan.types import Box

if TYPE_CHECKING:
    import pyarrow

_AT_A_TIME = 10_000
"""Rows in memory, and in a row group."""


def check_installed() -> None:
    """Raise MissingExtra where Parquet cannot be written."""
    with extra("parquet", "--format parquet"):
        import pyarrow.parquet  # noqa: F401


def write_parquet(rows: Iterable[Row], file: BinaryIO, columns: Sequence[str]) -> None:
    """Write rows, some thousands at a time, to a file or a pipe; raises OSError where that fails."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    schema, rest = _schema(columns), iter(rows)
    with ParquetWriter(file, schema) as writer:
        while some := list(islice(rest, _AT_A_TIME)):
            cells = {name: [_cell(getattr(row, name)) for row in some] for name in columns}
            writer.write_table(pyarrow.table(cells, schema))


def _schema(columns: Sequence[str]) -> pyarrow.Schema:
    """The type of each column, by what ``Row`` says of it."""
    import pyarrow

    types: dict[Any, pyarrow.DataType] = {
        int: pyarrow.int64(),
        float: pyarrow.float64(),
        bool: pyarrow.bool_(),
        str: pyarrow.string(),
        list[str]: pyarrow.list_(pyarrow.string()),
        list[Box]: pyarrow.list_(pyarrow.list_(pyarrow.int64())),
    }
    hints = get_type_hints(Row)
    return pyarrow.schema([(name, types[(get_args(hints[name]) or (hints[name],))[0]]) for name in columns])


def _cell(value: object) -> object:
    """What is no UTF-8 in a text, as escapes."""
    if isinstance(value, str):
        return os.fsencode(value).decode("utf-8", "backslashreplace")
    return [_cell(part) for part in value] if isinstance(value, list) else value
