"""What a shell script gives and takes: paths on standard input, rows on standard output or in a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from anomscan.atomic import whole_file
from anomscan.images import Source, find
from anomscan.report import ENCODING


def sources(paths: list[str], null: bool) -> Iterator[Source]:
    """The images at or below ``paths``; ``-`` reads further ones, ended by newline or NUL."""
    for path in paths:
        if path == "-":  # a file that has gone since it was listed is a row, not the end of the run
            yield from find(_stdin_paths(b"\0" if null else b"\n"), strict=False)
        else:
            yield from find([path])


def _stdin_paths(separator: bytes) -> Iterator[str]:
    rest = b""
    while chunk := os.read(sys.stdin.fileno(), 1 << 16):
        *whole, rest = (rest + chunk).split(separator)
        yield from (os.fsdecode(path) for path in whole if path)
    if rest:
        yield os.fsdecode(rest)


@contextmanager
def text_output(output: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears whole or not at all; raises OutputError as ``whole_file``."""
    if output is None:
        sys.stdout.reconfigure(**ENCODING)  # type: ignore[union-attr]
        yield sys.stdout
        return
    with whole_file(output) as path, open(path, "w", **ENCODING) as file:  # type: ignore[call-overload]
        yield file
