"""The features of the normals and the search among them. The only module that uses FAISS."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import faiss
import numpy as np
from numpy.typing import NDArray

from anomscan.errors import GalleryTooSmall, ModelDamaged
from anomscan.pipeline import available_cores
from anomscan.scoring.info import GalleryInfo
from anomscan.spread import spread_over
from anomscan.types import Features, Metric

if TYPE_CHECKING:
    from anomscan.network.graph import Graph, Value

EXACT_UP_TO = 100_000
"""Largest gallery that is searched exactly: at 1280 features a query of many costs 3 ms there."""


RECALL = 0.95
"""What an inexact gallery must find of the two nearest normals."""


RECALL_QUERIES = 500


_SCANNED, _FEWEST_LISTS = 128, 32
# An inexact search looks at one in so many lists, at no fewer than those, at more where the recall asks for
# it: new images lie farther from the normals than those from each other, their neighbours are harder to find.


_POINTS_A_LIST = 32


_BLOCK = 50_000
_TOGETHER, _APART = 64, 4096
# A query sees past so many vectors of its own set; larger sets are taken out. So many queries at a time.
_LOOKED_AT = 1000
"""Features of a gallery that is read which are looked at: whether they are numbers."""


_PLACE_BITS = 32
"""Of an entry of FAISS's direct map: the place in a list; above them is the list."""
_FAR = -1e30
"""What a graph sorts vectors by that are not looked at."""


SAME, SAME_IN_16_BITS = 1e-4, 1e-3
"""Relative distance up to which two features are of the same image: the rounding of other batch sizes."""


