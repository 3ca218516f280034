"""What a shell script gives and takes: paths on standard input, rows on standard output or in a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from anomscan.files.atomic import whole_file

ENCODING = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
"""How a text file of rows is opened."""


def stdin_paths(*, null: bool) -> Iterator[str]:
    """The paths on standard input, as they come, each ended by a newline or, with ``null``, by NUL."""
    separator, rest = b"\0" if null else b"\n", b""
    while chunk := os.read(sys.stdin.fileno(), 1 << 16):
        *whole, rest = (rest + chunk).split(separator)
        yield from (os.fsdecode(path) for path in whole if path)
    if rest:
        yield os.fsdecode(rest)


@contextmanager
def text_output(output: str | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears whole or not at all; raises OutputError as ``whole_file``."""
    if output is None:
        sys.stdout.reconfigure(**ENCODING)  # type: ignore[union-attr]
        yield sys.stdout
        return
    with whole_file(output) as path, open(path, "w", **ENCODING) as file:  # type: ignore[call-overload]
        yield file
