"""Which checkpoint of a training run is best, without labels, and whether it is better than none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from anomscan.adapt.activations import ActivationCache
from anomscan.adapt.checkpoint import Tensors
from anomscan.adapt.made_anomalies import KINDS, batched
from anomscan.adapt.parallel import CoreParallel
from anomscan.adapt.stopping import Stopping, Training, Watch, evenly
from anomscan.adapt.views import View
from anomscan.scoring.base import knn_score
from anomscan.scoring.gallery import Gallery, kmeans
from anomscan.stats.measures import auroc
from anomscan.types import Features

CHECKPOINTS = 6
NEIGHBOURS = 2
CLUSTERS = 5

MARGIN = 0.5
"""Points of mean AUROC by which a checkpoint must beat the unadapted features."""
TOLERANCE = 0.5
"""Points of AUROC that any one kind of anomaly may lose meanwhile."""
PATIENCE = 2
"""Checkpoints in a row that may fail to be the best so far before training ends."""
LEAST_RANK = 0.8
"""Share of the effective rank of the unadapted features below which features count as collapsed."""
LEAST_SPREAD = 0.5
"""The same of their spread."""


class LabelFree(Stopping):
    """Keeps the checkpoint that separates made anomalies best, or the unadapted features.

    A checkpoint counts only if its features have not collapsed and if it beats the unadapted ones by a
    margin. Collapse ends the training, and so do ``PATIENCE`` checkpoints that bring nothing. Selecting
    detectors by made anomalies follows arXiv 2310.10461.
    """

    holds_out = 0.2
    fewest = 50

    def describe(self) -> str:
        """In a few words."""
        return "the best checkpoint by made anomalies, or none"

    def views(self, seed: int) -> Sequence[View]:
        """Made anomalies, in the order of ``KINDS``."""
        return [batched(maker, seed + i) for i, maker in enumerate(KINDS.values())]

    def watch(self, training: Training) -> Watch:
        """Measures checkpoints; the seed of the training is that of the clusters."""
        return Selecting(training)


@dataclass(frozen=True)
class Checkpoint:
    """What can be said of a checkpoint without labels, on normals that the training never saw.

    Collapse: ``effective_rank`` of the held-out features and ``spread``, their mean distance to their
    centre. Separation, AUROC in percent: held-out normals against each kind of made anomaly, and against
    clusters of normals that are withheld from the gallery, ``left_out_cluster``.
    """

    step: int
    effective_rank: float
    spread: float
    made: dict[str, float]
    left_out_cluster: float

    @property
    def separation(self) -> float:
        """Mean AUROC over the kinds of made anomalies.

        Without the clusters: theirs falls more often than not where the true one rises, see
        ``benchmarks/README.md``.
        """
        return float(np.mean(list(self.made.values())))

    def collapsed(self, start: Checkpoint) -> bool:
        """Whether the features have lost rank or spread since ``start``."""
        return (
            self.effective_rank < LEAST_RANK * start.effective_rank
            or self.spread < LEAST_SPREAD * start.spread
        )

    def beats(self, start: Checkpoint) -> bool:
        """Whether it separates better by a margin on average, with nothing lost on any kind."""
        losses = [start.made[kind] - self.made[kind] for kind in start.made]
        return self.separation >= start.separation + MARGIN and max(losses) <= TOLERANCE


class Selecting(Watch):
    """``LabelFree`` in one run: ``curve`` is what it measured, ``chosen`` the step that it keeps."""

    def __init__(self, training: Training) -> None:
        assert training.held_out is not None  # noqa: S101 - the caller supplies what ``holds_out`` says
        self._tail, self._seed = training.tail, training.seed
        self._normals, self._held_out = training.normals, training.held_out
        self._due = evenly(training.steps, CHECKPOINTS)
        self._clusters: Features | None = None
        self._best: dict[str, Tensor] = {}
        self.curve: list[Checkpoint] = []
        self.chosen = 0

    def after_step(self, step: int) -> bool:
        """Measure the checkpoint if it is due; False once the features have collapsed or get no better."""
        if step not in self._due:
            return True
        checkpoint = self._measure(step)
        self.curve.append(checkpoint)
        start, best = self.curve[0], self.curve[self._index(self.chosen)]
        if checkpoint.collapsed(start):
            return False
        if step == 0 or (checkpoint.beats(start) and checkpoint.separation > best.separation):
            self.chosen = step
            self._best = {name: value.detach().clone() for name, value in self._tail.state_dict().items()}
        return len(self.curve) - 1 - self._index(self.chosen) < PATIENCE

    def saved(self) -> tuple[Tensors, Any]:
        """The best weights so far, and the curve."""
        return self._best, {"chosen": self.chosen, "curve": [asdict(checkpoint) for checkpoint in self.curve]}

    def restore(self, tensors: Tensors, record: Any) -> None:
        """Have measured what it had measured; the clusters are those of step 0."""
        self._best, self.chosen = dict(tensors), record["chosen"]
        self.curve = [Checkpoint(**checkpoint) for checkpoint in record["curve"]]

    def result(self, tail: nn.Module) -> nn.Module:
        """The tail, set back to the chosen checkpoint."""
        tail.load_state_dict(self._best)
        return tail

    def reason(self) -> str:
        """What was chosen and why, in one line."""
        start, last = self.curve[0], self.curve[-1]
        if self.chosen:
            gain = self.curve[self._index(self.chosen)].separation - start.separation
            return (
                f"kept step {self.chosen}: it separates made anomalies better by {gain:.1f} points of AUROC"
            )
        if last.collapsed(start):
            return f"kept the unadapted features: adapting collapsed them by step {last.step}"
        return (
            f"kept the unadapted features: no checkpoint separates made anomalies better by {MARGIN} points"
        )

    def record(self) -> dict[str, Any]:
        """The choice and the curve, for ``model.json``."""
        curve = [{**asdict(checkpoint), "separation": checkpoint.separation} for checkpoint in self.curve]
        return {"chosen_step": self.chosen, "reason": self.reason(), "curve": curve}

    def _index(self, step: int) -> int:
        return next(i for i, checkpoint in enumerate(self.curve) if checkpoint.step == step)

    def _measure(self, step: int) -> Checkpoint:
        normals = self._features(self._normals, 0)
        held_out, *made = (self._features(self._held_out, view) for view in range(self._held_out.views))
        gallery = Gallery.build(normals)
        of_normals = _scores(gallery, held_out)
        separations = {
            kind: 100 * _auroc(of_normals, _scores(gallery, features))
            for kind, features in zip(KINDS, made, strict=True)
        }
        if self._clusters is None:
            self._clusters = kmeans(normals, min(CLUSTERS, max(1, len(normals) // 2)), self._seed)
            self._normal_cluster, self._held_out_cluster = (
                (features @ self._clusters.T).argmax(axis=1) for features in (normals, held_out)
            )
        return Checkpoint(
            step,
            effective_rank(held_out),
            spread(held_out),
            separations,
            self._left_out_cluster(normals, held_out),
        )

    def _left_out_cluster(self, normals: Features, held_out: Features) -> float:
        """Mean AUROC of held-out normals against a cluster that is withheld, over the clusters."""
        areas = []
        for cluster in range(len(self._clusters if self._clusters is not None else ())):
            inside, outside = self._normal_cluster == cluster, self._held_out_cluster != cluster
            if inside.sum() < NEIGHBOURS or (~inside).sum() < NEIGHBOURS or not outside.any():
                continue
            gallery = Gallery.build(normals[~inside])
            areas.append(_auroc(_scores(gallery, held_out[outside]), _scores(gallery, normals[inside])))
        return 100 * float(np.mean(areas)) if areas else 50.0

    def _features(self, cache: ActivationCache, view: int) -> Features:
        device = next(self._tail.parameters()).device
        with CoreParallel(self._tail, device) as network:
            batches = [network.features(batch).cpu() for batch in cache.images(64, view)]
        normalised: Features = functional.normalize(torch.cat(batches), dim=1).numpy()
        return normalised


def effective_rank(features: Features) -> float:
    """Exponential of the entropy of the normalised singular values of centred features (Roy & Vetterli 2007).

    Args:
        features: (n, D) float32.

    Returns:
        Between 1, all on a line, and min(n - 1, D).
    """
    values = np.linalg.svd(features - features.mean(axis=0), compute_uv=False)
    shares = values / max(values.sum(), 1e-12)
    return float(np.exp(-(shares * np.log(np.maximum(shares, 1e-12))).sum()))


def spread(features: Features) -> float:
    """Mean Euclidean distance of (n, D) features to their centre."""
    return float(np.linalg.norm(features - features.mean(axis=0), axis=1).mean())


def _scores(gallery: Gallery, features: Features) -> Features:
    return knn_score(gallery.search(features, min(NEIGHBOURS, len(gallery)))[0])


def _auroc(normal: Features, anomalous: Features) -> float:
    return auroc(np.concatenate([normal, anomalous]), np.repeat([False, True], [len(normal), len(anomalous)]))
