"""When adapting stops, and which of its checkpoints count."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from anomscan.adapt.activations import ActivationCache
from anomscan.adapt.checkpoint import Tensors
from anomscan.adapt.parts import Part
from anomscan.types import Arrays, Features


@dataclass(frozen=True)
class Training:
    """A training run, for whoever watches it.

    ``tail`` trains, for ``steps`` steps, on ``normals``, the activations that ``trunk`` gives; their view 0
    is the image. ``whole`` is the backbone, from pixels to features, which shares its parameters with both.
    """

    whole: nn.Module
    trunk: nn.Module
    tail: nn.Module
    steps: int
    normals: ActivationCache


class Watch:
    """Watches a training run; this one lets it take all of its steps and keeps the last."""

    def after_step(self, step: int) -> bool:
        """Look at the network after a step, 0 being before the first; False ends the training."""
        return True

    def result(self, training: Training) -> Sequence[nn.Module] | None:
        """The modules, in a row, from pixels to features; None where nothing has changed.

        The tail is on the CPU.
        """
        return training.trunk, training.tail

    def state(self) -> Arrays:
        """What it leaves to the scorer: the arrays that the rule's ``learns`` names."""
        return {}

    def saved(self) -> tuple[Tensors, Any]:
        """What ``restore`` needs to go on in another run: tensors, and the rest as JSON has it."""
        return {}, None

    def restore(self, tensors: Tensors, record: Any) -> None:
        """Be what it was when it was ``saved``; it has seen step 0 of the same training already."""

    def record(self) -> dict[str, Any] | None:
        """What it chose, with the ``reason`` in one line; None where there was no choice."""
        return None


class Stopping(Part):
    """A rule for whether to train, when training ends and what is kept of it."""

    def against(self, normals: int, head: Callable[[], Features], *, all_calibrate: bool) -> str | None:
        """Why the network is not trained at all; None where nothing is known to speak against it.

        Args:
            normals: how many there are.
            head: gives the pretrained features of some of them, (n, D).
            all_calibrate: whether the model's p-values are to come from the normals that it learns from.
        """
        return None

    @abstractmethod
    def watch(self, training: Training) -> Watch:
        """Whoever applies the rule to one run."""


class AllSteps(Stopping):
    """Takes all steps and keeps the last (PANDA-ES)."""

    def describe(self) -> str:
        """In a few words."""
        return "a fixed number of steps"

    def watch(self, training: Training) -> Watch:
        """There is nothing to look at."""
        return Watch()


@dataclass(frozen=True)
class Samplewise(Stopping):
    """Keeps the tail as it is at evenly spaced steps, the first before any training (PANDA-SES, sec. 3)."""

    learns = frozenset(("checkpoints",))
    normalises = True
    checkpoints: int = 4

    def describe(self) -> str:
        """In a few words."""
        return f"{self.checkpoints} checkpoints side by side"

    def watch(self, training: Training) -> Watch:
        """Keeps copies of the tail."""
        return _Keeping(training, self.checkpoints)


class _Keeping(Watch):
    def __init__(self, training: Training, checkpoints: int) -> None:
        self._tail = training.tail
        self._due = evenly(training.steps, checkpoints)
        self._kept: list[nn.Module] = []

    def after_step(self, step: int) -> bool:
        if step in self._due:
            self._kept.append(copy.deepcopy(self._tail).to("cpu"))
        return True

    def saved(self) -> tuple[Tensors, Any]:
        kept = {f"{i}.{name}": t for i, one in enumerate(self._kept) for name, t in one.state_dict().items()}
        return kept, len(self._kept)

    def restore(self, tensors: Tensors, record: Any) -> None:
        self._kept = []
        for i in range(record):
            one = copy.deepcopy(self._tail).to("cpu")
            one.load_state_dict({name: tensors[f"{i}.{name}"] for name in one.state_dict()})
            self._kept.append(one)

    def result(self, training: Training) -> Sequence[nn.Module]:
        return training.trunk, SideBySide(self._kept)

    def state(self) -> Arrays:
        return {"checkpoints": np.array([len(self._kept)], np.float32)}


class SideBySide(nn.Module):
    """The features of several networks with the same input, each normalised: (N, ...) to (N, T * D)."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, inputs: Tensor) -> Tensor:
        """Concatenate along the features."""
        return torch.cat([functional.normalize(network(inputs), dim=1) for network in self.networks], dim=1)


def evenly(steps: int, count: int) -> set[int]:
    """``count`` steps from 0 to ``steps``, evenly spaced."""
    return {round(i * steps / (count - 1)) for i in range(count)}
