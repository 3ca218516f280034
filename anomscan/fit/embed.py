"""The features of normal images, and what tells one set of them from another."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from anomscan.errors import InputError
from anomscan.files.urls import absolute
from anomscan.images.decode import Decoded, decode_all
from anomscan.images.find import Found, Unreadable
from anomscan.network.extractor import Extractor
from anomscan.pipeline import available_cores, counted
from anomscan.types import Features, Outputs, Preprocessing, Progress

Take = Callable[[Features, list[str]], None]
"""Takes the patches of n images, (n, rows, columns, C), see ``Outputs``, and their paths."""


@dataclass(frozen=True)
class Embedded:
    """Images below ``root``, by absolute path, and their outputs; the unreadable ones apart.

    ``fingerprint`` is the SHA-256 over the relative paths and the preprocessed pixels.
    """

    root: str
    paths: list[str]
    outputs: Outputs
    unreadable: list[Unreadable]
    fingerprint: str


def embed(
    what: str,
    root: str,
    sources: list[Found],
    extractor: Extractor,
    preprocessing: Preprocessing,
    progress: Progress,
    take: Sequence[Take] = (),
) -> Embedded:
    """Embed ``sources``, images below ``root``; ``what`` is what ``progress`` calls it.

    Each of ``take`` gets the patches of every batch, and the paths, in order; nothing of them is kept here.

    Raises:
        InputError: none of them can be read, or the network gives no numbers.
    """
    decoded = decode_all(sources, preprocessing, available_cores())
    collected = _Collected(root, len(sources))
    for batch in extractor.embed(counted(what, decoded, len(sources), progress)):
        if isinstance(batch, Unreadable):
            collected.unreadable.append(batch)
        else:
            collected.add(batch.images, batch.outputs)
            if batch.outputs.patches is not None:
                for each in take:
                    each(batch.outputs.patches, [absolute(image.path) for image in batch.images])
    if not collected.is_finite:
        raise InputError("the network gives features of these images that are no numbers")
    if not collected.paths:
        why = f": {collected.unreadable[0].reason}" if collected.unreadable else ""
        raise InputError(f"none of the {len(sources)} normal images can be read{why}")
    return collected.whole()


class _Collected:
    """One array from the start: a million features do not fit twice."""

    def __init__(self, root: str, total: int) -> None:
        self._root, self._total = root, total
        self._features = np.empty((0, 0), np.float32)
        self._hash = hashlib.sha256()
        self.paths: list[str] = []
        self.unreadable: list[Unreadable] = []
        self.is_finite = True

    def add(self, images: list[Decoded], outputs: Outputs) -> None:
        if not self.paths:
            self._features = np.empty((self._total, outputs.image.shape[1]), np.float32)
        self._features[len(self.paths) : len(self.paths) + len(images)] = outputs.image
        self.is_finite &= bool(np.isfinite(outputs.image).all())
        for image in images:
            self.paths.append(absolute(image.path))
            self._hash.update(os.fsencode(os.path.relpath(image.path, self._root)))
            self._hash.update(image.pixels.tobytes())

    def whole(self) -> Embedded:
        outputs = Outputs(self._features[: len(self.paths)])
        return Embedded(absolute(self._root), self.paths, outputs, self.unreadable, self._hash.hexdigest())
