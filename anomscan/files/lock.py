"""One writer at a time: a lock that a dead process cannot hold."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no flock
    fcntl = None  # type: ignore[assignment]


class Busy(Exception):
    """Another process holds the lock; the text is its number."""


_EVERY = 0.05
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def locked(file: Path, wait: float) -> Iterator[bool]:
    """Hold ``file`` alone, in a folder that exists; the operating system lets go when the process ends.

    Args:
        file: made if it is not there; it holds the holder's process number.
        wait: seconds to wait for another holder.

    Yields:
        False where the file system has no locks, so that nobody is kept out.

    Raises:
        Busy: another process still holds it; the message names it.
        OSError: the file cannot be made.
    """
    descriptor = _acquired(file, time.monotonic() + wait)
    if descriptor is None:
        yield False
        return
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield True
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool | None:
    """Whether the open file could be locked for this process alone; None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def _acquired(file: Path, deadline: float) -> int | None:
    """A descriptor of ``file`` that holds the lock; None where there are no locks."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            held = try_lock(descriptor)
            if held and is_at(descriptor, file):
                return descriptor
            holder = os.read(descriptor, 32).decode("ascii", "replace")
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if held is None:
            return None
        if not held:
            if time.monotonic() >= deadline:
                raise Busy(holder or "another process")
            time.sleep(_EVERY)


def is_at(descriptor: int, file: Path) -> bool:
    """Whether the open file still has that name: its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except FileNotFoundError:
        return False
