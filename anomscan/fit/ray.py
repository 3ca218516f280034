"""Embedding normals on the machines of a Ray cluster: paths go there and features come back.

The features, in their order, are those of this machine to the last digit, where its processor is of one kind
with theirs and all can be read; what is made of them is made here. See ``cluster`` for how work travels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from anomscan.cluster import CHUNK, chunked, connected
from anomscan.fit.embed import Embedder, Engine, Passed, by
from anomscan.images.find import Found, Unreadable
from anomscan.network.extractor import BATCH, Extractor
from anomscan.types import Preprocessing

_GRAPH = "extractor.onnx"


@contextmanager
def on_cluster(address: str | None = None, chunk: int = CHUNK) -> Iterator[Engine]:
    """An engine whose embedders work on a cluster; normals of several tiles travel fewer at a time.

    Args:
        address: see ``cluster.connected``.
        chunk: images that travel together, a multiple of ``BATCH``.

    Raises:
        MissingExtra, ClusterError: see ``cluster.connected``; before any work.
    """
    with connected(address) as cluster:

        def engine(graph: Path, preprocessing: Preprocessing) -> Embedder:
            files = {_GRAPH: graph.read_bytes()}
            size = max(1, chunk // preprocessing.tile_count // BATCH) * BATCH

            def embedder(sources: list[Found]) -> Iterator[Passed | Unreadable]:
                for answer in cluster.answers(chunked(sources, size), files, Embedding(preprocessing)):
                    yield from answer

            return embedder

        yield engine


@dataclass(frozen=True)
class Embedding:
    """Makes of a graph what embeds by it, see ``cluster.Make``."""

    preprocessing: Preprocessing

    def __call__(self, folder: Path, threads: int) -> Callable[[list[Found]], list[Passed | Unreadable]]:
        """What embeds images; pixels stay where they were read."""
        embedder = by(Extractor(folder / _GRAPH, threads), self.preprocessing, threads)
        return lambda sources: list(embedder(sources))
