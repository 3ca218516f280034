"""Adapting where it helps, and not relying on it: the pretrained features stay beside the adapted ones.

Photographs, of one kind of thing or of many, gain when the network learns what they have in common. What
always looks the same, such as a product on a line, does not. How much the normals differ from each other
tells the two apart. On which images this was fixed, and how it did on others: docs/methods.md.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from anomscan.adapt.checkpoint import Tensors
from anomscan.adapt.likeness import MOST, distinctness
from anomscan.adapt.parallel import CoreParallel
from anomscan.adapt.stopping import SideBySide, Stopping, Training, Watch, evenly
from anomscan.spread import spread_over
from anomscan.types import Features

FEWEST = 100
"""With fewer normals than this the network is not trained."""
DISTINCT, FALLS = 0.545, 0.06
"""The ``distinctness`` of ``MOST`` normals above which it is; more by ``FALLS`` for a factor of e fewer."""
CHECKPOINTS = 5
LEAST_RANK = 0.8
"""Share of the effective rank of the pretrained features below which features count as collapsed."""
LEAST_SPREAD = 0.5
"""The same of their spread."""


class Beside(Stopping):
    """The pretrained network beside the trained one, for normals that differ much; else none trains.

    Both give features of norm 1. Training ends where the features collapse, and the last
    checkpoint before that counts.
    """

    def describe(self) -> str:
        """In a few words."""
        return "beside the pretrained features, where normals differ much"

    def against(self, normals: int, head: Callable[[], Features], *, all_calibrate: bool) -> str | None:
        """Why the network stays as it is."""
        why = self._against(normals, head, all_calibrate=all_calibrate)
        return f"kept the unadapted features: {why}" if why else None

    def _against(self, normals: int, head: Callable[[], Features], *, all_calibrate: bool) -> str | None:
        if all_calibrate:
            return "all normals calibrate, which takes a network that saw none"
        if normals < FEWEST:
            return f"{normals} normals are too few to adapt to"
        features = head()
        apart, limit = distinctness(features), limit_of(len(features))
        if apart <= limit:
            return f"the normals look alike ({apart:.2f}, up to {limit:.2f})"
        return None

    def watch(self, training: Training) -> Watch:
        """Looks for collapse."""
        return _Guarding(training)


def limit_of(normals: int) -> float:
    """The ``distinctness`` of so many normals above which the network is trained."""
    return float(DISTINCT + FALLS * np.log(MOST / min(normals, MOST)))


@dataclass(frozen=True)
class Checkpoint:
    """Features of the normals: their ``effective_rank``, and their ``spread``, a mean distance."""

    step: int
    effective_rank: float
    spread: float

    def collapsed(self, start: Checkpoint) -> bool:
        """Whether the features have lost rank or spread since ``start``."""
        return (
            self.effective_rank < LEAST_RANK * start.effective_rank
            or self.spread < LEAST_SPREAD * start.spread
        )


class _Guarding(Watch):
    """``curve`` is what was measured, ``chosen`` the step that is kept, 0 for the pretrained features."""

    def __init__(self, training: Training) -> None:
        self._tail, self._normals = training.tail, training.normals
        self._due = evenly(training.steps, CHECKPOINTS)
        self._pretrained = copy.deepcopy(training.whole).to("cpu")
        self._kept: dict[str, Tensor] = {}
        self.curve: list[Checkpoint] = []
        self.chosen = 0

    def after_step(self, step: int) -> bool:
        if step not in self._due:
            return True
        self.curve.append(self._measure(step))
        if self.curve[-1].collapsed(self.curve[0]):
            return False
        self.chosen = step
        self._kept = {name: value.detach().clone() for name, value in self._tail.state_dict().items()}
        return True

    def saved(self) -> tuple[Tensors, Any]:
        return self._kept, {"chosen": self.chosen, "curve": [asdict(checkpoint) for checkpoint in self.curve]}

    def restore(self, tensors: Tensors, record: Any) -> None:
        self._kept, self.chosen = dict(tensors), record["chosen"]
        self.curve = [Checkpoint(**checkpoint) for checkpoint in record["curve"]]

    def result(self, training: Training) -> Sequence[nn.Module] | None:
        training.tail.load_state_dict(self._kept)
        if not self.chosen:
            return None
        return [SideBySide([self._pretrained, nn.Sequential(training.trunk, training.tail)])]

    def record(self) -> dict[str, Any]:
        curve = [asdict(checkpoint) for checkpoint in self.curve]
        return {"chosen_step": self.chosen, "reason": self._reason(), "curve": curve}

    def _reason(self) -> str:
        last = self.curve[-1]
        collapsed = last.collapsed(self.curve[0])
        if not self.chosen:
            why = f"adapting collapsed them by step {last.step}" if collapsed else "no step was done"
            return f"kept the unadapted features: {why}"
        kept = f"the normals differ much: the features of step {self.chosen} stand beside the unadapted"
        return f"{kept}: they collapsed by step {last.step}" if collapsed else kept

    def _measure(self, step: int) -> Checkpoint:
        device = next(self._tail.parameters()).device
        some = spread_over(len(self._normals), MOST)
        with CoreParallel(self._tail, device) as network:
            batches = (
                self._normals.read(np.zeros_like(images), images)
                for images in np.array_split(some, -(-len(some) // 64))
            )
            found = torch.cat([network.features(batch).cpu() for batch in batches])
        features: Features = functional.normalize(found, dim=1).numpy()
        return Checkpoint(step, effective_rank(features), spread(features))


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
