"""What runs an exported file on this machine: onnxruntime, and OpenVINO where it is installed."""

from __future__ import annotations

import os
import statistics
import time
from abc import ABC, abstractmethod
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from anomscan.types import Pixels

Arrays = dict[str, NDArray[Any]]
_TIMED = 20


class Backend(ABC):
    """A file that was loaded; ``version`` names what runs it."""

    version: str

    @abstractmethod
    def run(self, pixels: Pixels) -> Arrays:
        """All outputs for (n, H, W, 3) uint8 RGB, by name."""

    def run_each(self, images: list[Pixels], batch: int) -> Arrays:
        """The outputs of images, (H, W, 3), some at a time, joined."""
        parts = [self.run(np.stack(images[i : i + batch])) for i in range(0, len(images), batch)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def milliseconds(self, images: list[Pixels]) -> float:
        """The median time of one image, by itself, after a first one."""
        self.run(images[0][None])
        times = []
        for image in images[:_TIMED]:
            began = time.perf_counter()
            self.run(image[None])
            times.append(1e3 * (time.perf_counter() - began))
        return statistics.median(times)


class OnnxRuntime(Backend):
    """On the CPU, with so many threads."""

    def __init__(self, path: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        self._session = onnxruntime.InferenceSession(
            os.fspath(path), options, providers=["CPUExecutionProvider"]
        )
        self.version = f"onnxruntime {onnxruntime.__version__}"

    def run(self, pixels: Pixels) -> Arrays:
        """As ``Backend``."""
        names = [output.name for output in self._session.get_outputs()]
        values = self._session.run(names, {self._session.get_inputs()[0].name: pixels})
        return dict(zip(names, values, strict=True))


class OpenVino(Backend):
    """On the CPU, with so many threads, in 32 bits: by itself it may round to 16."""

    def __init__(self, path: Path, threads: int) -> None:
        import openvino

        core = openvino.Core()
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        self._model = core.compile_model(core.read_model(path.read_bytes()), "CPU", settings)
        self.version = f"openvino {openvino.__version__.partition('-')[0]}"

    def run(self, pixels: Pixels) -> Arrays:
        """As ``Backend``."""
        found = self._model([pixels])
        return {output.get_any_name(): np.array(found[output]) for output in self._model.outputs}


def backends(path: Path, threads: int) -> list[Backend]:
    """All that are installed, onnxruntime first."""
    loaded: list[Backend] = [OnnxRuntime(path, threads)]
    if find_spec("openvino") is not None:
        loaded.append(OpenVino(path, threads))
    return loaded
