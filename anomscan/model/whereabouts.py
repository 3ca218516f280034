"""Where the normals of a model are on this disk, and which of them may be opened.

A model folder may come from somebody else, who wrote the paths in it. They are shown as text. A picture is
opened only below the folder that the model was made from, or below one that the user names; links that lead
elsewhere are not followed, or a report would carry a private picture away.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from anomscan.errors import InputError
from anomscan.files.storage import storage_of
from anomscan.files.urls import is_url
from anomscan.images.decode import source_named
from anomscan.images.find import Found, Source
from anomscan.text import many, printable


@dataclass
class Whereabouts:
    """Finds normals by the paths that a model records.

    Args:
        root: the folder of normals that the model records. It says nothing where it is the whole disk, holds
            the home folder, or is a URL: then only ``folders`` count.
        folders: where the user says that the normals are now, which may be URLs. A normal that was below
            ``root`` is looked for below each of them, under the same name, and then where it was.

    Raises:
        InputError: one of ``folders`` is none.
    """

    root: str
    folders: Sequence[str] = ()
    _outside: set[str] = field(default_factory=set)
    _gone: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for folder in self.folders:
            if not _is_folder(folder):
                raise InputError(f"--normals {printable(folder)} is no folder")
        real, home = os.path.realpath(self.root or os.sep), os.path.realpath(os.path.expanduser("~"))
        believed = os.path.isabs(self.root) and not _is_below(home, real)
        self._allowed = [*map(os.path.realpath, self.folders), *([real] if believed else [])]

    def of(self, path: str) -> str | None:
        """Where the normal is that a model calls ``path``; None where it is not, or may not be opened."""
        source = source_named(path)
        places = [source.path] if os.path.isabs(source.path) else []
        if _is_below(os.path.normpath(source.path), os.path.normpath(self.root)):
            below = os.path.relpath(source.path, self.root)
            places = [*(os.path.join(folder, below) for folder in self.folders), *places]
        there = [place for place in places if is_url(place) or os.path.lexists(place)]
        for place in there:
            if is_url(place) or any(_is_below(os.path.realpath(place), allowed) for allowed in self._allowed):
                return Source(place, source.page).name
        (self._outside if there else self._gone).add(path)
        return None

    def sources(self, paths: Iterable[str]) -> list[Found]:
        """Those of the normals that may be opened."""
        return [source_named(place) for place in map(self.of, paths) if place is not None]

    def remark(self) -> str | None:
        """Why normals that were asked for are not shown, and what to do; None where all are."""
        if self._outside:
            where = (
                f" {printable(self.root)}"
                if os.path.isabs(self.root)
                else " the folder of the model's normals"
            )
            what = many(len(self._outside), "normal is", "normals are")
            return f"{what} not opened, outside of{where}: name their folder with --normals DIR"
        if self._gone:
            what = many(len(self._gone), "normal is", "normals are")
            return f"{what} not where the model has them: name their folder with --normals DIR"
        return None


def _is_folder(path: str) -> bool:
    try:
        return storage_of(path).identity(path).is_folder
    except (OSError, ValueError):
        return False


def _is_below(path: str, folder: str) -> bool:
    """Whether a path is a folder or lies below it, by their names."""
    return (path + os.sep).startswith(folder.rstrip(os.sep) + os.sep)
