"""Adapt a backbone by a preset: cache what is frozen, train what learns."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from anomscan.adapt.activations import ActivationCache, cache_activations
from anomscan.adapt.backbones import Backbone
from anomscan.adapt.checkpoint import Checkpoint
from anomscan.adapt.folders import Folder, Material
from anomscan.adapt.onnx_export import FromPixels, write_onnx
from anomscan.adapt.presets import Preset
from anomscan.adapt.stopping import Training
from anomscan.adapt.trainer import Keeping, Others, Trainer, resolve_device
from anomscan.adapt.views import Augmentation, View
from anomscan.errors import InputError, UsageError
from anomscan.network.extractor import Extractor
from anomscan.pipeline import available_cores
from anomscan.types import Arrays, Progress


@dataclass(frozen=True)
class Resources:
    """What a run may use: seed, device name, seconds of training, bytes of cache, a scratch folder.

    ``checkpoint`` is where its state is kept for the same run after it was killed; None keeps none.
    """

    seed: int
    device: str
    time_budget: float | None
    memory: float
    scratch: Path
    checkpoint: Checkpoint | None = None


@dataclass(frozen=True)
class Adapted:
    """The modules, in a row, from normalised pixels to features, and how they came about.

    ``learnt`` is what the parts leave to the scorer; ``selection`` what was chosen and why, where there was
    a choice; ``normalised`` says whether the features have norm 1 already.
    """

    network: Sequence[nn.Module]
    steps: int = 0
    loss: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    learnt: Arrays = field(default_factory=dict)
    selection: dict[str, Any] | None = None
    normalised: bool = False


def adapt_backbone(
    backbone: Backbone, preset: Preset, material: Material, resources: Resources, progress: Progress
) -> Adapted:
    """Train what the preset trains of ``backbone``, whose parameters change.

    Args:
        backbone: pretrained.
        preset: a method with an objective.
        material: what it learns from; all that the preset needs.
        resources: what the run may use.
        progress: see ``types.Progress``.

    Raises:
        InputError: no image of a folder can be read.
        UsageError: the backbone does not have the parts that the preset needs.
        TrainingDiverged: the loss is not finite.
    """
    for part in preset.parts:
        if part.needs_classifier and backbone.classifier is None:
            raise UsageError(
                f"{part.describe()} needs the pretrained classifier, which these weights come without"
            )
    torch.manual_seed(resources.seed)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # small operations; what is large runs in CoreParallel, a thread a core
    trunk, tail = preset.trainable.split(backbone)
    device = resolve_device(resources.device)
    cached = _cached(backbone, trunk, preset, material, resources)
    trainer = _trainer(tail.to(device), backbone, preset, cached, resources.seed)
    steps = preset.optimisation.steps
    training = Training(backbone.model, trunk, tail, steps, cached.normals)
    watch = preset.stopping.watch(training)

    def on_step(step: int, loss: float) -> bool:
        progress("adapting", step, steps, f"loss {loss:.4g}")
        return watch.after_step(step)

    watch.after_step(0)
    keeping = Keeping(resources.checkpoint, watch) if resources.checkpoint else None
    with _naming(resources.checkpoint):
        done, loss = trainer.run(on_step, resources.time_budget, keeping)
    tail.to("cpu")
    network = watch.result(training)
    if network is None:
        return Adapted([backbone.model], selection=watch.record())
    return Adapted(
        network,
        done,
        loss if done else None,
        asdict(preset.optimisation),
        {**trainer.objective.state(), **watch.state()},
        watch.record(),
        preset.stopping.normalises,
    )


@contextmanager
def _naming(checkpoint: Checkpoint | None) -> Iterator[None]:
    """Let whatever ends the training say what is kept of it."""
    try:
        yield
    except BaseException as end:
        if checkpoint and checkpoint.step is not None:
            end.add_note(f"the model is as it was, and the same command goes on after step {checkpoint.step}")
        raise


@dataclass(frozen=True)
class _Cached:
    """What the trunk makes of the material."""

    normals: ActivationCache
    others: dict[str, Others]


def _cached(
    backbone: Backbone, trunk: nn.Module, preset: Preset, material: Material, resources: Resources
) -> _Cached:
    """Run the trunk, in onnxruntime, over every image that will be learnt from."""
    preprocessing = backbone.preprocessing
    graph = resources.scratch / "trunk.onnx"
    write_onnx(FromPixels(preprocessing, trunk), graph, preprocessing, backbone.info)
    extractor = Extractor(graph, available_cores())

    def of(folder: Folder, views: Sequence[View] = ()) -> ActivationCache:
        cache = cache_activations(
            extractor, folder.images, folder.count, views=views, memory=resources.memory
        )
        if cache is None:
            raise InputError(f"none of the {folder.count} {folder.what} images can be read")
        return cache

    augmentation = Augmentation(preprocessing.height, preprocessing.width)
    normals = of(material.normals, [augmentation] * preset.views)
    others = {option: _labelled(folder, of(folder)) for option, folder in material.others.items()}
    return _Cached(normals, others)


def _labelled(folder: Folder, cache: ActivationCache) -> Others:
    labels = np.array([folder.classes.get(path, 0) for path in cache.paths], np.int64)
    return Others(cache, labels, len(set(folder.classes.values())))


def _trainer(tail: nn.Module, backbone: Backbone, preset: Preset, cached: _Cached, seed: int) -> Trainer:
    """Everything that the parts say of the training, put together."""
    assert preset.objective is not None  # noqa: S101 - without one there is nothing to train
    objective = copy.deepcopy(preset.objective)
    penalty = None
    if preset.regularizer is not None:
        further = cached.others.get(preset.regularizer.needs.option) if preset.regularizer.needs else None
        images = further.cache if further else cached.normals
        penalty = preset.regularizer.hold(tail, backbone.classifier, images, seed)
    others = cached.others[objective.needs.option] if objective.needs else None
    device = next(tail.parameters()).device
    return Trainer(tail, objective, preset.optimisation, cached.normals, seed, device, others, penalty)
