"""A whole model as one ONNX graph: from an image to its score and its p-value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import anomscan
from anomscan.errors import ModelDamaged
from anomscan.images.decode import Decoded
from anomscan.images.find import Unreadable
from anomscan.images.part import described
from anomscan.model.folder import verified
from anomscan.model.manifest import Manifest
from anomscan.model.model import Model
from anomscan.network.extractor import IMAGE, PATCHES, Extractor
from anomscan.network.graph import Graph, GraphOutputs
from anomscan.network.network import EXTRACTOR
from anomscan.scoring.base import Scorer
from anomscan.scoring.registry import scorer_class
from anomscan.stats.calibration import Calibration, Floats
from anomscan.types import Features, Outputs, Rows

SCORE, P_VALUE, FEATURES, NEAREST, MAP = "score", "p_value", "features", "nearest", "map"
"""What the outputs are called."""
ROUNDING = 2.0**-21
"""How far apart, relative, two programs may leave one feature that is computed in 32 bits."""


@dataclass(frozen=True)
class Results:
    """What a model makes of n images.

    ``scores`` is (n,), ``p_values`` (n,) or None, ``features`` (n, D), ``nearest`` (n,) the position of the
    nearest normal, ``distances`` (n, rows, columns) or None. ``rounding`` is what features that differ by
    ``ROUNDING`` do to a score, or a search of many images at once in the place of one.
    """

    scores: Features
    p_values: Floats | None
    features: Features
    nearest: Rows
    distances: Features | None
    rounding: Features | float = 0.0


@dataclass(frozen=True)
class ScoredGraph:
    """What a graph is made of, and what it is compared with.

    ``graph`` is the extractor's file, ``extractor`` the same, loaded; ``calibration`` has scores by it and
    ``scorer``, or is None.
    """

    manifest: Manifest
    graph: Path
    extractor: Extractor
    scorer: Scorer
    calibration: Calibration | None

    def results(self, images: Iterable[Decoded | Unreadable]) -> Results:
        """What ``score`` would say of the images, of those that can be read."""
        return _judged(self.scorer, self.calibration, embedded(self.extractor, self.scorer, images))

    @classmethod
    def of(cls, folder: str, model: Model) -> ScoredGraph:
        """A model as it is."""
        graph = verified(folder, model.manifest, EXTRACTOR)
        return cls(model.manifest, graph, model.extractor, model.scorer, model.calibration)

    def write(self, out: Path) -> None:
        """Write the graph.

        Raises:
            UsageError: the scorer cannot be written as ONNX.
            ModelDamaged: the extractor gives no patches and the scorer needs them.
            OutputError: the file would be too large.
        """
        graph, scorer = Graph(self.graph), self.scorer
        image = next(name for name in (IMAGE, "features") if name in graph.given)
        distances = None
        if scorer.patches is not None:
            if PATCHES not in graph.given:
                raise ModelDamaged("the extractor gives no patches and the model scores by them; adapt again")
            distances = scorer.compared_graph(graph, PATCHES)
        score = scorer.graph(graph, GraphOutputs(image, distances))
        k, gallery = scorer.info.k, scorer.gallery
        _, nearest = gallery.graph(graph, image, k)
        given: dict[str, tuple[str, type[np.generic], tuple[int, ...]]] = {SCORE: (score, np.float32, ())}
        if self.calibration is not None:
            first = graph.shaped(graph.add("Slice", nearest, np.array([0]), np.array([1]), np.array([1])), -1)
            known = gallery.holds_graph(graph, image, first)
            p_value = self.calibration.graph(graph, score, image, known)
            given[P_VALUE] = (p_value, np.float32, ())
        given[FEATURES] = (image, np.float32, (gallery.dim,))
        given[NEAREST] = (nearest, np.int64, (k,))
        if distances is not None and scorer.patches is not None:
            given[MAP] = (distances, np.float32, scorer.patches.grid)
        graph.give(given)
        graph.save(out, self._about())

    def _about(self) -> dict[str, str]:
        manifest, scorer = self.manifest, self.scorer
        preprocessing = manifest.preprocessing
        looked_at = described(preprocessing.reading.part)
        about = {
            "anomscan": anomscan.__version__,
            "model": manifest.id,
            "input": "uint8 [N, H, W, 3], RGB",
            "height": str(preprocessing.height),
            "width": str(preprocessing.width),
            "resize": f"{looked_at} squashed with Pillow, {preprocessing.resample}",
            "resample": preprocessing.resample,
            "scorer": scorer_class(manifest.scorer.name).describe(manifest.scorer),
            "output": "score, larger is more anomalous",
        }
        if scorer.rejects is not None:
            about["rejects"] = f"{len(scorer.rejects)} missed anomalies, whose like score higher"
        if self.calibration is not None:
            about["p_value"] = f"from {self.calibration.groups} {self.calibration.noun} or groups of them"
        return about


def embedded(extractor: Extractor, scorer: Scorer, images: Iterable[Decoded | Unreadable]) -> Outputs:
    """What the scorer needs of the images that can be read, at least one."""
    batches = extractor.embed(images, scorer.compared)
    return Outputs.joined([batch.outputs for batch in batches if not isinstance(batch, Unreadable)])


def _judged(scorer: Scorer, calibration: Calibration | None, outputs: Outputs) -> Results:
    """Scores and p-values as ``screen.screener`` makes them."""
    scores, nearest = scorer.score_and_nearest(outputs, scorer.info.k)
    p_values = None
    if calibration is not None:
        known: NDArray[Any] = scorer.gallery.holds(outputs.image, nearest) | calibration.holds(outputs.image)
        p_values = np.where(known, 1.0, calibration.p_values(scores))
    distances = outputs.maps.distances if outputs.maps is not None else None
    nudged = [replace(outputs, image=outputs.image * np.float32(1 + sign * ROUNDING)) for sign in (-1, 1)]
    others = [scorer.score(moved, scorer.info.k) for moved in nudged]
    alone = [scorer.score(outputs.at(slice(i, i + 1)), scorer.info.k) for i in range(len(outputs))]
    others.append(np.concatenate(alone))  # a search of many at once rounds the distance of a copy
    rounding = np.max(np.abs(np.array(others) - scores), axis=0)
    return Results(scores, p_values, outputs.image, nearest, distances, rounding)
