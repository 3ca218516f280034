"""What happens in a folder: told by the operating system where it can, else found by looking."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from threading import Event
from typing import TYPE_CHECKING, Protocol

from anomscan.files.mounts import is_remote

if TYPE_CHECKING:
    from watchfiles.main import FileChange

TICK = 0.1
"""Seconds that a watch waits at a time."""
OFTEN, SELDOM = 5.0, 30.0
"""Seconds between two looks through the folder where nobody tells what happens, and where it is told."""


class Arrivals(Protocol):
    """Waits a moment and says what has happened."""

    every: float
    """Seconds between two looks through the whole folder."""

    def wait(self) -> list[str] | None:
        """Paths that are new or changed since the last call; None: look through the whole folder."""


class Polling:
    """Knows nothing: the folder is looked through every so many seconds."""

    def __init__(self, every: float, stop: Event) -> None:
        self.every = every
        self._stop = stop

    def wait(self) -> list[str] | None:
        """Nothing, after a moment."""
        self._stop.wait(TICK)
        return []


class Notified:
    """Told by the operating system through ``watchfiles``: inotify, FSEvents, ReadDirectoryChangesW.

    It tells late or never of what overflows its queue, of names that are not UTF-8, of files in a folder made
    a moment ago and of what is behind links. So the folder is looked through as well, if seldom.

    Raises:
        ImportError: ``watchfiles`` is not installed.
        OSError: the system refuses, as where it watches too many folders.
    """

    def __init__(self, folder: str, stop: Event) -> None:
        self.every = SELDOM
        self._folder, self._root = folder, os.path.realpath(folder)
        self._stop = stop
        self._begin()

    def _begin(self) -> None:
        """Be told from now on."""
        status = os.stat(self._root)
        self._place = (status.st_dev, status.st_ino)
        self._changes = self._begun()
        next(self._changes)

    def _begun(self) -> Iterator[set[FileChange]]:
        from watchfiles import watch

        return watch(
            self._root,
            watch_filter=None,
            debounce=int(1000 * TICK),
            step=20,
            rust_timeout=int(1000 * TICK),
            yield_on_timeout=True,
            stop_event=self._stop,
            force_polling=False,
            raise_interrupt=False,
            ignore_permission_denied=True,
        )

    def wait(self) -> list[str] | None:
        """Paths of files, as soon as there are any."""
        from watchfiles import Change

        try:
            status = os.stat(self._root)
            if self._place != (status.st_dev, status.st_ino):  # made anew, or mounted
                self._begin()
                return None
            changes = next(self._changes)
        except (RuntimeError, OSError, StopIteration):  # such as a name that is not UTF-8
            if not self._stop.wait(TICK):
                with suppress(RuntimeError, OSError, StopIteration):
                    self._begin()
            return None
        paths = [path for change, path in changes if change != Change.deleted]
        if any(map(os.path.isdir, paths)):
            return None
        return [os.path.join(self._folder, os.path.relpath(path, self._root)) for path in paths]


def arrivals(folder: str, poll: float | None, stop: Event) -> tuple[Arrivals, str]:
    """How ``folder`` is watched, and that in words; ``poll`` seconds are asked for, or None."""
    if poll is not None:
        return Polling(poll, stop), f"looking every {poll:g} s"
    if is_remote(folder):
        return Polling(OFTEN, stop), f"looking every {OFTEN:g} s, since it is on a network share"
    try:
        return Notified(folder, stop), "told by the system of new files"
    except ImportError:
        why = "since watchfiles is not installed"
    except (OSError, RuntimeError) as error:
        why = f"since the system tells nothing ({error})"
    return Polling(OFTEN, stop), f"looking every {OFTEN:g} s, {why}"
