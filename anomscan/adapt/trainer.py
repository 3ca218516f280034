"""Gradient descent on the trainable tail of a backbone, over cached activations."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anomscan.adapt.activations import ActivationCache
from anomscan.adapt.objectives import Objective
from anomscan.adapt.parallel import CoreParallel
from anomscan.adapt.presets import Optimisation
from anomscan.errors import TrainingDiverged, UsageError

Indices = NDArray[np.int64]


def resolve_device(name: str) -> torch.device:
    """``auto`` is the first CUDA device, else the CPU; raises UsageError where there is no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu" or (name == "cuda" and torch.cuda.is_available()):
        return torch.device(name)
    raise UsageError(f"there is no device {name!r} on this machine; use --device cpu")


def train(
    tail: nn.Module,
    cache: ActivationCache,
    objective: Objective,
    optimisation: Optimisation,
    *,
    seed: int,
    device: torch.device,
    deadline: float | None,
    on_step: Callable[[int, float], None],
) -> tuple[int, float]:
    """Minimise ``objective`` over the parameters of ``tail`` that require gradients.

    View 0 of the cache is the image itself: it fixes the objective's centre and is what an objective
    of one view learns from; an objective of two views draws two of the others for each image.

    Args:
        tail: maps activations (n, ...) to features (n, D); stays in evaluation mode, moves to ``device``.
        cache: the activations of the normals.
        objective: the loss.
        optimisation: steps, batch size and rates.
        seed: of the order of the images and the choice of views.
        device: where the steps run.
        deadline: ``time.monotonic()`` after which no further step begins; None for no limit.
        on_step: called after every step with its number, from 1, and its loss.

    Returns:
        Steps done and the last loss.

    Raises:
        TrainingDiverged: the loss is not finite.
    """
    generator = np.random.default_rng(seed)
    parameters = [parameter for parameter in tail.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(
        parameters,
        lr=optimisation.rate,
        momentum=optimisation.momentum,
        weight_decay=optimisation.weight_decay,
    )
    done, last = 0, math.nan
    with CoreParallel(tail, device) as network:
        objective.prepare(torch.cat([network.features(batch) for batch in _images(cache, 64)]))
        for images in _batches(len(cache), optimisation.batch, optimisation.steps, generator):
            if deadline is not None and time.monotonic() > deadline:
                break
            features = network.forward(_read(cache, images, objective.views, generator))
            loss = objective(features)
            last = loss.item()
            if not math.isfinite(last):
                raise TrainingDiverged(f"the loss is {last} at step {done + 1}; the model is as it was")
            (gradient,) = torch.autograd.grad(loss, features)
            network.backward(gradient)
            if optimisation.clip is not None:
                nn.utils.clip_grad_norm_(parameters, optimisation.clip)
            optimizer.step()
            done += 1
            on_step(done, last)
    return done, last


def _images(cache: ActivationCache, batch: int) -> Iterator[Tensor]:
    """View 0 of all images, a batch at a time."""
    for first in range(0, len(cache), batch):
        images = np.arange(first, min(first + batch, len(cache)))
        yield cache.read(np.zeros_like(images), images)


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
