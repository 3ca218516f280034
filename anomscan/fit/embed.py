"""The features of normal images, and what tells one set of them from another."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomscan.errors import InputError
from anomscan.files.urls import absolute
from anomscan.images.decode import decode_all
from anomscan.images.find import Found, Unreadable
from anomscan.network.extractor import Extractor
from anomscan.pipeline import available_cores
from anomscan.types import Features, Outputs, Preprocessing, Progress

Take = Callable[[Features, list[str]], None]
"""Takes the patches of n images, (n, rows, columns, C), see ``Outputs``, and their paths."""


@dataclass(frozen=True)
class Passed:
    """Images that passed through the network together, n of them: paths, SHA-256 of the pixels, outputs."""

    paths: list[str]
    digests: list[bytes]
    outputs: Outputs


Embedder = Callable[[list[Found]], Iterator[Passed | Unreadable]]
"""Embeds images, in their order within the readable and within the unreadable ones."""
Engine = Callable[[Path, Preprocessing], Embedder]
"""Makes an embedder of an ONNX graph and what that takes: of this machine, or of others."""


def by(extractor: Extractor, preprocessing: Preprocessing, threads: int | None = None) -> Embedder:
    """An embedder of this machine; as many threads decode as there are cores, or as are named."""

    def embedder(sources: list[Found]) -> Iterator[Passed | Unreadable]:
        for batch in extractor.embed(decode_all(sources, preprocessing, threads or available_cores())):
            if isinstance(batch, Unreadable):
                yield batch
            else:
                digests = [hashlib.sha256(image.pixels.tobytes()).digest() for image in batch.images]
                yield Passed([image.path for image in batch.images], digests, batch.outputs)

    return embedder


def here(graph: Path, preprocessing: Preprocessing) -> Embedder:
    """The engine of this machine."""
    return by(Extractor(graph, available_cores()), preprocessing)


@dataclass(frozen=True)
class Embedded:
    """Images below ``root``, by absolute path, and their outputs; the unreadable ones apart.

    ``fingerprint`` is the SHA-256 over the relative paths and those of the preprocessed pixels.
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
    embedder: Embedder,
    progress: Progress,
    take: Sequence[Take] = (),
) -> Embedded:
    """Embed ``sources``, images below ``root``; ``what`` is what ``progress`` calls it.

    Each of ``take`` gets the patches of every batch, and the paths, in order; nothing of them is kept here.

    Raises:
        InputError: none of them can be read, or the network gives no numbers.
    """
    collected = _Collected(root, len(sources))
    for passed in embedder(sources):
        if isinstance(passed, Unreadable):
            collected.unreadable.append(passed)
        else:
            collected.add(passed)
            if passed.outputs.patches is not None:
                for each in take:
                    each(passed.outputs.patches, [absolute(path) for path in passed.paths])
        progress(what, len(collected.paths) + len(collected.unreadable), len(sources), "")
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

    def add(self, passed: Passed) -> None:
        features = passed.outputs.image
        if not self.paths:
            self._features = np.empty((self._total, features.shape[1]), np.float32)
        self._features[len(self.paths) : len(self.paths) + len(features)] = features
        self.is_finite &= bool(np.isfinite(features).all())
        for path, digest in zip(passed.paths, passed.digests, strict=True):
            self.paths.append(absolute(path))
            self._hash.update(os.fsencode(os.path.relpath(path, self._root)))
            self._hash.update(digest)

    def whole(self) -> Embedded:
        outputs = Outputs(self._features[: len(self.paths)])
        return Embedded(absolute(self._root), self.paths, outputs, self.unreadable, self._hash.hexdigest())
