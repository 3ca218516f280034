"""What every scorer is: from the outputs of a network to scores, with all that it needs for that."""

from __future__ import annotations

import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from anomscan.errors import ModelDamaged, UsageError
from anomscan.scoring.gallery import Gallery
from anomscan.scoring.info import DEFAULT_K, GalleryInfo, ScorerInfo
from anomscan.types import Arrays, Features, Outputs, PatchMaps, Rows

if TYPE_CHECKING:
    from anomscan.network.graph import Graph, GraphOutputs, Value
    from anomscan.scoring.patches import NormalPatches
    from anomscan.scoring.reduction import Reduction
    from anomscan.scoring.rejects import Rejects

INDEX, SCORER = "index", "scorer"
"""Roles of a scorer's files: the gallery, and the arrays that it learnt."""

NOT_ARRAYS = (
    ValueError,
    TypeError,
    KeyError,
    OSError,
    EOFError,
    MemoryError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What numpy raises on a file that does not hold the arrays of an ``.npz``."""


def knn_score(distances: Features) -> Features:
    """Sum of the distances from each query to its k nearest normals.

    Larger is more anomalous. With L2-normalised features the unit is cosine distance, 1 - cos, in
    [0, 2] per neighbour (DN2; Mean-Shifted Contrastive, eq. 5).

    Args:
        distances: (n, k) float32, ascending in each row, each >= 0.

    Returns:
        (n,) float32, >= 0.
    """
    scores: Features = distances.sum(axis=1)
    return scores


@dataclass(frozen=True)
class Indexed:
    """What became of the normals: which one each vector of the gallery stands for, and what is searched."""

    rows: Rows
    gallery: GalleryInfo


@dataclass(frozen=True)
class Judged:
    """What a scorer says of n images.

    ``scores`` is (n,), larger is more anomalous; ``nearest`` (n,) the position of the nearest normal in the
    gallery; ``known`` (n,) whether it is one of them; ``aspects`` the scores that make up the score;
    ``outputs`` what it went by: features that go with those of the gallery, (n, D), and maps of the images.
    """

    scores: Features
    nearest: Rows
    known: NDArray[np.bool_]
    aspects: dict[str, Features]
    outputs: Outputs


@dataclass(frozen=True)
class Apart:
    """Which normals of the gallery do not count for which of n images that are among them.

    ``own`` is (n,), a number for each image, and ``vectors`` (K,) one for each vector of the gallery: those
    with the same do not count. ``paths`` gives the number by the normal's path, for galleries of patches,
    whose differences are multiplied by ``metric``, (C, C), if there is one.
    """

    own: Rows
    vectors: Rows
    paths: Mapping[str, int]
    metric: Features | None = None

    def each(self, times: int) -> Apart:
        """The same of images in so many tiles each."""
        return replace(self, own=np.repeat(self.own, times))


class Scorer(ABC):
    """Turns outputs into scores by what it learnt from the normals; owns its galleries and its files.

    A new scorer is a class in a file of this folder and a line in ``registry``.

    Args:
        info: what the manifest records of it.
        arrays: what it learnt, or, before ``fit``, what the network's training left for it.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    """Arrays that only certain methods learn, without which it cannot score."""
    uses_neighbours: bool = False
    """Whether ``k`` means anything."""
    exclusive: ClassVar[bool] = False
    """Whether features made for it make no sense to another scorer."""
    takes_centroids: ClassVar[bool] = True
    """Whether its gallery may hold vectors that are no normal's."""

    @property
    def compares_apart(self) -> bool:
        """Whether it can score the normals of its gallery each without itself, exactly: see ``apart``."""
        return False

    patches: NormalPatches | None = None
    """What it compares patches with, if it does."""
    rejects: Rejects | None = None
    """Missed anomalies, whose like score higher, if there are any."""

    def __init__(self, info: ScorerInfo, arrays: Arrays | None = None) -> None:
        self.info = info
        self.arrays = dict(arrays or {})
        self.gallery: Gallery

    @classmethod
    def parse(cls, text: str) -> ScorerInfo | None:
        """What ``text`` on the command line means for this class; None where it is spelled otherwise."""
        return ScorerInfo(cls.name) if text == cls.name else None

    @classmethod
    def describe(cls, info: ScorerInfo) -> str:
        """One line for a person."""
        neighbours = f", k = {info.k}" if cls.uses_neighbours else ""
        return f"{info.name}{neighbours}, {info.metric} distance"

    @classmethod
    def check(cls, reduction: Reduction | None) -> None:
        """Raise UsageError where the gallery cannot be reduced like that."""
        if reduction is not None and not (cls.takes_centroids or reduction.keeps_normals):
            raise UsageError(f"the scorer {cls.name} cannot search among centroids; reduce with coreset:K")

    def fit(self, normals: Outputs, seed: int, reduction: Reduction | None = None) -> Indexed:
        """Learn from the normals and build the gallery, of all of them or of a few that stand for them.

        Of fewer normals than neighbours, all are neighbours.

        Raises:
            GalleryTooSmall: fewer normals than centroids or than ``reduction`` asks for.
        """
        self.learn(normals.image, seed)
        searched, rows = normals.image, np.arange(len(normals))
        if reduction is not None:
            searched, rows = reduction.apply(normals.image, self.info.metric, seed)
        self.info = replace(self.info, k=min(max(self.info.k, DEFAULT_K), len(searched)))
        self.gallery, info = Gallery.build_fast(searched, self.info.metric, seed)
        self.score(Outputs(normals.image[:1]), self.info.k)
        return Indexed(rows, replace(info, reduced=str(reduction) if reduction else None))

    @abstractmethod
    def learn(self, features: Features, seed: int) -> None:
        """Set ``arrays`` from the normals' features, (n, D)."""

    @abstractmethod
    def score(self, outputs: Outputs, k: int) -> Features:
        """The scores of n images, (n,) float32, larger is more anomalous."""

    @property
    def whole(self) -> Scorer:
        """The part that scores images as a whole."""
        return self

    def compared(self, outputs: Outputs) -> Outputs:
        """The same outputs with what is large brought down to what ``score`` needs of it.

        It is called in the thread that embedded the images, so that nothing large waits.
        """
        return replace(outputs, patches=None)

    def aspects(self, outputs: Outputs, k: int) -> dict[str, Features]:
        """The scores that make up the score, by name, each (n,); empty where it is a single one."""
        return {}

    def score_and_nearest(self, outputs: Outputs, k: int) -> tuple[Features, Rows]:
        """The same, and the position of the nearest normal, (n,), by a search for it."""
        return self.score(outputs, k), self.gallery.search(outputs.image, 1)[1][:, 0]

    def judge(self, outputs: Outputs, k: int) -> Judged:
        """All that is said of n images; raises ModelDamaged where scores are no numbers."""
        scores, nearest = self.score_and_nearest(outputs, k)
        if not (np.isfinite(scores).all() and np.isfinite(outputs.image).all()):
            raise ModelDamaged("the model gives scores that are no numbers; adapt again")
        known = self.gallery.holds(outputs.image, nearest)
        return Judged(scores, nearest, known, self.aspects(outputs, k), outputs)

    def known(self, features: Features) -> NDArray[np.bool_]:
        """Which of n images, by their features as the network gives them, are normals of the gallery."""
        return self.gallery.holds(features, self.gallery.search(features, 1)[1][:, 0])

    def among_others(self, normals: Outputs, tiles: int, rows: Rows) -> Features:
        """The scores of normals of the gallery, each without itself.

        Args:
            normals: all of them; ``tiles`` in a row are of one image, and do without each other.
            tiles: 1 where they are whole images.
            rows: (K,) which of them each vector of the gallery is.
        """
        others = self.info.k + self.uses_neighbours * (len(self.gallery) > self.info.k)
        return self.score(normals, others)  # a normal's own neighbour is at distance 0

    def apart(self, outputs: Outputs, k: int, apart: Apart) -> Features:
        """The scores of n normals of the gallery by the others, (n,) float32: for ``compares_apart``.

        Args:
            outputs: theirs, with patches where these are looked at.
            k: neighbours.
            apart: what leaves the gallery for each.

        Raises:
            GalleryTooSmall: fewer than ``k`` others are left for one of them.
            UsageError: the scorer does not go by neighbours alone.
        """
        raise UsageError(f"the scorer {self.info.name} cannot leave a normal out")

    def reject(self, rejects: Rejects | None) -> None:
        """Let what is like missed anomalies score higher from now on, or, with None, no longer.

        Raises:
            ModelDamaged: they are not of the network whose features are in the gallery.
        """
        self.rejects = rejects

    def why_no_rejects(self) -> str | None:
        """Why it cannot learn from missed anomalies, and what can; None where it can."""
        return (
            f"the scorer {self.info.name} does not go by the distance to neighbours, and a reject is one; "
            "index or adapt again with --scorer knn"
        )

    def mean(self, features: Features) -> Features:
        """The features of whole images, (n, D), from those that the network gives."""
        return features

    def pictured(self, maps: PatchMaps) -> PatchMaps:
        """The maps of whole images from those of what the network looks at."""
        return maps

    def origin(self, position: int) -> tuple[str, int, int]:
        """The normal that a patch of the gallery came from, and its row and column in such a map."""
        assert self.patches is not None  # noqa: S101 - without patches there are no positions
        return self.patches.origin(position)

    def graph(self, graph: Graph, outputs: GraphOutputs) -> Value:
        """Add what ``score`` does to ``graph``, with the k of the model; the value is (N,).

        Raises:
            UsageError: nobody has said how, for this scorer.
        """
        raise UsageError(f"the scorer {self.info.name} cannot be written as ONNX; leave --with-scorer out")

    def compared_graph(self, graph: Graph, patches: Value) -> Value | None:
        """Add what ``compared`` does to ``graph``: of patches (N, rows, columns, C) the distances.

        None where patches are not looked at.
        """
        return None if self.patches is None else self.patches.graph(graph, patches)

    def save(self, folder: Path) -> dict[str, Path]:
        """Write its files into ``folder``; returns them by role."""
        files = {INDEX: folder / "index.faiss", SCORER: folder / "scorer.npz"}
        self.gallery.save(files[INDEX])
        np.savez(files[SCORER], **self.arrays)  # type: ignore[arg-type]
        return files

    @classmethod
    def load(cls, info: ScorerInfo, files: Mapping[str, Path]) -> Self:
        """Read it back from its files; nothing in them is executed. Raises ModelDamaged."""
        scorer = cls(info, read_arrays(files[SCORER]))
        if not cls.needs <= scorer.arrays.keys():
            raise ModelDamaged(f"{files[SCORER].name} lacks what the scorer {info.name} needs; adapt again")
        scorer.gallery = Gallery.load(files[INDEX])
        try:
            scorer.score(Outputs(scorer.gallery.some(1)), min(max(info.k, 1), len(scorer.gallery)))
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise ModelDamaged(
                f"{files[SCORER].name} and {files[INDEX].name} do not go together; adapt again"
            ) from error
        return scorer


def read_arrays(path: Path) -> Arrays:
    """The arrays that a scorer learnt; raises ModelDamaged where ``path`` does not hold any."""
    try:
        with open(path, "rb") as file:
            size = path.stat().st_size
            with zipfile.ZipFile(file) as members:
                if any(
                    member.file_size > size for member in members.infolist()
                ):  # none that we write is packed
                    raise ValueError("an array is larger than its file")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
    except NOT_ARRAYS as error:
        raise ModelDamaged(f"{path.name} does not hold arrays; adapt again") from error


def cosine_or_euclidean(text: str, name: str) -> ScorerInfo | None:
    """A scorer of that name by the cosine, or, with ``-euclidean`` behind it, by Euclidean distance."""
    if text == name:
        return ScorerInfo(name)
    return ScorerInfo(name, DEFAULT_K, "euclidean") if text == f"{name}-euclidean" else None
