"""Rows, read back."""

from __future__ import annotations

import csv
import io


def rows(output: bytes) -> list[dict[str, str]]:
    """The CSV that ``score`` wrote."""
    return list(csv.DictReader(io.StringIO(output.decode("utf-8", "surrogateescape"), newline="")))
