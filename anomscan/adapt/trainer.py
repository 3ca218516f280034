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
from anomscan.adapt.presets import Optimisation
from anomscan.adapt.regularizers import Regularizer
from anomscan.errors import TrainingDiverged, UsageError

Indices = NDArray[np.int64]


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


def train(
    tail: nn.Module,
    normals: ActivationCache,
    objective: Objective,
    optimisation: Optimisation,
    *,
    others: Others | None = None,
    regularizer: Regularizer | None = None,
    seed: int,
    device: torch.device,
    deadline: float | None,
    on_step: Callable[[int, float], bool],
) -> tuple[int, float]:
    """Minimise ``objective`` + ``regularizer`` over the parameters of ``tail`` that require gradients.

    View 0 of the cache is the image itself: it fixes the objective's centre and is what an objective
    of one view learns from; an objective of two views draws two of the others for each image.

    Args:
        tail: maps activations (n, ...) to features (n, D); stays in evaluation mode, moves to ``device``.
        normals: the activations of the normals.
        objective: the loss; its own parameters are trained too.
        optimisation: steps, batch size and rates.
        others: what the objective needs beside the normals.
        regularizer: holds the parameters of ``tail`` back.
        seed: of the order of the images and the choice of views.
        device: where the steps run.
        deadline: ``time.monotonic()`` after which no further step begins; None for no limit.
        on_step: called after every step with its number, from 1, and its loss; False ends the training.

    Returns:
        Steps done and the last loss.

    Raises:
        TrainingDiverged: the loss is not finite.
    """
    generator = np.random.default_rng(seed)
    parameters = [parameter for parameter in tail.parameters() if parameter.requires_grad]
    done, last = 0, math.nan
    with CoreParallel(tail, device) as network:
        pretrained = torch.cat([network.features(batch) for batch in normals.images(64)])
        objective.prepare(pretrained, others.classes if others else 0)
        heads = list(objective.parameters())
        optimizer = torch.optim.SGD(
            parameters + heads,
            lr=optimisation.rate,
            momentum=optimisation.momentum,
            weight_decay=optimisation.weight_decay,
        )
        epochs = _batches(len(normals), optimisation.batch, optimisation.steps, generator)
        for images, other in zip(epochs, _other_batches(others, optimisation, generator), strict=True):
            if deadline is not None and time.monotonic() > deadline:
                break
            activations = _read(normals, images, objective.views, generator)
            features = network.forward(_joined(activations, others, other))
            labels = None if others is None else torch.from_numpy(others.labels[other]).to(device)
            loss = objective(features[: len(activations)], features[len(activations) :], labels)
            gradient, *head_gradients = torch.autograd.grad(loss, [features, *heads])
            network.backward(gradient)
            if regularizer is not None:
                penalty = regularizer.value()
                for parameter, value in zip(
                    parameters, torch.autograd.grad(penalty, parameters), strict=True
                ):
                    parameter.grad = value if parameter.grad is None else parameter.grad + value
                loss = loss + penalty
            for parameter, value in zip(heads, head_gradients, strict=True):
                parameter.grad = value
            last = loss.item()
            if not math.isfinite(last):
                raise TrainingDiverged(f"the loss is {last} at step {done + 1}; the model is as it was")
            if optimisation.clip is not None:
                nn.utils.clip_grad_norm_(parameters + heads, optimisation.clip)
            optimizer.step()
            done += 1
            if not on_step(done, last):
                break
    return done, last


def _other_batches(
    others: Others | None, optimisation: Optimisation, generator: np.random.Generator
) -> Iterator[Indices]:
    if others is None:
        return itertools.repeat(np.empty(0, np.int64), optimisation.steps)
    return _batches(len(others.cache), optimisation.batch, optimisation.steps, generator)


def _joined(activations: Tensor, others: Others | None, images: Indices) -> Tensor:
    if others is None:
        return activations
    return torch.cat([activations, others.cache.read(np.zeros_like(images), images)])


def _batches(images: int, batch: int, steps: int, generator: np.random.Generator) -> Iterator[Indices]:
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
