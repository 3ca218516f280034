"""Files that have arrived and may still be written: who has settled, and when."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import monotonic

from anomscan.files.storage import Identity, storage_of
from anomscan.files.writing import is_closed

MOST_WAITING = 10_000
"""Files that wait at a time; those beyond are met again when the folder is next looked through."""


@dataclass(frozen=True)
class Arrived:
    """A file in the state in which it was met; ``key`` names it whatever links led to it.

    ``since`` is when, by ``monotonic``, that state was first seen; ``early`` that it was closed less than the
    time of settling after that.
    """

    key: str
    path: str
    identity: Identity
    since: float
    early: bool = False


class Settling:
    """Waits until files are no longer written.

    A file has settled when its state has not changed for ``seconds``, by the clock of this machine and not
    by the times in the file system, which may be those of another one. A file that the system knows to be
    closed by its writer has settled at once; should it be half of an image all the same, see ``wait_longer``.

    Args:
        seconds: how long nothing may have changed.
        is_news: whether a file, by key and state, is to be waited for at all.
    """

    def __init__(self, seconds: float, is_news: Callable[[str, Identity], bool]) -> None:
        self._seconds = seconds
        self._is_news = is_news
        self._waiting: dict[str, Arrived] = {}
        self._patient: set[str] = set()  # of which it will not be known when they are closed
        self.missed = False
        """Whether a file was met that found no room."""

    def __len__(self) -> int:
        return len(self._waiting)

    def meet(self, key: str, path: str) -> None:
        """A file that may be new or changed."""
        if key in self._waiting:
            return
        identity = state_of(path)
        if identity is None or not self._is_news(key, identity):
            return
        if len(self._waiting) >= MOST_WAITING:
            self.missed = True
            return
        self._waiting[key] = Arrived(key, path, identity, monotonic())

    def settled(self, most: int) -> list[Arrived]:
        """Up to so many files that have settled, as they arrived; they wait no longer.

        One that has gone is forgotten; one that has changed begins anew.
        """
        found: list[Arrived] = []
        for key, file in list(self._waiting.items()):
            due = monotonic() - file.since >= self._seconds
            if len(found) == most:
                break
            if key in self._patient and not due:
                continue
            identity = state_of(file.path)
            if identity is None:
                self._forget(key)
            elif identity != file.identity:
                self._forget(key)
                self._waiting[key] = Arrived(key, file.path, identity, monotonic())
            elif due:
                found.append(file)
            elif (closed := identity.is_file and is_closed(file.path)) is None:
                self._patient.add(key)
            elif closed:
                found.append(replace(file, early=True))
        for file in found:
            self._forget(file.key)
        return sorted(found, key=lambda file: (file.identity.changed_ns, os.fsencode(file.path)))

    def wait_longer(self, file: Arrived) -> None:
        """Take back a file that was closed but cannot be read: the rest of it may come in another writing."""
        self._patient.add(file.key)
        self._waiting[file.key] = replace(file, early=False)

    def _forget(self, key: str) -> None:
        del self._waiting[key]
        self._patient.discard(key)


def state_of(path: str) -> Identity | None:
    """The state of a file, or of a link that leads nowhere; None where there is nothing of that name."""
    try:
        return storage_of(path).identity(path)
    except (OSError, ValueError):
        pass
    try:
        return Identity.of(os.lstat(path))
    except (OSError, ValueError):
        return None
