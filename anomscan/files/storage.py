"""Where files are: the one way from a name to its bytes, on this machine or in a remote storage."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from anomscan.files.atomic import sync
from anomscan.files.urls import is_url


@dataclass(frozen=True)
class Identity:
    """Which file a name stands for, and which state of it: another one after every write or replacement."""

    device: int
    inode: int
    size: int
    modified_ns: int
    mode: int
    changed_ns: int = field(default=0, compare=False)
    """When it was last written, renamed, linked or moved here; a second name is no other state."""

    @property
    def values(self) -> tuple[int, ...]:
        """What tells it from others, in the order of its fields."""
        return (self.device, self.inode, self.size, self.modified_ns, self.mode)

    @property
    def is_folder(self) -> bool:
        """Whether it can be listed."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it has content of its own: no folder, device, pipe or socket."""
        return stat.S_ISREG(self.mode)

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        """The same, from what the operating system says."""
        return cls(
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_mode,
            status.st_ctime_ns,
        )


class Storage(Protocol):
    """What the tool asks of a place that holds files; every method raises OSError where it cannot."""

    def identity(self, path: str) -> Identity:
        """What ``path`` stands for now; links are followed."""

    def list(self, folder: str) -> Iterator[tuple[str, bool]]:
        """The names in ``folder``, in no order, and whether each can be listed itself."""

    def open(self, path: str) -> BinaryIO:
        """The content of the regular file ``path``, to be read and closed by the caller; it can seek."""

    def publish(self, staged: Path, path: str) -> None:
        """Make the finished local file ``staged`` the content of ``path``, at once and for good."""


NOT_A_FILE = "not a regular file"


class Local:
    """The disks of this machine."""

    def identity(self, path: str) -> Identity:
        """What ``path`` stands for now."""
        return Identity.of(os.stat(path))

    def list(self, folder: str) -> Iterator[tuple[str, bool]]:
        """The names in ``folder``; an entry that cannot be looked at is none that can be listed."""
        with os.scandir(os.fsencode(folder)) as entries:
            for entry in entries:
                try:
                    is_folder = entry.is_dir()
                except OSError:  # a link to itself, or one whose target has too long a name
                    is_folder = False
                yield os.fsdecode(entry.name), is_folder

    def open(self, path: str) -> BinaryIO:
        """The content of ``path``; a pipe that nobody writes to would never open."""
        if not self.identity(path).is_file:
            raise OSError(errno.EINVAL, NOT_A_FILE, path)
        return open(path, "rb")

    def publish(self, staged: Path, path: str) -> None:
        """Flush ``staged`` and give it the name ``path``, which lies on the same file system."""
        sync(staged)
        os.replace(staged, path)
        sync(Path(path).parent)


_LOCAL = Local()


def storage_of(path: str) -> Storage:
    """The storage that holds ``path``."""
    if is_url(path):
        from anomscan.files.remote import REMOTE

        return REMOTE
    return _LOCAL
