"""Packages that an installation may lack: imported where they are used, and named where they are missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from anomscan.errors import MissingExtra


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Import packages of the extra ``name``, which ``what`` needs, in the block.

    Raises:
        MissingExtra: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"{what} needs the package {error.name}: pip install 'anomscan[{name}]'"
        ) from error
