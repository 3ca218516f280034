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
from anomscan.adapt.checkpoint import Checkpoint, State, Tensors
from anomscan.adapt.objectives import Objective
from anomscan.adapt.parallel import CoreParallel
from anomscan.adapt.regularizers import Penalty, trained
from anomscan.adapt.stopping import Watch
from anomscan.errors import TrainingDiverged, UsageError

Indices = NDArray[np.int64]
_WATCH = "watch."


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
class Keeping:
    """Keeps a run, and the stopping rule that watches it, in a checkpoint."""

    checkpoint: Checkpoint
    watch: Watch

    def load(self) -> State | None:
        """The state of a run before, if there is one to go on with; its watch is what it was."""
        state = self.checkpoint.load()
        if state is not None:
            own = {
                name.removeprefix(_WATCH): t for name, t in state.tensors.items() if name.startswith(_WATCH)
            }
            self.watch.restore(own, state.watch)
        return state

    def save(self, step: int, loss: float, seconds: float, tensors: Tensors) -> None:
        """Keep the state after a step."""
        own, record = self.watch.saved()
        watched = {_WATCH + name: tensor for name, tensor in own.items()}
        self.checkpoint.save(State(step, loss, seconds, {**tensors, **watched}, record))


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

    def run(
        self,
        on_step: Callable[[int, float], bool],
        budget: float | None = None,
        keeping: Keeping | None = None,
    ) -> tuple[int, float]:
        """Train.

        The steps that a run before has done are not done again; their random draws are, so that all others
        are the same.

        Args:
            on_step: called after every step with its number, from 1, and its loss; False ends the training.
            budget: seconds of training, those of a run before included, after which no further step begins;
                None for no limit.
            keeping: where the state is kept, and taken from.

        Returns:
            Steps done and the last loss.

        Raises:
            TrainingDiverged: the loss is not finite.
        """
        generator = np.random.default_rng(self.seed)
        done, last, began = 0, math.nan, time.monotonic()
        with CoreParallel(self.tail, self.device) as network:
            self._prepare(network)
            learning = [*trained(self.tail), *self.objective.parameters()]
            optimizer = self._optimizer(learning)
            before = keeping.load() if keeping else None
            if before is not None:
                self._restore(before.tensors, optimizer)
                done, last, began = before.step, before.loss, began - before.seconds
            for step, (images, others) in enumerate(self._batches(generator), start=1):
                pairs = _draw(self.normals.views, images, self.objective.views, generator)
                if before is not None and step <= before.step:
                    continue
                if budget is not None and time.monotonic() > began + budget:
                    break
                last = self._gradients(network, self.normals.read(*pairs), others)
                if not math.isfinite(last):
                    if keeping:
                        keeping.checkpoint.drop()
                    raise TrainingDiverged(f"the loss is {last} at step {step}; the model is as it was")
                if self.optimisation.clip is not None:
                    nn.utils.clip_grad_norm_(learning, self.optimisation.clip)
                optimizer.step()
                done = step
                if not on_step(done, last):
                    break
                if keeping and keeping.checkpoint.is_due:
                    keeping.save(done, last, time.monotonic() - began, self._state(optimizer))
        return done, last

    def _state(self, optimizer: torch.optim.Optimizer) -> Tensors:
        """All that training has changed: weights, the objective's own, momentum, torch's generator."""
        (learning,) = (group["params"] for group in optimizer.param_groups)
        momentum = [optimizer.state[parameter].get("momentum_buffer") for parameter in learning]
        return {
            **{f"parameter.{i}": parameter for i, parameter in enumerate(learning)},
            **{f"momentum.{i}": value for i, value in enumerate(momentum) if value is not None},
            "generator": torch.get_rng_state(),
        }

    def _restore(self, state: Tensors, optimizer: torch.optim.Optimizer) -> None:
        (learning,) = (group["params"] for group in optimizer.param_groups)
        with torch.no_grad():
            for i, parameter in enumerate(learning):
                parameter.copy_(state[f"parameter.{i}"])
                if (momentum := state.get(f"momentum.{i}")) is not None:
                    optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(
                        momentum
                    )
        torch.set_rng_state(state["generator"])

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


def _draw(there: int, images: Indices, views: int, generator: np.random.Generator) -> tuple[Indices, Indices]:
    """Of which view and which image to read the activations: ``views`` of ``there`` for each image."""
    if views == 1:
        return np.zeros_like(images), images
    augmented = np.stack([1 + generator.permutation(there - 1)[:views] for _ in images], axis=1)
    return augmented.reshape(-1), np.tile(images, views)
