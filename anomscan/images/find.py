"""Find images: what is named, and what lies below the folders that are."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from anomscan.errors import InputError, NoImages
from anomscan.files.storage import Identity, Storage, storage_of
from anomscan.files.streams import stdin_paths
from anomscan.text import many, printable

SUFFIXES = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".webp",
        ".gif",
        ".pbm",
        ".pgm",
        ".ppm",
        ".pnm",
    )
)
SYSTEM_NAMES = frozenset(
    ("@eadir", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found", "__macosx")
)
"""Folders of NAS boxes and operating systems, in lower case: thumbnails, and what was deleted."""


@dataclass(frozen=True)
class Source:
    """An image to look at; ``page`` is one of a file that has several, from 1, or None for the first."""

    path: str
    page: int | None = None

    @property
    def name(self) -> str:
        """What its row is called."""
        return self.path if self.page is None else f"{self.path}#{self.page}"


@dataclass(frozen=True)
class Unreadable:
    """What cannot be looked at, and the reason, without the path."""

    path: str
    reason: str


Found = Source | Unreadable


@dataclass
class Search:
    """Finds images, lazily and in a stable order, and counts what it passes over.

    A file that is named is taken whatever its name; a folder is walked, in the byte order of the names, for
    files with an image suffix. Links are followed, but no folder is entered twice, so that a loop ends. Names
    that begin with a dot and ``SYSTEM_NAMES`` are passed over. What cannot be opened is unreadable.

    Args:
        exclude: globs; a name in a walked folder, or a path below it, that matches one is passed over.
        never: folders that are not walked, such as where anomalous images are put.
        min_age: seconds; files that were written, renamed or moved in since are left for another time.
        in_order: whether the names of a folder are held and sorted; else they come as the disk lists them,
            and memory does not grow with their number.
    """

    exclude: Sequence[str] = ()
    never: Sequence[str] = ()
    min_age: float = 0.0
    in_order: bool = True
    passed_over: Counter[str] = field(default_factory=Counter)
    """Names by why they were passed over: hidden, excluded, young."""
    other_files: Counter[str] = field(default_factory=Counter)
    """Files without an image suffix, by their suffix."""
    _entered: set[tuple[int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        for folder in self.never:
            identity = _identity(folder)
            if identity is not None:
                self._entered.add((identity.device, identity.inode))

    def find(self, paths: Iterable[str], *, strict: bool = True) -> Iterator[Found]:
        """The images at or below ``paths``.

        Raises:
            InputError: one of ``paths`` does not exist; without ``strict`` that one is unreadable.
        """
        for path in paths:
            try:
                is_folder = storage_of(path).identity(path).is_folder
            except (OSError, ValueError) as error:
                if strict:
                    raise InputError(f"{printable(path)}: {reason_of(error)}") from error
                yield Unreadable(path, reason_of(error))
                continue
            yield from self._walk(path) if is_folder else self._settled(path)

    def given(self, paths: Iterable[str], *, null: bool = False) -> Iterator[Found]:
        """The same; ``-`` reads further paths from standard input, ended by newline or NUL."""
        for path in paths:
            if path == "-":  # a file that has gone since it was listed is a row, not the end of the run
                listed = stdin_paths(null=null)
                yield from self.find(listed if null else map(_without_return, listed), strict=False)
            else:
                yield from self.find([path])

    def messages(self) -> list[str]:
        """What a person should know of what was passed over."""
        lines = []
        if self.other_files:
            most = ", ".join(f"{suffix} {count}" for suffix, count in self.other_files.most_common(5))
            without = "without an image suffix"
            files = many(self.other_files.total(), f"file {without} was", f"files {without} were")
            lines.append(f"{files} not looked at ({most})")
        for why, one, more in (
            ("hidden", "hidden or system name was passed over", "hidden or system names were passed over"),
            ("excluded", "name was excluded", "names were excluded"),
            (
                "young",
                "file is too young and was left for the next run",
                "files are too young and were left for the next run",
            ),
        ):
            if self.passed_over[why]:
                lines.append(many(self.passed_over[why], one, more))
        return lines

    def why_nothing(self) -> str:
        """Why nothing was found."""
        return "; ".join(self.messages()) or "the folder holds no file with an image suffix"

    def _walk(self, root: str) -> Iterator[Found]:
        """Depth first, without recursion: folders may be nested deeper than Python's stack."""
        storage = storage_of(root)
        folder, waiting = root, [(root, iter([(root, True)]))]
        while waiting:
            try:
                folder, names = waiting[-1]
                path, is_folder = next(names, (None, False))
                if path is None:
                    waiting.pop()
                elif not is_folder:
                    yield from self._settled(path)
                else:
                    folder = path
                    waiting.append((path, self._listed(storage, root, path)))
            except OSError as error:
                yield Unreadable(folder, reason_of(error))

    def _listed(self, storage: Storage, root: str, folder: str) -> Iterator[tuple[str, bool]]:
        """The folders and images in ``folder``, sorted; none where it was entered before. Raises OSError."""
        identity = storage.identity(folder)
        if (identity.device, identity.inode) in self._entered:
            return iter(())
        self._entered.add((identity.device, identity.inode))
        if not self.in_order:
            return (
                (os.path.join(folder, name), is_folder)
                for name, is_folder in storage.list(folder)
                if self._wanted(name, is_folder, root, folder)
            )
        folders: set[bytes] = set()
        names: list[bytes] = []  # as bytes, which take half the memory and sort in the order promised
        for name, is_folder in storage.list(folder):
            if not self._wanted(name, is_folder, root, folder):
                continue
            encoded = os.fsencode(name)
            names.append(encoded)
            if is_folder:
                folders.add(encoded)
        names.sort()
        return ((os.path.join(folder, os.fsdecode(name)), name in folders) for name in names)

    def comes_to(self, root: str, path: str) -> bool:
        """Whether a walk of ``root``, none of which has begun, would come to the file ``path`` below it."""
        folder = root
        *folders, name = os.path.relpath(path, root).split(os.sep)
        for part in folders:
            if not self._wanted(part, True, root, folder):
                return False
            folder = os.path.join(folder, part)
            identity = _identity(folder)
            if identity is None or (identity.device, identity.inode) in self._entered:
                return False
        return self._wanted(name, False, root, folder)

    def _wanted(self, name: str, is_folder: bool, root: str, folder: str) -> bool:
        """Whether a name in a walked folder is looked at; counts it where not."""
        if name.startswith(".") or name.lower() in SYSTEM_NAMES:
            self.passed_over["hidden"] += 1
            return False
        below = os.path.relpath(os.path.join(folder, name), root) if self.exclude else name
        if any(fnmatchcase(name, glob) or fnmatchcase(below, glob) for glob in self.exclude):
            self.passed_over["excluded"] += 1
            return False
        suffix = os.path.splitext(name)[1].lower()
        if not is_folder and suffix not in SUFFIXES:
            self.other_files[printable(suffix) or "none"] += 1
            return False
        return True

    def _settled(self, path: str) -> Iterator[Source]:
        """The file, unless it is too young."""
        if self.min_age:
            identity = _identity(path)
            if identity is not None and time.time() - identity.changed_ns / 1e9 < self.min_age:
                self.passed_over["young"] += 1
                return
        yield Source(path)


def find(paths: Iterable[str], *, strict: bool = True) -> Iterator[Found]:
    """The images at or below ``paths``, see ``Search.find``."""
    return Search().find(paths, strict=strict)


def find_images(folder: str, search: Search | None = None) -> list[Found]:
    """All images below ``folder``, which exists (else InputError) and has some (else NoImages)."""
    search = search or Search()
    found = list(search.find([folder]))
    if not found:
        raise NoImages(f"no images in {printable(folder)}: {search.why_nothing()}")
    return found


def _without_return(path: str) -> str:
    """A line of a list whose lines end with CR LF, as it was meant; a name may end with CR all the same."""
    return path[:-1] if path.endswith("\r") and not os.path.lexists(path) else path


def _identity(path: str) -> Identity | None:
    try:
        return storage_of(path).identity(path)
    except (OSError, ValueError):
        return None


def reason_of(error: OSError | ValueError) -> str:
    """Why a file cannot be reached, without its path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
