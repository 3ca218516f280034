"""Run an ONNX graph over images: from ``uint8 [N, H, W, 3]`` to its outputs. onnxruntime runs only here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from anomscan.errors import ModelDamaged, UsageError
from anomscan.images.decode import Decoded
from anomscan.images.find import Unreadable
from anomscan.network.inspect import check_graph
from anomscan.pipeline import in_order
from anomscan.types import Outputs, Pixels

_LOAD_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)

_FATAL = 4
"""What onnxruntime may print: its errors are raised, and on standard error they would come twice."""
_RUN_ERRORS = (*_LOAD_ERRORS, ort_errors.EPFail, MemoryError, ValueError)

IMAGE, PATCHES = "image", "patches"
"""What the outputs of a graph are called; before 0.2 the first one was ``features``."""
_IMAGE_NAMES = (IMAGE, "features")

BATCH = 4
"""Images a run. One thread of a CPU is as fast with 4 as with more, and memory and the wait for the last
batch grow with it. It is the same on every machine, since the last digits of a feature depend on it."""


@dataclass(frozen=True)
class Batch:
    """Images that were embedded together, n of them, and their outputs, a row for each."""

    images: list[Decoded]
    outputs: Outputs


class Extractor:
    """A graph whose one input is ``uint8 [N, H, W, 3]`` RGB and whose outputs have names.

    A whole extractor gives ``image``, ``[N, D]`` features, and may give ``patches``; the frozen trunk of a
    backbone gives activations as ``image``. The normalisation of the pixels is inside the graph.

    Args:
        graph: path of the ``.onnx`` file.
        threads: runs side by side. Each run has one thread: cores that work on images of their own need
            not wait for each other, as those that share one do, layer by layer.
        device: ``cpu``, ``cuda``, or ``auto`` for CUDA where this onnxruntime has it.

    Raises:
        ModelDamaged: onnxruntime cannot load the graph, ``check_graph`` refuses it, or it has no output for
            images.
        UsageError: ``cuda`` and this onnxruntime has none.
    """

    def __init__(self, graph: Path, threads: int, device: str = "cpu") -> None:
        check_graph(graph)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = _FATAL
        onnxruntime.set_default_logger_severity(_FATAL)  # what lies below a session has a logger of its own
        try:
            self._session = onnxruntime.InferenceSession(
                os.fspath(graph), options, providers=_providers(device)
            )
        except _LOAD_ERRORS as error:
            raise ModelDamaged(f"onnxruntime cannot load the extractor: {error}") from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise ModelDamaged(f"the extractor takes {len(inputs)} inputs instead of one; adapt again")
        self._input = inputs[0].name
        there = [output.name for output in self._session.get_outputs()]
        self._wanted = [name for name in (*_IMAGE_NAMES, PATCHES) if name in there]
        if not self._wanted or self._wanted[0] not in _IMAGE_NAMES:
            raise ModelDamaged(f"the extractor has no output called {IMAGE}, only {', '.join(there)}")
        self._threads = threads

    @property
    def metadata(self) -> dict[str, str]:
        """What the file says of itself: image size, resize rule, backbone."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def run(self, pixels: Pixels) -> Outputs:
        """One forward pass over (n, H, W, 3) uint8 RGB.

        Raises:
            ModelDamaged: the graph takes something else, fails, or gives something else.
        """
        try:
            given = self._session.run(self._wanted, {self._input: pixels})
        except _RUN_ERRORS as error:
            first = str(error).strip().splitlines()[0][:200]
            raise ModelDamaged(f"the extractor fails on {pixels.shape} pixels: {first}") from error
        image, *patches = given
        count = len(pixels)
        fits = image.ndim >= 2 and all(a.ndim == 4 for a in patches)
        if not fits or any(len(a) != count or a.dtype != np.float32 for a in given):
            raise ModelDamaged("the extractor does not give a row of features for each image; adapt again")
        return Outputs(image, *patches)

    def run_all(self, batches: Iterable[Pixels]) -> Iterator[Outputs]:
        """The same for each of ``batches``, side by side, in order."""
        return in_order(self.run, batches, self._threads, 2 * self._threads)

    def embed(
        self,
        images: Iterable[Decoded | Unreadable],
        then: Callable[[Outputs], Outputs] = lambda outputs: outputs,
    ) -> Iterator[Batch | Unreadable]:
        """Batches of images with their outputs, and what is unreadable as it is.

        The order of ``images`` is kept within the readable and within the unreadable ones. ``then`` is
        applied to the outputs of each run by the thread that made them. An image of several tiles is a batch
        of its own, run after run, so that no more of them wait than of other images.
        """

        def embedded(run: _Run | Unreadable) -> tuple[_Run, Outputs] | Unreadable:
            return run if isinstance(run, Unreadable) else (run, then(self.run(np.stack(run.pixels))))

        return _batches(in_order(embedded, _runs(images), self._threads, 2 * self._threads))


def _providers(device: str) -> list[str | tuple[str, dict[str, str]]]:
    cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device == "cuda" and not cuda:
        raise UsageError("this onnxruntime has no CUDA; install onnxruntime-gpu, or leave --device out")
    if device == "cpu" or not cuda:
        return ["CPUExecutionProvider"]
    return [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]  # TF32 has 10 bits


@dataclass(frozen=True)
class _Run:
    """What passes through the graph at once: ``images``, or some tiles of one, which the last run names."""

    pixels: list[Pixels]
    images: list[Decoded]
    tiles: int = 1


def _runs(images: Iterable[Decoded | Unreadable]) -> Iterator[_Run | Unreadable]:
    batch: list[Decoded] = []
    for image in images:
        if isinstance(image, Unreadable):
            yield image
        elif image.pixels.ndim == 4:
            tiles = list(image.pixels)
            for first in range(0, len(tiles), BATCH):
                last = first + BATCH >= len(tiles)
                yield _Run(tiles[first : first + BATCH], [image] if last else [], len(tiles))
        else:
            batch.append(image)
            if len(batch) == BATCH:
                yield _Run([image.pixels for image in batch], batch)
                batch = []
    if batch:
        yield _Run([image.pixels for image in batch], batch)


def _batches(runs: Iterable[tuple[_Run, Outputs] | Unreadable]) -> Iterator[Batch | Unreadable]:
    parts: list[Outputs] = []
    for found in runs:
        if isinstance(found, Unreadable):
            yield found
            continue
        run, outputs = found
        parts.append(outputs)
        if run.images:
            whole = outputs if len(parts) == 1 else Outputs.joined(parts)
            yield Batch(run.images, whole.folded(run.tiles))
            parts = []
