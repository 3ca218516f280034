"""Rows that are appended to a file or a stream, each once, even where the writer was killed in between."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from anomscan.errors import OutputError
from anomscan.files.atomic import sync
from anomscan.text import printable

_BITS = 2**63 - 1
"""What a ledger keeps of an inode."""
_BEGINNING = 1000


@dataclass(frozen=True)
class Place:
    """The end of an output: which file (its inode, 0 for a stream) and how many bytes it has."""

    inode: int
    size: int


class Output(Protocol):
    """Where rows go."""

    name: str | None
    """The path of a file; None for a stream."""

    def end(self) -> Place:
        """Where the next row will begin; raises OutputError."""

    def beginning(self) -> bytes:
        """What stands at the very beginning, as much as can be seen of it; raises OutputError."""

    def append(self, text: bytes) -> None:
        """Put ``text`` behind what is there, safe when this returns; raises OutputError."""

    def complete(self, text: bytes, place: Place) -> None:
        """Append ``text`` that was to stand at ``place``, less what is there by now; raises OutputError."""


class AppendedFile:
    """A file that rows are appended to; a new one is made where it was moved away, as logrotate does."""

    def __init__(self, path: str) -> None:
        self.name: str | None = os.path.abspath(path)
        self._path = Path(self.name)

    def end(self) -> Place:
        """Where the next row will begin; the file is made if it is not there."""
        try:
            there = self._path.exists()
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                status = os.fstat(descriptor)
            finally:
                os.close(descriptor)
            if not there:
                sync(self._path.parent)
        except OSError as error:
            raise self._refused(error) from error
        return Place(status.st_ino, status.st_size)

    def beginning(self) -> bytes:
        """The first bytes, enough for the names of the columns; none of a new file."""
        try:
            with open(self._path, "rb") as file:
                return file.read(_BEGINNING)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise self._refused(error) from error

    def append(self, text: bytes) -> None:
        """Write ``text`` to the disk; of a text that does not fit nothing stays."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                size = os.fstat(descriptor).st_size
                try:
                    _write(descriptor, text)
                    os.fsync(descriptor)
                except OSError:
                    with suppress(OSError):
                        os.ftruncate(descriptor, size)
                    raise
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._refused(error) from error

    def complete(self, text: bytes, place: Place) -> None:
        """What a killed writer has left behind ``place`` is replaced; what others have put there stays."""
        end = self.end()
        if end.inode & _BITS == place.inode & _BITS and end.size > place.size:
            try:
                with open(self._path, "r+b") as file:
                    file.seek(place.size)
                    tail = file.read(len(text))
                    if tail == text:
                        os.fsync(file.fileno())
                        return
                    if end.size - place.size <= len(text):
                        file.truncate(place.size)
            except OSError as error:
                raise self._refused(error) from error
        self.append(text)

    def _refused(self, error: OSError) -> OutputError:
        return OutputError(f"cannot write {printable(str(self._path))}: {error.strerror}")


class AppendedStream:
    """An open descriptor, such as standard output: what was written there cannot be looked at again."""

    name: str | None = None

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def end(self) -> Place:
        """Nothing is known of a pipe; a file that it leads to may have rows."""
        try:
            return Place(0, os.fstat(self._descriptor).st_size)
        except OSError as error:
            raise OutputError(f"cannot write the rows: {error.strerror}") from error

    def beginning(self) -> bytes:
        """Nothing can be seen of it."""
        return b""

    def append(self, text: bytes) -> None:
        """Write all of ``text``."""
        try:
            _write(self._descriptor, text)
        except BrokenPipeError as error:
            raise OutputError("nobody reads the rows any more") from error
        except OSError as error:
            raise OutputError(f"cannot write the rows: {error.strerror}") from error
        with suppress(OSError):  # pipes and terminals have no disk
            os.fsync(self._descriptor)

    def complete(self, text: bytes, place: Place) -> None:
        """All of it again: a row that comes twice is better than one that never comes."""
        self.append(text)


def _write(descriptor: int, text: bytes) -> None:
    rest = memoryview(text)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
