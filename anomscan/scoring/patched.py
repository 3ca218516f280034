"""What every scorer that compares patches is: over another one, which scores whole images.

By itself it is what the papers do: the score is what the patches come to, in the paper's own unit.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from anomscan.errors import ModelDamaged, UsageError
from anomscan.scoring.bank import MOST, Bank
from anomscan.scoring.base import Indexed, Scorer
from anomscan.scoring.info import GalleryInfo, Looks, PatchInfo, Spread
from anomscan.scoring.patches import PATCHES, PLACES, NormalPatches
from anomscan.scoring.reduction import Reduction
from anomscan.types import Features, Outputs, PatchMaps

if TYPE_CHECKING:
    from anomscan.network.graph import Graph, GraphOutputs, Value

DARK = 0.95
"""Share of the normals whose hottest patch is dark in a picture."""
BRIGHT = 2.0
"""A patch that is so many times as far as that is as bright as any."""
SMALLEST = 1e-6
UNKNOWN = Spread(0.0, 1.0)

Store = TypeVar("Store", bound=NormalPatches)


class Patched(Scorer, Generic[Store]):
    """A scorer over another one, of whole images, that compares patches with those of the normals.

    A new one is a class in a file of this folder and a line in ``registry.PROCEDURES``.

    Args:
        image: scores whole images; its gallery also tells the nearest normal and copies.
        looks: at patches, or at both.
        patches: what to compare with, and ``info`` what it is; by ``fit`` or ``over``.
    """

    title: ClassVar[str]
    """What people call it."""
    most: ClassVar[int] = MOST
    """Patches of normals that are kept where no other number was asked for."""
    banks: ClassVar[type[Bank]] = Bank
    """What gathers them."""
    roles: ClassVar[tuple[str, ...]] = (PATCHES, PLACES)
    """Of the files that it has beside those of the scorer of whole images."""
    ranks_by_patches: ClassVar[bool] = True
    """Whether the score of an image comes from its patches."""

    patches: Store

    def __init__(self, image: Scorer, looks: Looks, patches: Store, info: PatchInfo) -> None:
        super().__init__(image.info, image.arrays)
        self.image, self.looks, self.patch_info = image, looks, info
        self.patches = patches
        self._sample: tuple[NDArray[np.int32], Features] | None = None
        self._tiles = 1
        if hasattr(image, "gallery"):
            self.gallery = image.gallery

    @classmethod
    def of(
        cls,
        image: Scorer,
        looks: Looks,
        bank: Bank,
        seed: int,
        weight: float = 1.0,
        known: PatchInfo | None = None,
    ) -> Self:
        """A scorer yet to be fitted on whole images, with the patches of a bank.

        ``weight`` is that of the whole image, where both count; ``known`` what an earlier fit measured, kept
        where normals were added or removed.
        """
        patches, gallery = cls.stored(bank, seed)
        if known is not None:
            return cls(image, looks, patches, replace(known, gallery=gallery))
        named: Literal["patch", "both"] = "patch" if looks == "patch" else "both"
        unknown = (UNKNOWN, UNKNOWN, UNKNOWN)
        info = PatchInfo(named, gallery, *unknown, SMALLEST, BRIGHT * SMALLEST, weight, bank.most)
        scorer = cls(image, looks, patches, info)
        scorer._sample, scorer._tiles = bank.sample(), bank.tiles
        return scorer

    @classmethod
    @abstractmethod
    def stored(cls, bank: Bank, seed: int) -> tuple[Store, GalleryInfo]:
        """What is made of the patches of a bank, and what the manifest records of it."""

    @classmethod
    @abstractmethod
    def over(cls, image: Scorer, info: PatchInfo, files: Mapping[str, Path]) -> Self:
        """Read the patches back and set them over a loaded scorer of whole images; raises ModelDamaged."""

    @property
    def whole(self) -> Scorer:
        """The part that scores images as a whole."""
        return self.image

    def fit(self, normals: Outputs, seed: int, reduction: Reduction | None = None) -> Indexed:
        """As every scorer, on the whole images; patches of a few normals are measured by the others'."""
        indexed = self.image.fit(normals, seed, reduction)
        self.info, self.arrays, self.gallery = self.image.info, self.image.arrays, self.image.gallery
        if self._sample is not None:
            self.patch_info = self.measured(self.among_other_patches(*self._sample, normals))
        return indexed

    def learn(self, features: Features, seed: int) -> None:
        """What the scorer of whole images learns."""
        self.image.learn(features, seed)

    @abstractmethod
    def compare(self, outputs: Outputs, patches: Features) -> PatchMaps:
        """The maps of n images by their patches, (n, rows, columns, C); none depends on another."""

    def measured(self, distances: Features) -> PatchInfo:
        """What is dark, by the maps of some normals by the others, (m, rows, columns), of a tile each."""
        return self._darkest(distances, 1 - (1 - DARK) / self._tiles)

    @abstractmethod
    def among_other_patches(
        self, positions: NDArray[np.int32], patches: Features, normals: Outputs
    ) -> Features:
        """Distances of the patches of some of m normals, (m, rows, columns, C), by those of the others.

        ``positions``, (m,), are those of the normals in a list of all; ``normals`` are all of them, whole.
        """

    @abstractmethod
    def patches_apart(self, own: NDArray[np.int64], sets: NDArray[np.int64], patches: Features) -> Features:
        """What the patches of m normals, (m, rows, columns, C), come to by those of the others, (m,).

        ``sets`` is a number for each of ``patches.paths``, the same for copies; ``own`` that of each of m.
        """

    def compared(self, outputs: Outputs) -> Outputs:
        """Distances in the place of patches."""
        if outputs.patches is None:
            return outputs
        return replace(outputs, patches=None, maps=self.compare(outputs, outputs.patches))

    def patch_scores(self, maps: PatchMaps) -> Features:
        """What the patches of n images come to, (n,)."""
        if maps.scores is None:
            raise ModelDamaged("the patches of these images were compared by another scorer; adapt again")
        return maps.scores

    def aspects(self, outputs: Outputs, k: int) -> dict[str, Features]:
        """Both scores, each in its own unit."""
        maps = self.compared(outputs).maps
        if maps is None:
            raise ModelDamaged("the extractor gives no patches and the model scores by them; adapt again")
        return {"image_score": self.image.score(outputs, k), "patch_score": self.patch_scores(maps)}

    def score(self, outputs: Outputs, k: int) -> Features:
        """What the patches come to."""
        return self.aspects(outputs, k)["patch_score"]

    def why_no_rejects(self) -> str | None:
        """A paper's score stays the paper's."""
        return (
            f"the model scores as the paper of {self.title} does, which knows no missed anomalies; adapt "
            "again by another method"
        )

    def graph(self, graph: Graph, outputs: GraphOutputs) -> Value:
        """None, unless somebody says how; raises UsageError."""
        raise UsageError(f"the scorer of {self.title} cannot be written as ONNX; leave --with-scorer out")

    def look_normal(self, maps: PatchMaps) -> None:
        """Let pictures of normals be dark, by the maps of some that are none of its own."""
        self.patch_info = self._darkest(maps.distances, DARK)

    def _darkest(self, distances: Features, share: float) -> PatchInfo:
        dark = max(float(np.quantile(distances.max(axis=(1, 2)), share)), SMALLEST)
        return replace(self.patch_info, dark=dark, bright=BRIGHT * dark)

    def save(self, folder: Path) -> dict[str, Path]:
        """Its files beside those of the scorer of whole images."""
        return {**self.image.save(folder), **self.patches.save(folder)}