class Gallery:
    """Nearest-neighbour search, by cosine distance or by Euclidean distance.

    It is exact, or, as ``build_fast`` makes it for many normals, over 16-bit features in lists.

    Invariant: a vector of the gallery, searched again, finds itself at a distance of about 0.
    """

    def __init__(self, index: faiss.Index) -> None:
        self._index = index
        self._tolerance = SAME if self.exact else SAME_IN_16_BITS
        if isinstance(index, faiss.IndexIVF):
            index.make_direct_map()  # what ``at`` finds features by

    @classmethod
    def build(cls, features: Features, metric: Metric = "cosine") -> Gallery:
        """A gallery of ``features``, (n, D) float32; for the cosine their rows have norm 1."""
        dim = features.shape[1]
        index = faiss.IndexFlatIP(dim) if metric == "cosine" else faiss.IndexFlatL2(dim)
        index.add(np.ascontiguousarray(features))
        return cls(index)

    @classmethod
    def build_fast(
        cls,
        features: Features,
        metric: Metric,
        seed: int,
        exact_up_to: int | None = None,
        lists_scanned: int | None = None,
    ) -> tuple[Gallery, GalleryInfo]:
        """A gallery that is searched exactly up to ``EXACT_UP_TO`` features, and in lists beyond.

        There are 4 sqrt(n) lists of features that lie together (IVF; Jegou et al. 2011), each component in
        16 bits, and only those next to the query are looked at: as many as it takes to find ``RECALL`` of the
        neighbours. Where even most lists do not find them, 16 bits are too few and the search is exact.

        Args:
            features: (n, D) float32; for the cosine their rows have norm 1.
            metric: what is near.
            seed: of the k-means that makes the lists.
            exact_up_to: another limit than that.
            lists_scanned: how many lists are looked at, whatever they find, where time counts for more.

        Returns:
            The gallery, and what it is: its recall is the measured share of the two nearest *other* normals
            that a normal finds.
        """
        if len(features) <= (EXACT_UP_TO if exact_up_to is None else exact_up_to):
            return cls.build(features, metric), GalleryInfo(vectors=len(features))
        faiss.omp_set_num_threads(available_cores())
        count, dim = features.shape
        lists = round(4 * count**0.5)
        cosine = metric == "cosine"
        code = faiss.METRIC_INNER_PRODUCT if cosine else faiss.METRIC_L2
        coarse = faiss.IndexFlat(dim, code)
        bits = faiss.ScalarQuantizer.QT_fp16
        index = faiss.IndexIVFScalarQuantizer(coarse, dim, lists, bits, code, False)
        index.cp.seed, index.cp.niter, index.cp.spherical = seed, 10, cosine
        index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, _POINTS_A_LIST
        order = np.random.default_rng(seed).permutation(count)
        index.train(features[order[: _POINTS_A_LIST * lists]])
        for start in range(0, count, _BLOCK):
            index.add(features[start : start + _BLOCK])
        gallery = cls(index)
        queries = features[order[-RECALL_QUERIES:]]
        _, exact = faiss.knn(queries, features, 3)
        limit = _squared_distances(queries, features, exact).max(axis=1, keepdims=True)
        index.nprobe = min(lists, lists_scanned or max(_FEWEST_LISTS, lists // _SCANNED))
        while index.nprobe <= lists:
            began = time.thread_time()
            _, found = gallery.search(queries, 3)
            milliseconds = 1e3 * (time.thread_time() - began) / len(queries)
            near = (_squared_distances(queries, features, found) <= limit) & (found >= 0)
            recall = float(np.mean(near.sum(axis=1) - 1) / 2)  # a normal's first neighbour is itself
            if recall >= RECALL or lists_scanned:
                return gallery, GalleryInfo(gallery.kind, recall, None, count, milliseconds)
            index.nprobe *= 2
        return cls.build(features, metric), GalleryInfo(vectors=count)

    @classmethod
    def load(cls, path: Path) -> Gallery:
        """Read a gallery; raises ModelDamaged where ``path`` is not one."""
        try:
            if hasattr(faiss, "set_deserialization_vector_byte_limit"):  # no array is larger than its file
                faiss.set_deserialization_vector_byte_limit(path.stat().st_size)
            gallery = cls(faiss.read_index(os.fspath(path)))
            finite = len(gallery) > 0 and np.isfinite(gallery.some(_LOOKED_AT)).all()
        except (RuntimeError, MemoryError, AssertionError, ValueError) as error:
            raise ModelDamaged(f"FAISS cannot read {path.name}") from error
        if not finite:
            raise ModelDamaged(f"{path.name} holds no features, or such as are no numbers; adapt again")
        return gallery

    def save(self, path: Path) -> None:
        """Write the index to ``path``; raises OSError, which FAISS's own writer does not on a full disk."""
        with open(path, "wb") as file:
            file.write(faiss.serialize_index(self._index).data)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def kind(self) -> str:
        """How it is searched, for the record."""
        if self.exact:
            return "exact"
        lists = faiss.extract_index_ivf(self._index)
        return f"IVF, {lists.nprobe} of {lists.nlist} lists, 16-bit features"

    @property
    def exact(self) -> bool:
        """Whether the search finds the very nearest, in the features as they were added."""
        return isinstance(self._index, faiss.IndexFlat)

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return int(self._index.d)

    def vectors(self) -> Features:
        """The features in the order of adding, (n, D) float32, rounded to 16 bits where not exact."""
        vectors: Features = self._index.reconstruct_n(0, len(self))
        return vectors

    def some(self, most: int) -> Features:
        """At most so many of the features, (m, D) float32, evenly spread over the order of adding."""
        return self.at(spread_over(len(self), most))

    def at(self, positions: NDArray[np.int64]) -> Features:
        """The features at some positions, (m, D) float32."""
        vectors: Features = self._index.reconstruct_batch(positions)
        return vectors

    def holds(self, queries: Features, neighbours: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which queries are vectors of the gallery, up to rounding.

        Args:
            queries: (n, D) float32.
            neighbours: (n,) the position of the vector nearest to each.

        Returns:
            (n,) whether the two are the same; directly, since a distance from an inner product is rounded.
        """
        nearest = self.at(neighbours)
        reach = self._tolerance * np.linalg.norm(nearest, axis=1)
        same: NDArray[np.bool_] = np.linalg.norm(queries - nearest, axis=1) <= reach
        return same

    def graph(self, graph: Graph, queries: Value, k: int) -> tuple[Value, Value]:
        """Add the search for the ``k`` nearest to ``graph``: what ``search`` gives, of queries (n, D).

        All are compared; where the search is in lists, those of other lists than a query's then count as
        farther than any. Euclidean distances are taken of the differences once the neighbours are known: from
        products they would be rounded where they are small.
        """
        vectors = self.vectors()
        held, nearness = graph.constant(vectors), self._nearness_graph(graph, queries, vectors)
        if not self.exact:
            nearness = graph.add("Where", self._looked_at_graph(graph, queries), nearness, _FAR)
        values, neighbours = graph.top(nearness, k)
        if self._cosine:
            return graph.add("Min", graph.add("Max", graph.add("Sub", 1.0, values), 0.0), 2.0), neighbours
        queries = graph.add("Unsqueeze", queries, np.array([1]))
        away = graph.add("Sub", queries, graph.add("Gather", held, neighbours))
        return graph.norm(away, 2), neighbours

    def _nearness_graph(self, graph: Graph, queries: Value, vectors: Features) -> Value:
        """Add what a search sorts by, (n, K), the larger the nearer."""
        if self._cosine:
            return graph.add("Gemm", queries, vectors, transB=1)
        return graph.add("Gemm", queries, vectors, -np.square(vectors).sum(axis=1) / 2, transB=1)

    def _looked_at_graph(self, graph: Graph, queries: Value) -> Value:
        """Add which vectors lie in the lists next to each query, (n, K)."""
        index = faiss.extract_index_ivf(self._index)
        middles = index.quantizer.reconstruct_n(0, index.nlist)
        nearness = self._nearness_graph(graph, queries, middles)
        nearest, _ = graph.top(nearness, index.nprobe)
        lists = graph.add("GreaterOrEqual", nearness, graph.add("ReduceMin", nearest, np.array([1])))
        list_of_each = faiss.vector_to_array(index.direct_map.array) >> _PLACE_BITS
        return graph.add("Gather", lists, list_of_each, axis=1)

    def holds_graph(self, graph: Graph, queries: Value, neighbours: Value) -> Value:
        """Add what ``holds`` does to ``graph``."""
        vectors = self.vectors()
        reach = self._tolerance * np.linalg.norm(vectors, axis=1)
        nearest = graph.add("Gather", graph.constant(vectors), neighbours)
        away = graph.norm(graph.add("Sub", queries, nearest), 1)
        return graph.add("LessOrEqual", away, graph.add("Gather", reach, neighbours))

    @property
    def _cosine(self) -> bool:
        return bool(self._index.metric_type == faiss.METRIC_INNER_PRODUCT)

    def search(self, queries: Features, k: int) -> tuple[Features, NDArray[np.int64]]:
        """The ``k`` nearest normals of each query.

        Args:
            queries: (n, D) float32; for the cosine rows of norm 1.
            k: neighbours, at least 1.

        Returns:
            Distances, (n, k) float32 >= 0, ascending in each row: 1 - cos, at most 2, or Euclidean (not
            squared); and the positions of the normals in the gallery, (n, k) int64.

        Raises:
            GalleryTooSmall: fewer normals than ``k``.
            ModelDamaged: queries of another length.
        """
        if k > len(self):
            raise GalleryTooSmall(
                f"the gallery holds {len(self)} normal image{'s' * (len(self) != 1)}, "
                f"too few for {k} neighbours; the largest possible --k is {len(self)}"
            )
        if queries.shape[1] != self.dim:
            raise ModelDamaged(
                f"the network gives {queries.shape[1]} features and the gallery has {self.dim}; adapt again"
            )
        faiss.omp_set_num_threads(1)  # of this thread: the other cores are at work on the next images
        values, neighbours = self._index.search(np.ascontiguousarray(queries), k)
        if self._cosine:
            return np.clip(1.0 - values, 0.0, 2.0), neighbours
        return np.sqrt(np.maximum(values, 0.0)), neighbours

    def search_apart(
        self, queries: Features, k: int, own: NDArray[np.int64], sets: NDArray[np.int64]
    ) -> tuple[Features, NDArray[np.int64]]:
        """The ``k`` nearest normals of each query that are not of its own set; else as ``search``.

        Args:
            queries: (n, D) float32.
            k: neighbours; where there are fewer others, the farthest of them counts again, and where there is
                no other at all, the farthest of its own.
            own: (n,) the number of the set of each query.
            sets: (K,) that of each vector of the gallery.
        """
        k = min(k, len(self))
        distances = np.empty((len(queries), k), np.float32)
        rows = np.empty((len(queries), k), np.int64)
        numbers, counts = np.unique(sets, return_counts=True)
        large = numbers[(counts > _TOGETHER) & (counts < len(self))]
        near = ~np.isin(own, large)
        beyond = int(counts[~np.isin(numbers, large)].max(initial=0))
        wanted = min(len(self), k + min(beyond, _TOGETHER))
        for start in range(0, len(queries), _APART):
            block = start + np.flatnonzero(near[start : start + _APART])
            found = self.search(queries[block], wanted)
            others = (sets[found[1]] != own[block, None]) & (found[1] >= 0)
            others[:, -1] |= ~others.any(axis=1)
            order = np.argsort(~others, axis=1, kind="stable")[:, :k]
            last = np.maximum(others.sum(axis=1, keepdims=True), 1) - 1
            order = np.take_along_axis(order, np.minimum(np.arange(k), last), axis=1)
            distances[block], rows[block] = (np.take_along_axis(each, order, axis=1) for each in found)
        for number in np.intersect1d(large, own):
            whose, others = own == number, np.flatnonzero(sets != number)
            rest = Gallery.build(self.at(others), "cosine" if self._cosine else "euclidean")
            found = rest.search(queries[whose], min(k, len(rest)))
            missing = ((0, 0), (0, k - found[0].shape[1]))
            distances[whose] = np.pad(found[0], missing, mode="edge")
            rows[whose] = np.pad(others[found[1]], missing, mode="edge")
        return distances, rows


def _squared_distances(queries: Features, features: Features, rows: NDArray[np.int64]) -> Features:
    """(q, k): squared Euclidean distance of each query to its rows of ``features``."""
    distances: Features = np.square(features[rows] - queries[:, None]).sum(axis=2)
    return distances


def kmeans(features: Features, clusters: int, seed: int) -> Features:
    """Centroids of ``features``, (clusters, D) float32.

    Args:
        features: (n, D) float32.
        clusters: at most n.
        seed: of the initial choice.

    Raises:
        GalleryTooSmall: more clusters than rows.
    """
    if clusters > len(features):
        raise GalleryTooSmall(f"{len(features)} normals are too few for {clusters} clusters")
    faiss.omp_set_num_threads(available_cores())
    clustering = faiss.Kmeans(
        features.shape[1], clusters, niter=25, seed=seed, min_points_per_centroid=1, verbose=False
    )
    clustering.train(np.ascontiguousarray(features))
    return np.asarray(clustering.centroids, np.float32)
