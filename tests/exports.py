"""Exports of networks that are alike, done once: most of a run on a small network is torch's exporter."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from anomscan.adapt import adaptation, focus, make, stage_readout
from anomscan.adapt.onnx_export import FromPixels, write_onnx

PLAIN = (bool, int, float, str, tuple, list, type(None))
"""What decides beside modules, weights and code how a module computes."""


@contextmanager
def remembered(kept: Path) -> Iterator[None]:
    """Let ``adapt/`` export into ``kept``, and copy from there what computes the same by the same weights.

    Several processes may share the folder.
    """

    def write(module: FromPixels, path: Path, *about: Any, **further: Any) -> None:
        key = hashlib.sha256(repr((module, about, further)).encode())
        for name, part in module.named_modules():
            plain = {k: v for k, v in vars(part).items() if isinstance(v, PLAIN)}
            key.update(repr((name, plain, getattr(part, "code", None))).encode())
        for name, value in module.state_dict().items():
            key.update(name.encode())
            key.update(value.numpy().tobytes())
        file = kept / key.hexdigest()
        if not file.exists():
            part = file.with_suffix(f".{os.getpid()}")
            write_onnx(module, part, *about, **further)
            part.replace(file)
        shutil.copyfile(file, path)

    with pytest.MonkeyPatch.context() as patch:
        for user in (adaptation, focus, make, stage_readout):
            patch.setattr(user, "write_onnx", write)
        yield
