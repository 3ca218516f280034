"""Which of the places that a user names are URLs of a remote storage; all others are on this machine."""

from __future__ import annotations

import os

from anomscan.errors import UsageError
from anomscan.text import printable


def is_url(path: str) -> bool:
    """Whether ``path`` is a URL such as ``s3://bucket/folder``; ``./s3://bucket`` names a local file."""
    scheme, mark, _ = path.partition("://")
    return bool(mark) and len(scheme) > 1 and scheme.isascii() and scheme.isalnum()


def absolute(path: str) -> str:
    """The same place, wherever the program runs: a URL as it is, without a slash behind it."""
    return path.rstrip("/") if is_url(path) else os.path.abspath(path)


def check_local(what: str, *places: str | None) -> None:
    """Raise UsageError where ``what`` is asked for with a URL and works on this machine's disks only."""
    for place in places:
        if place is not None and is_url(place):
            raise UsageError(f"{what} works with files of this machine only, not with {printable(place)}")
