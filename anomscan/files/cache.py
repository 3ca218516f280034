"""Files of remote models, kept on this machine: each under its SHA-256, so that it is right or not there."""

from __future__ import annotations

import os
from pathlib import Path

from anomscan.files.atomic import sha256
from anomscan.files.parts import part_in
from anomscan.files.remote import REMOTE


def cache_folder() -> Path:
    """Where they are: below ``$XDG_CACHE_HOME``, or ``~/.cache``; what is there may be removed any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "anomscan")


def cached(url: str, digest: str) -> Path | None:
    """A local file with the content of ``url``, brought here where it is not yet.

    Args:
        url: where it is.
        digest: its SHA-256, which is verified every time.

    Returns:
        None where ``url`` has another content.

    Raises:
        OSError: it cannot be read, or not be kept.
    """
    folder = cache_folder()
    place = folder / f"{digest}{Path(url).suffix}"
    if place.is_file() and sha256(place) == digest:
        return place
    folder.mkdir(parents=True, exist_ok=True)
    with part_in(folder) as part:
        REMOTE.fetch(url, part)
        if sha256(part) != digest:
            return None
        part.replace(place)
    return place
