"""Gradient descent on the trainable tail of a backbone, over cached activations."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anomscan.adapt.activations import ActivationCache
from anomscan.adapt.objectives import Objective
from anomscan.adapt.parallel import CoreParallel
from anomscan.adapt.regularizers import Penalty, trained
from anomscan.errors import TrainingDiverged, UsageError

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Optimisation:
    """Stochastic gradient descent: ``clip`` bounds the gradient's norm, None leaves it as it is."""

    steps: int
    batch: int
    rate: float
    momentum: float
    weight_decay: float
    clip: float | None


def resolve_device(name: str) -> torch.device:
    """``auto`` is the first CUDA device, else the CPU; raises UsageError where there is no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu" or (name == "cuda" and torch.cuda.is_available()):
        return torch.device(name)
    raise UsageError(f"there is no device {name!r} on this machine; use --device cpu")


@dataclass(frozen=True)
class Others:
    """Images beside the normals: outliers, or reference images with a class each, 0 to ``classes`` - 1."""

    cache: ActivationCache
    labels: Indices
    classes: int


@dataclass(frozen=True)
class Trainer:
    """Minimises an objective and a penalty over the parameters of ``tail`` that require gradients.

    View 0 of the normals is the image itself: it fixes the objective's centre and is what an objective
    of one view learns from; an objective of two views draws two of the others for each image.

    Args:
        tail: maps activations (n, ...) to features (n, D); stays in evaluation mode, moves to ``device``.
        objective: the loss; its own parameters are trained too.
        optimisation: steps, batch size and rates.
        normals: the activations of the normals.
        seed: of the order of the images and the choice of views.
        device: where the steps run.
        others: what the objective needs beside the normals.
        penalty: holds the parameters of ``tail`` back.
    """

    tail: nn.Module
    objective: Objective
    optimisation: Optimisation
    normals: ActivationCache
    seed: int
    device: torch.device
    others: Others | None = None
    penalty: Penalty | None = None

    def run(self, on_step: Callable[[int, float], bool], deadline: float | None = None) -> tuple[int, float]:
        """Train.

        Args:
            on_step: called after every step with its number, from 1, and its loss; False ends the training.
            deadline: ``time.monotonic()`` after which no further step begins; None for no limit.

        Returns:
            Steps done and the last loss.

        Raises:
            TrainingDiverged: the loss is not finite.
        """
        generator = np.random.default_rng(self.seed)
        done, last = 0, math.nan
        with CoreParallel(self.tail, self.device) as network:
            self._prepare(network)
            learning = [*trained(self.tail), *self.objective.parameters()]
            optimizer = self._optimizer(learning)
            for images, others in self._batches(generator):
                if deadline is not None and time.monotonic() > deadline:
                    break
                activations = _read(self.normals, images, self.objective.views, generator)
                last = self._gradients(network, activations, others)
                if not math.isfinite(last):
                    raise TrainingDiverged(f"the loss is {last} at step {done + 1}; the model is as it was")
                if self.optimisation.clip is not None:
                    nn.utils.clip_grad_norm_(learning, self.optimisation.clip)
                optimizer.step()
                done += 1
                if not on_step(done, last):
                    break
        return done, last

    def _prepare(self, network: CoreParallel) -> None:
        pretrained = torch.cat([network.features(batch) for batch in self.normals.images(64)])
        self.objective.prepare(pretrained, self.others.classes if self.others else 0)

    def _optimizer(self, learning: list[nn.Parameter]) -> torch.optim.Optimizer:
        by = self.optimisation
        return torch.optim.SGD(learning, by.rate, momentum=by.momentum, weight_decay=by.weight_decay)

    def _batches(self, generator: np.random.Generator) -> Iterator[tuple[Indices, Indices]]:
        """For every step, which normals and which other images."""
        steps, size = self.optimisation.steps, self.optimisation.batch
        normals = _epochs(len(self.normals), size, steps, generator)
        if self.others is None:
            return zip(normals, itertools.repeat(np.empty(0, np.int64), steps), strict=True)
        return zip(normals, _epochs(len(self.others.cache), size, steps, generator), strict=True)

    def _gradients(self, network: CoreParallel, activations: Tensor, others: Indices) -> float:
        """Set the gradient of everything that learns; returns the loss."""
        normals, labels = len(activations), None
        if self.others is not None:
            further = self.others.cache.read(np.zeros_like(others), others)
            activations = torch.cat([activations, further])
            labels = torch.from_numpy(self.others.labels[others]).to(self.device)
        features = network.forward(activations)
        loss = self.objective(features[:normals], features[normals:], labels)
        heads = list(self.objective.parameters())
        gradient, *head_gradients = torch.autograd.grad(loss, [features, *heads])
        network.backward(gradient)
        for head, value in zip(heads, head_gradients, strict=True):
            head.grad = value
        if self.penalty is not None:
            loss = loss + self._pull(self.penalty)
        return float(loss.item())

    def _pull(self, penalty: Penalty) -> Tensor:
        """Add the gradient of the penalty; returns its value."""
        value = penalty.value()
        parameters = trained(self.tail)
        for parameter, pull in zip(parameters, torch.autograd.grad(value, parameters), strict=True):
            parameter.grad = pull if parameter.grad is None else parameter.grad + pull
        return value


def _epochs(images: int, batch: int, steps: int, generator: np.random.Generator) -> Iterator[Indices]:
    """Epochs in random order; a last, short batch of an epoch is left out."""
    size = min(batch, images)
    order = np.empty(0, np.int64)
    for _ in range(steps):
        if len(order) < size:
            order = generator.permutation(images)
        yield order[:size]
        order = order[size:]


def _read(cache: ActivationCache, images: Indices, views: int, generator: np.random.Generator) -> Tensor:
    if views == 1:
        return cache.read(np.zeros_like(images), images)
    augmented = np.stack([1 + generator.permutation(cache.views - 1)[:views] for _ in images], axis=1)
    return cache.read(augmented.reshape(-1), np.tile(images, views))
