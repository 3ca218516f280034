"""Files that are still being written: hidden, under names of their own, gone with their writer."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from anomscan.files.lock import is_at, try_lock

_PREFIX, _SUFFIX = ".anomscan-", ".part"
_STALE_SECONDS = 24 * 3600.0


@contextmanager
def part_in(folder: Path) -> Iterator[Path]:
    """A new, empty file in ``folder`` to write to; gone when the block ends, unless it was renamed.

    It is locked as long as its writer lives. What dead writers have left in the folder is removed.

    Raises:
        OSError: the folder cannot be written.
    """
    remove_leftovers(folder)
    path, descriptor = _new(folder)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _new(folder: Path) -> tuple[Path, int]:
    """An empty file that is locked; another run may take it for a leftover before it is, and remove it."""
    while True:
        path = folder / f"{_PREFIX}{os.urandom(8).hex()}{_SUFFIX}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            if try_lock(descriptor) is not False and is_at(descriptor, path):
                return path, descriptor
        except BaseException:
            path.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove the parts in ``folder`` whose writers have died."""
    for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        with suppress(OSError):  # another run removes it too, or it is somebody else's
            descriptor = os.open(path, os.O_RDWR)
            try:
                held = try_lock(descriptor)
                if held or (held is None and time.time() - path.stat().st_mtime > _STALE_SECONDS):
                    path.unlink()
            finally:
                os.close(descriptor)
