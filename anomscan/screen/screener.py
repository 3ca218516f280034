"""From images to scores: the one unit of work, whoever calls it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from anomscan.errors import ModelDamaged, UsageError
from anomscan.images.decode import Decoded
from anomscan.images.find import Unreadable
from anomscan.model.model import Model
from anomscan.network.extractor import Batch
from anomscan.stats.calibration import Floats
from anomscan.types import Features, Outputs

SEARCH = 256
"""Images a search: together they are one matrix product, nine times faster than one by one."""


@dataclass(frozen=True)
class Scored:
    """n images that were scored together.

    ``scores`` is (n,), larger is more anomalous; ``p_values`` (n,), or None where the model has no held-out
    normals; ``nearest`` the normal most like each; ``known`` (n,) whether it is a copy of a normal;
    ``outputs`` what the network gave; ``aspects`` the scores that make up the score, each (n,), by name.
    """

    images: list[Decoded]
    scores: Features
    p_values: Floats | None
    nearest: list[str]
    known: NDArray[np.bool_]
    outputs: Outputs
    aspects: dict[str, Features] = field(default_factory=dict)


class Screener:
    """Scores images by a model; keeps nothing of them, and says nothing.

    A copy of a normal, in the gallery or held out, has a p-value of 1: it was said to be normal.

    Args:
        model: what to compare with.
        k: neighbours; None takes the model's.

    Raises:
        GalleryTooSmall: fewer normals than ``k``.
        UsageError: ``k`` for a scorer without neighbours.
        ModelDamaged: by its methods, where scores are no numbers.
    """

    def __init__(self, model: Model, k: int | None = None) -> None:
        if k is not None and not model.scorer.uses_neighbours:
            name = "patches" if model.patches else model.scorer.info.name
            raise UsageError(f"the model's scorer, {name}, has no neighbours; leave --k out")
        self._model = model
        self._k = k or model.manifest.scorer.k
        self.calibration = model.calibrated(self._k)

    def batch(self, images: list[Decoded]) -> Scored:
        """The scores of n images, n at least 1; they do not depend on what else is in the batch."""
        (scored,) = self._judged(self._embedded(images), len(images))
        assert isinstance(scored, Scored)  # noqa: S101 - decoded images give nothing else
        return scored

    def stream(self, images: Iterable[Decoded | Unreadable]) -> Iterator[Scored | Unreadable]:
        """The same of any number of images, worked on side by side; what is unreadable comes as it is."""
        return self._judged(self._embedded(images), SEARCH)

    def _embedded(self, images: Iterable[Decoded | Unreadable]) -> Iterator[Batch | Unreadable]:
        return self._model.extractor.embed(images, self._model.scorer.compared)

    def _judged(self, batches: Iterable[Batch | Unreadable], size: int) -> Iterator[Scored | Unreadable]:
        """Batches joined to ``size`` images or a few more, and scored."""
        images: list[Decoded] = []
        parts: list[Outputs] = []
        for batch in batches:
            if isinstance(batch, Unreadable):
                yield batch
                continue
            images += batch.images
            parts.append(batch.outputs)
            if len(images) >= size:
                yield self._judge(images, Outputs.joined(parts))
                images, parts = [], []
        if images:
            yield self._judge(images, Outputs.joined(parts))

    def _judge(self, images: list[Decoded], outputs: Outputs) -> Scored:
        model = self._model
        scores, neighbours = model.scorer.score_and_nearest(outputs, self._k)
        if not (np.isfinite(scores).all() and np.isfinite(outputs.image).all()):
            raise ModelDamaged("the model gives scores that are no numbers; adapt again")
        known = model.gallery.holds(outputs.image, neighbours)
        p_values = None
        if self.calibration is not None:
            known |= self.calibration.holds(outputs.image)
            p_values = np.where(known, 1.0, self.calibration.p_values(scores))
        nearest = [model.normals[row] for row in neighbours]
        aspects = model.scorer.aspects(outputs, self._k)
        return Scored(images, scores, p_values, nearest, known, outputs, aspects)
