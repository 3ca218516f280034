"""Scores by the patches of an image, or by its patches and the image as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from anomscan.errors import ModelDamaged
from anomscan.scoring.bank import Bank
from anomscan.scoring.base import Apart, Indexed, Scorer
from anomscan.scoring.info import GalleryInfo, PatchInfo, Spread
from anomscan.scoring.patched import SMALLEST, UNKNOWN, Patched
from anomscan.scoring.patches import PatchGallery, averages, in_peak, peaks
from anomscan.scoring.reduction import Reduction
from anomscan.scoring.rejects import PATCH_MARGIN, Rejects, raised, raised_graph, raised_maps
from anomscan.types import Features, Outputs, PatchMaps

if TYPE_CHECKING:
    from anomscan.network.graph import Graph, GraphOutputs, Value

_NARROWEST = 1e-3
_FAR = 12.0
"""Standard deviations below the normals' mean that a score is at least; a copy has none."""


class Focused(Patched[PatchGallery]):
    """The distances of the patches, alone or with what another scorer makes of the whole image.

    All are brought to a scale on which they spread alike: the logarithm, minus the mean of those of the
    normals, over their standard deviation, measured on normals, each among the *others*. The patches' score
    is the larger of that of their peak, which a small defect raises, and of their average, which a large one
    does; with that of the whole image it is averaged.
    """

    name = "focused"
    title = "anomscan"

    def fit(self, normals: Outputs, seed: int, reduction: Reduction | None = None) -> Indexed:
        """As every scorer, on the whole images; and how their scores spread."""
        indexed = super().fit(normals, seed, reduction)
        if self.patch_info.image == UNKNOWN:
            spread = _spread(self.image.among_others(normals, self._tiles, indexed.rows))
            self.patch_info = replace(self.patch_info, image=spread)
        return indexed

    @classmethod
    def stored(cls, bank: Bank, seed: int) -> tuple[PatchGallery, GalleryInfo]:
        """A gallery of what the bank holds."""
        return PatchGallery.build(bank, seed)

    def compare(self, outputs: Outputs, patches: Features) -> PatchMaps:
        """By the nearest patch of a normal, and of a reject where there are any."""
        maps = self.patches.maps(patches)
        return (
            maps
            if self._rejected is None
            else raised_maps(maps, self._rejected.maps(patches), len(self.patches))
        )

    def reject(self, rejects: Rejects | None) -> None:
        """Compare with these from now on, whole images and patches."""
        self.image.reject(rejects)
        if rejects is not None:
            held, own = rejects.patches, self.patches
            if held is None or (rejects.grid, held.features.shape[1]) != (own.grid, own.gallery.dim):
                raise ModelDamaged("the rejects of the model do not go with its patches; adapt again")
        self.rejects = rejects

    def why_no_rejects(self) -> str | None:
        """What the scorer of whole images says."""
        return self.image.why_no_rejects()

    @property
    def _rejected(self) -> PatchGallery | None:
        return None if self.rejects is None else self.rejects.counting

    def origin(self, position: int) -> tuple[str, int, int]:
        """See there; positions behind those of the normals' patches are of rejects."""
        if self._rejected is not None and position >= len(self.patches):
            return self._rejected.origin(position - len(self.patches))
        return super().origin(position)

    def among_other_patches(
        self, positions: NDArray[np.int32], patches: Features, normals: Outputs
    ) -> Features:
        """Without those of the same normal."""
        return self.patches.maps_without(positions, patches)

    def measured(self, distances: Features) -> PatchInfo:
        """And how peaks and averages spread."""
        info = super().measured(distances)
        return replace(info, peak=_spread(peaks(distances)), average=_spread(averages(distances)))

    def patches_apart(self, own: NDArray[np.int64], sets: NDArray[np.int64], patches: Features) -> Features:
        """Their peaks."""
        return peaks(self.patches.maps_apart(own, sets, patches))

    def patch_scores(self, maps: PatchMaps) -> Features:
        """In standard deviations of the normals': of their peak or of their average."""
        return self._of_patches(maps.distances)

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
        if self.rejects is not None:
            distances = self._raised_apart(distances, self.rejects, outputs.patches, apart)
        return self._both(self._of_patches(distances), self.image.apart(outputs, k, apart))

    def _raised_apart(
        self, distances: Features, rejects: Rejects, patches: Features, apart: Apart
    ) -> Features:
        """Distances of normals to the others beside rejects, by what counts for each of them."""
        found = distances.copy()
        for number in np.unique(apart.own):
            near, rows = rejects.beside(apart.paths, int(number)), np.flatnonzero(apart.own == number)
            if near is not None:
                none, others = np.zeros(len(rows), np.int64), np.ones(len(near.paths), np.int64)
                away = near.maps_apart(none, others, patches[rows], apart.metric)
                found[rows] = raised(distances[rows], away, PATCH_MARGIN)
        return found

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

    def compared_graph(self, graph: Graph, patches: Value) -> Value:
        """The distances to the nearest patch of a normal, raised beside rejects."""
        distances = self.patches.graph(graph, patches)
        if self._rejected is None:
            return distances
        return raised_graph(graph, distances, self._rejected.graph(graph, patches), PATCH_MARGIN)

    @classmethod
    def over(cls, image: Scorer, info: PatchInfo, files: Mapping[str, Path]) -> Self:
        """Read the patches back and set them over a loaded scorer of whole images; raises ModelDamaged."""
        return cls(image, info.looks, PatchGallery.load(files), info)


def _spread(scores: Features) -> Spread:
    logs = np.log(np.maximum(scores.astype(np.float64), SMALLEST))
    return Spread(float(logs.mean()), max(float(logs.std()), _NARROWEST))


def _standard(scores: Features, spread: Spread) -> Features:
    logs = np.log(np.maximum(scores, SMALLEST))
    return np.maximum((logs - spread.mean) / spread.deviation, -_FAR).astype(np.float32)


def _standard_graph(graph: Graph, scores: Value, spread: Spread) -> Value:
    logs = graph.add("Log", graph.add("Max", scores, SMALLEST))
    return graph.add("Max", graph.add("Div", graph.add("Sub", logs, spread.mean), spread.deviation), -_FAR)
