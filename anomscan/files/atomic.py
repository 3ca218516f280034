"""Files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anomscan.errors import OutputError
from anomscan.files.parts import part_in
from anomscan.files.urls import is_url


@contextmanager
def whole_file(path: str) -> Iterator[Path]:
    """Write ``path`` through a neighbour that takes its name when the block ends without an error.

    Whoever reads ``path`` meanwhile sees the old content or none. A device or a named pipe is written
    directly. A symbolic link keeps pointing where it does. A URL is written through a temporary file, see
    ``files.remote``.

    Raises:
        OutputError: the folder is missing or cannot be written; raised on entry, before any work.
    """
    if is_url(path):
        from anomscan.files.remote import whole_object

        with whole_object(path) as staged:
            yield staged
        return
    target = Path(path).resolve()
    if target.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder")
    if target.exists() and not target.is_file():
        yield target
        return
    try:
        with part_in(target.parent) as partial:
            yield partial
            sync(partial)
            partial.replace(target)
            sync(target.parent)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
