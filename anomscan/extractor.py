"""Run an ONNX graph over images: from ``uint8 [N, H, W, 3]`` to features. Only here is onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from anomscan.errors import ModelDamaged
from anomscan.images import Decoded, Pixels

Features = NDArray[np.float32]

_LOAD_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)

BATCH = 16
"""Images a run: past this the throughput of a CPU no longer grows, and memory does."""


class Extractor:
    """A graph whose one input is ``uint8 [N, H, W, 3]`` RGB and whose one output is ``float32 [N, ...]``.

    A whole extractor gives ``[N, D]`` L2-normalised features; the frozen trunk of a backbone gives
    activations. The normalisation of the pixels is inside the graph.

    Args:
        graph: path of the ``.onnx`` file, or its bytes.
        threads: threads of one run.

    Raises:
        ModelDamaged: onnxruntime cannot load the graph.
    """

    def __init__(self, graph: Path | bytes, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                graph if isinstance(graph, bytes) else os.fspath(graph),
                options,
                providers=["CPUExecutionProvider"],
            )
        except _LOAD_ERRORS as error:
            raise ModelDamaged(f"onnxruntime cannot load the extractor: {error}") from error
        self._input = self._session.get_inputs()[0].name

    @property
    def metadata(self) -> dict[str, str]:
        """What the file says of itself: image size, resize rule, backbone."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def run(self, pixels: Pixels) -> Features:
        """One forward pass.

        Args:
            pixels: (n, H, W, 3) uint8 RGB.

        Returns:
            (n, ...) float32.
        """
        output: Features = self._session.run(None, {self._input: pixels})[0]
        return output

    def embed(self, images: Iterable[Decoded]) -> Iterator[tuple[list[Decoded], Features]]:
        """Batches of readable images and their features; unreadable ones come in batches of their own.

        The order of ``images`` is kept within the readable and within the unreadable ones.

        Yields:
            ``(images, features)``: n images with pixels and (n, ...) float32, or one image with an
            error and an empty (0, 0) array.
        """
        batch: list[Decoded] = []
        for image in images:
            if image.pixels is None:
                yield [image], np.empty((0, 0), np.float32)
                continue
            batch.append(image)
            if len(batch) == BATCH:
                yield batch, self._run_batch(batch)
                batch = []
        if batch:
            yield batch, self._run_batch(batch)

    def _run_batch(self, batch: list[Decoded]) -> Features:
        return self.run(np.stack([image.pixels for image in batch if image.pixels is not None]))
