"""When adapting stops, and which of its checkpoints count."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

CHECKPOINTS = 4


class Samplewise:
    """Keeps the tail as it is at evenly spaced steps, the first before any training (PANDA-SES, sec. 3).

    Args:
        tail: the network that trains.
        steps: steps that the training will take.
    """

    def __init__(self, tail: nn.Module, steps: int) -> None:
        self._tail = tail
        self._due = {round(i * steps / (CHECKPOINTS - 1)) for i in range(CHECKPOINTS)}
        self._kept: list[nn.Module] = []
        self.after_step(0)

    def after_step(self, step: int) -> None:
        """Keep a copy if this step is one of those."""
        if step in self._due:
            self._kept.append(copy.deepcopy(self._tail).to("cpu"))

    def side_by_side(self) -> SideBySide:
        """One network that gives the features of every checkpoint."""
        return SideBySide(self._kept)


class SideBySide(nn.Module):
    """The features of several tails of one trunk, each normalised: (N, ...) to (N, T * D)."""

    def __init__(self, tails: list[nn.Module]) -> None:
        super().__init__()
        self.tails = nn.ModuleList(tails)

    def forward(self, activations: Tensor) -> Tensor:
        """Concatenate along the features."""
        return torch.cat([functional.normalize(tail(activations), dim=1) for tail in self.tails], dim=1)
