"""Pretrained backbones: a network, its stages, and what its input looks like."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import timm
import timm.data
import torch
from torch import nn

from anomscan import DEFAULT_BACKBONE
from anomscan.adapt.weights import PACKAGED, from_file, from_package, from_timm
from anomscan.errors import UsageError
from anomscan.images.decode import RESAMPLES
from anomscan.network.network import BackboneInfo
from anomscan.types import Preprocessing


@dataclass(frozen=True)
class Backbone:
    """A pretrained network in evaluation mode.

    ``model`` maps normalised pixels (N, 3, H, W) to features (N, D): what stood before the classifier.
    ``classifier`` maps features to the logits of the pretraining task, where the weights have it.
    ``stages`` are the names of its feature stages with their strides, from input to output.
    """

    model: nn.Module
    classifier: nn.Module | None
    stages: tuple[tuple[str, int], ...]
    preprocessing: Preprocessing
    info: BackboneInfo

    def takes(self, height: int, width: int) -> bool:
        """Whether it takes images of that size in pixels."""
        try:
            with torch.no_grad():
                self.model(torch.zeros(1, 3, height, width))
        except (RuntimeError, AssertionError):
            return False
        return True


def load_backbone(
    name: str = DEFAULT_BACKBONE, weights: str | None = None, size: int | None = None
) -> Backbone:
    """A timm model with pretrained weights, without its classifier; never silently random.

    Args:
        name: a timm model name.
        weights: a ``.safetensors`` or ``.pth`` state dict to load instead of the pretrained one.
        size: side of the square input in pixels; the model's own by default.

    Raises:
        UsageError: timm has no model of that name, or it does not take that size.
        WeightsUnavailable: no weights, or weights that do not fit.
    """
    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('_')[0]}*")[:3]
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise UsageError(f"timm has no backbone called {name!r}{hint}")
    if weights is not None:
        model, classifier, source, digest = from_file(name, weights, size)
    elif name in PACKAGED and find_spec(PACKAGED[name].module):
        model, classifier, source, digest = from_package(name, size)
    else:
        model, classifier, source, digest = from_timm(name, size)
    model.eval()
    model.requires_grad_(False)
    preprocessing = _preprocessing(model, size)
    info = BackboneInfo(name, source, digest, int(model.num_features))
    return Backbone(model, classifier, _stages(model), preprocessing, info)


def _preprocessing(model: Any, size: int | None) -> Preprocessing:
    config = timm.data.resolve_model_data_config(model)
    _, height, width = config["input_size"]
    resample = config["interpolation"] if config["interpolation"] in RESAMPLES else "bicubic"
    own = Preprocessing(height, width, resample, tuple(config["mean"]), tuple(config["std"]))
    return replace(own, height=size, width=size) if size else own


def _stages(model: Any) -> tuple[tuple[str, int], ...]:
    info = model.feature_info
    entries = info.info if hasattr(info, "info") else info
    return tuple((entry["module"], int(entry["reduction"])) for entry in entries)
