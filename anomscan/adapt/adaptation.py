"""Adapt a backbone by a preset: cache what is frozen, train what learns, put the graph together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from anomscan.adapt.activations import ActivationCache, cache_activations
from anomscan.adapt.backbones import Backbone
from anomscan.adapt.made_anomalies import KINDS, batched
from anomscan.adapt.objectives import Logistic
from anomscan.adapt.onnx_export import FromPixels, L2Normalise, write_onnx
from anomscan.adapt.presets import Optimisation, Preset
from anomscan.adapt.regularizers import L2SP, ElasticWeightConsolidation, Regularizer, fisher_diagonal
from anomscan.adapt.stopping import LabelFree, Samplewise, Stopping
from anomscan.adapt.trainables import TRAINABLES
from anomscan.adapt.trainer import Others, resolve_device, train
from anomscan.adapt.views import Augmentation
from anomscan.config import Progress, available_cores
from anomscan.errors import InputError, UsageError
from anomscan.extractor import Extractor
from anomscan.images import Decoded, Pixels

FISHER_IMAGES = 100


@dataclass(frozen=True)
class Folder:
    """Images to be decoded, what they are, how many at most, and their classes where there are classes."""

    images: Iterable[Decoded]
    count: int
    what: str
    classes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Resources:
    """What a run may use: seed, device name, seconds of training, bytes of cache, a scratch folder."""

    seed: int
    device: str
    time_budget: float | None
    memory: float
    scratch: Path


@dataclass(frozen=True)
class Adapted:
    """The whole network, how it came about, and what its scorer has to know."""

    module: FromPixels
    steps: int
    loss: float | None
    scorer_state: dict[str, NDArray[np.float32]]
    selection: dict[str, Any] | None


def adapt_backbone(
    backbone: Backbone,
    preset: Preset,
    optimisation: Optimisation,
    normals: Folder,
    others: Folder | None,
    held_out: Folder | None,
    *,
    normalise: bool,
    resources: Resources,
    progress: Progress,
) -> Adapted:
    """Train what the preset trains of ``backbone``, whose parameters change.

    Args:
        backbone: pretrained.
        preset: a method with an objective.
        optimisation: the preset's, or with other steps.
        normals: the normal images.
        others: outliers or reference images, where the preset needs them.
        held_out: normals that are not trained on, for a preset that selects by them.
        normalise: whether the graph ends in L2 normalisation.
        resources: what the run may use.
        progress: see ``config.Progress``.

    Raises:
        InputError: no image of a folder can be read.
        UsageError: the backbone does not have the parts that the preset needs.
        TrainingDiverged: the loss is not finite.
    """
    assert preset.objective is not None  # noqa: S101 - DN2 has nothing to train
    torch.manual_seed(resources.seed)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # small operations; what is large runs in CoreParallel, a thread a core
    trunk, tail = TRAINABLES[preset.trainable](backbone)
    objective = preset.objective()
    cached = _Caches(backbone, trunk, resources)
    augmentation = Augmentation(backbone.preprocessing.height, backbone.preprocessing.width)
    normal_cache = cached.of(normals, [augmentation] * preset.views)
    other_cache = cached.of(others, []) if others else None
    makers = [batched(maker, resources.seed + i) for i, maker in enumerate(KINDS.values())]
    held_out_cache = cached.of(held_out, makers) if held_out else None
    device = resolve_device(resources.device)
    tail.to(device)
    regularizer = _regularizer(preset, backbone, tail, other_cache or normal_cache, resources.seed)
    stopping: Stopping = Stopping()
    if preset.stopping == "samplewise":
        stopping = Samplewise(tail, optimisation.steps)
    elif held_out_cache is not None:
        stopping = LabelFree(tail, optimisation.steps, normal_cache, held_out_cache, resources.seed)

    def on_step(step: int, loss: float) -> bool:
        progress("adapting", step, optimisation.steps, f"loss {loss:.4g}")
        return stopping.after_step(step)

    stopping.after_step(0)
    steps, loss = train(
        tail,
        normal_cache,
        objective,
        optimisation,
        others=_labelled(others, other_cache) if objective.needs else None,
        regularizer=regularizer,
        seed=resources.seed,
        device=device,
        deadline=None if resources.time_budget is None else time.monotonic() + resources.time_budget,
        on_step=on_step,
    )
    result = stopping.result(tail.to("cpu"))
    state: dict[str, NDArray[np.float32]] = {}
    if isinstance(objective, Logistic):
        linear = objective.linear.cpu()
        state = {"weight": linear.weight.detach().numpy()[0], "bias": linear.bias.detach().numpy()}
    if isinstance(stopping, Samplewise):
        state = {"checkpoints": np.array([len(stopping.kept)], np.float32)}
        normalise = False  # every checkpoint's share is normalised already
    module = FromPixels(backbone.preprocessing, trunk, result, *([L2Normalise()] if normalise else []))
    selection = stopping.record() if isinstance(stopping, LabelFree) else None
    return Adapted(module, steps, loss if steps else None, state, selection)


class _Caches:
    """Runs the trunk, in onnxruntime, over every image that will be learnt from."""

    def __init__(self, backbone: Backbone, trunk: nn.Module, resources: Resources) -> None:
        graph = resources.scratch / "trunk.onnx"
        write_onnx(FromPixels(backbone.preprocessing, trunk), graph, backbone.preprocessing, backbone.info)
        self._trunk = Extractor(graph, available_cores())
        self._memory = resources.memory

    def of(self, folder: Folder, views: Sequence[Callable[[Pixels], Pixels]]) -> ActivationCache:
        cache = cache_activations(self._trunk, folder.images, folder.count, views=views, memory=self._memory)
        if cache is None:
            raise InputError(f"none of the {folder.count} {folder.what} images can be read")
        return cache


def _labelled(folder: Folder | None, cache: ActivationCache | None) -> Others | None:
    if folder is None or cache is None:
        return None
    labels = np.array([folder.classes.get(path, 0) for path in cache.paths], np.int64)
    return Others(cache, labels, len(set(folder.classes.values())))


def _regularizer(
    preset: Preset, backbone: Backbone, tail: nn.Module, images: ActivationCache, seed: int
) -> Regularizer | None:
    parameters = [parameter for parameter in tail.parameters() if parameter.requires_grad]
    if preset.regularizer == "l2-sp":
        return L2SP(parameters)
    if preset.regularizer == "none":
        return None
    if backbone.classifier is None:
        raise UsageError(
            "elastic weight consolidation needs the pretrained classifier, which these weights come without"
        )
    device = parameters[0].device
    activations = (image.to(device) for image, _ in zip(images.images(1), range(FISHER_IMAGES), strict=False))
    generator = torch.Generator().manual_seed(seed)
    classifier = backbone.classifier.to(device)
    fisher = fisher_diagonal(tail, classifier, parameters, activations, generator)
    return ElasticWeightConsolidation(parameters, fisher)
