"""Names and times as text."""

from __future__ import annotations

import datetime
import os


def printable(path: str) -> str:
    """``path`` for a message: bytes that are not UTF-8 and control characters are escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def plain_path(path: str) -> str:
    """``path``, with ``./`` before a first character that a spreadsheet would take for a formula."""
    return "./" + path if path.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else path


def many(count: int, one: str, more: str) -> str:
    """A number and what there is of it: ``1 file has``, ``2 files have``."""
    return f"{count} {one if count == 1 else more}"


def now() -> str:
    """The time of day, for the record."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
