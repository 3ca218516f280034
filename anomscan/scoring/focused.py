"""Scores by the patches of an image, or by its patches and the image as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from anomscan.errors import ModelDamaged
from anomscan.scoring.bank import Bank
from anomscan.scoring.base import Apart, Indexed, Scorer
from anomscan.scoring.info import Looks, PatchInfo, Spread
from anomscan.scoring.patches import PatchGallery, averages, in_peak, peaks
from anomscan.scoring.reduction import Reduction
from anomscan.types import Features, Outputs, PatchMaps

if TYPE_CHECKING:
    from anomscan.network.graph import Graph, GraphOutputs, Value

DARK = 0.95
"""Share of the normals whose hottest patch is dark in a picture."""
BRIGHT = 2.0
"""A patch that is so many times as far as that is as bright as any."""
_SMALLEST, _NARROWEST = 1e-6, 1e-3
_FAR = 12.0
"""Standard deviations below the normals' mean that a score is at least; a copy has none."""

_UNKNOWN = Spread(0.0, 1.0)


class Focused(Scorer):
    """The distances of the patches, alone or with what another scorer makes of the whole image.

    All are brought to a scale on which they spread alike: the logarithm, minus the mean of those of the
    normals, over their standard deviation, measured on normals, each among the *others*. The patches' score
    is the larger of that of their peak, which a small defect raises, and of their average, which a large one
    does; with that of the whole image it is averaged.

    Args:
        image: scores whole images; its gallery also tells the nearest normal and copies.
        looks: at patches, or at both.
        patches: what to compare with, and ``info`` what it is; by ``fit`` or ``load``.
    """

    name = "focused"

    def __init__(self, image: Scorer, looks: Looks, patches: PatchGallery, info: PatchInfo) -> None:
        super().__init__(image.info, image.arrays)
        self.image, self.looks, self.patch_info = image, looks, info
        self.patches: PatchGallery = patches
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

        ``weight`` is that of the whole image; ``known`` what an earlier fit measured, kept where normals were
        added or removed.
        """
        patches, gallery = PatchGallery.build(bank, seed)
        if known is not None:
            return cls(image, looks, patches, replace(known, gallery=gallery))
        positions, sample = bank.sample()
        distances = patches.maps_without(positions, sample)
        hottest = distances.max(axis=(1, 2))
        dark = max(float(np.quantile(hottest, 1 - (1 - DARK) / bank.tiles)), _SMALLEST)
        info = PatchInfo(
            looks="patch" if looks == "patch" else "both",
            gallery=gallery,
            image=_UNKNOWN,
            peak=_spread(peaks(distances)),
            average=_spread(averages(distances)),
            dark=dark,
            bright=BRIGHT * dark,
            weight=weight,
            most=bank.most,
        )
        focused = cls(image, looks, patches, info)
        focused._tiles = bank.tiles
        return focused

    @property
    def whole(self) -> Scorer:
        """The part that scores images as a whole."""
        return self.image

    def fit(self, normals: Outputs, seed: int, reduction: Reduction | None = None) -> Indexed:
        """As every scorer, on the whole images."""
        indexed = self.image.fit(normals, seed, reduction)
        self.info, self.arrays, self.gallery = self.image.info, self.image.arrays, self.image.gallery
        if self.patch_info.image == _UNKNOWN:
            spread = _spread(self.image.among_others(normals, self._tiles, indexed.rows))
            self.patch_info = replace(self.patch_info, image=spread)
        return indexed

    def learn(self, features: Features, seed: int) -> None:
        """What the scorer of whole images learns."""
        self.image.learn(features, seed)

    def compared(self, outputs: Outputs) -> Outputs:
        """Distances in the place of patches."""
        if outputs.patches is None:
            return outputs
        return replace(outputs, patches=None, maps=self.patches.maps(outputs.patches))

    def aspects(self, outputs: Outputs, k: int) -> dict[str, Features]:
        """Both scores: the image's in its own unit, the patches' in standard deviations of the normals'."""
        maps = self.compared(outputs).maps
        if maps is None:
            raise ModelDamaged("the extractor gives no patches and the model scores by them; adapt again")
        return {"image_score": self.image.score(outputs, k), "patch_score": self._of_patches(maps.distances)}

    def score(self, outputs: Outputs, k: int) -> Features:
        """That of the patches, or the weighted mean of both, in standard deviations of the normals'."""
        aspects = self.aspects(outputs, k)
        return self._both(aspects["patch_score"], aspects["image_score"])

    @property
    def compares_apart(self) -> bool:
        """Where the scorer of whole images does."""
        return self.image.compares_apart

    def apart(self, outputs: Outputs, k: int, apart: Apart) -> Features:
        """See there; a normal's patches leave the gallery with it, whose selection is not made again."""
        if outputs.patches is None:
            raise ModelDamaged("the extractor gives no patches and the model scores by them; adapt again")
        known = np.array([apart.paths.get(path, -1) for path in self.patches.paths], np.int64)
        distances = self.patches.maps_apart(apart.own, known, outputs.patches, apart.metric)
        return self._both(self._of_patches(distances), self.image.apart(outputs, k, apart))

    def _of_patches(self, distances: Features) -> Features:
        peak = _standard(peaks(distances), self.patch_info.peak)
        average = _standard(averages(distances), self.patch_info.average)
        return np.maximum(peak, average)

    def _both(self, patch: Features, image: Features) -> Features:
        if self.looks == "patch":
            return patch
        weight = self.patch_info.weight
        whole = _standard(image, self.patch_info.image)
        return ((patch + weight * whole) / (1 + weight)).astype(np.float32)

    def graph(self, graph: Graph, outputs: GraphOutputs) -> Value:
        """The patches' score, or the weighted mean of both."""
        if outputs.distances is None:
            raise ModelDamaged("the extractor gives no patches and the model scores by them; adapt again")
        rows, columns = self.patches.grid
        flat, count = graph.shaped(outputs.distances, -1, rows * columns), in_peak(rows * columns)
        peak = graph.add("Div", graph.sum(graph.top(flat, count)[0], 1), float(count))
        average = graph.add("Div", graph.sum(flat, 1), float(rows * columns))
        info = self.patch_info
        patch = graph.add(
            "Max", _standard_graph(graph, peak, info.peak), _standard_graph(graph, average, info.average)
        )
        if self.looks == "patch":
            return patch
        image = _standard_graph(graph, self.image.graph(graph, outputs), info.image)
        both = graph.add("Add", patch, graph.add("Mul", image, info.weight))
        return graph.add("Div", both, 1 + info.weight)

    def searched_exactly(self) -> Scorer:
        """The scorer of whole images and the patches, both."""
        image, patches = self.image.searched_exactly(), self.patches.searched_exactly()
        if image is self.image and patches is self.patches:
            return self
        return Focused(image, self.looks, patches, self.patch_info)

    def look_normal(self, maps: PatchMaps) -> None:
        """Let pictures of normals be dark, by the maps of some that are none of its own."""
        dark = max(float(np.quantile(maps.distances.max(axis=(1, 2)), DARK)), _SMALLEST)
        self.patch_info = replace(self.patch_info, dark=dark, bright=BRIGHT * dark)

    def save(self, folder: Path) -> dict[str, Path]:
        """Its files beside those of the scorer of whole images."""
        return {**self.image.save(folder), **self.patches.save(folder)}

    @classmethod
    def over(cls, image: Scorer, info: PatchInfo, files: Mapping[str, Path]) -> Focused:
        """Read the patches back and set them over a loaded scorer of whole images; raises ModelDamaged."""
        return cls(image, info.looks, PatchGallery.load(files), info)


def _spread(scores: Features) -> Spread:
    logs = np.log(np.maximum(scores.astype(np.float64), _SMALLEST))
    return Spread(float(logs.mean()), max(float(logs.std()), _NARROWEST))


def _standard(scores: Features, spread: Spread) -> Features:
    logs = np.log(np.maximum(scores, _SMALLEST))
    return np.maximum((logs - spread.mean) / spread.deviation, -_FAR).astype(np.float32)


def _standard_graph(graph: Graph, scores: Value, spread: Spread) -> Value:
    logs = graph.add("Log", graph.add("Max", scores, _SMALLEST))
    return graph.add("Max", graph.add("Div", graph.add("Sub", logs, spread.mean), spread.deviation), -_FAR)
