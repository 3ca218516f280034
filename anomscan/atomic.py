"""Files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from anomscan.errors import OutputError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write ``path`` through a neighbour that takes its name when the block ends without an error.

    Whoever reads ``path`` meanwhile sees the old content or none. A device or a named pipe is written
    directly. A symbolic link keeps pointing where it does.

    Raises:
        OutputError: the folder is missing or cannot be written; raised on entry, before any work.
    """
    target = path.resolve()
    if target.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder")
    if target.exists() and not target.is_file():
        yield target
        return
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        partial.touch(exist_ok=False)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    try:
        yield partial
        sync(partial)
        partial.replace(target)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def deliver(paths: Iterable[str], folder: Path, *, move: bool) -> None:
    """Copy or move files into ``folder``; a name that is taken gets a suffix, nothing is overwritten.

    Raises:
        OutputError: ``folder`` cannot be written, or a file has gone; raised after all others were delivered.
    """
    failures = []
    for path in paths:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            target = _reserved(folder, Path(path))
            try:
                if move:
                    shutil.move(path, target)
                else:
                    shutil.copy2(path, target)
            except OSError:
                target.unlink(missing_ok=True)
                raise
        except OSError as error:
            failures.append(f"cannot {'move' if move else 'copy'} {path} to {folder}: {error.strerror}")
    if failures:
        more = f" (and {len(failures) - 1} more)" if failures[1:] else ""
        raise OutputError(failures[0] + more)


def _reserved(folder: Path, source: Path) -> Path:
    """An empty file of our own in ``folder`` with the name of ``source``, or that name and a number."""
    for suffix in itertools.chain([""], (f"-{number}" for number in itertools.count(1))):
        target = folder / f"{source.stem}{suffix}{source.suffix}"
        with suppress(FileExistsError):
            target.touch(exist_ok=False)
            return target
    raise AssertionError("the numbers do not end")


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
