"""Run an ONNX graph over images: from ``uint8 [N, H, W, 3]`` to features. Only here is onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from anomscan.errors import ModelDamaged, UsageError
from anomscan.images import Decoded, Pixels
from anomscan.pipeline import in_order

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

BATCH = 4
"""Images a run. One thread of a CPU is as fast with 4 as with more, and memory and the wait for the last
batch grow with it. It is the same on every machine, since the last digits of a feature depend on it."""


class Extractor:
    """A graph whose one input is ``uint8 [N, H, W, 3]`` RGB and whose one output is ``float32 [N, ...]``.

    A whole extractor gives ``[N, D]`` L2-normalised features; the frozen trunk of a backbone gives
    activations. The normalisation of the pixels is inside the graph.

    Args:
        graph: path of the ``.onnx`` file, or its bytes.
        threads: runs side by side. Each run has one thread: cores that work on images of their own need
            not wait for each other, as those that share one do, layer by layer.
        device: ``cpu``, ``cuda``, or ``auto`` for CUDA where this onnxruntime has it.

    Raises:
        ModelDamaged: onnxruntime cannot load the graph.
        UsageError: ``cuda`` and this onnxruntime has none.
    """

    def __init__(self, graph: Path | bytes, threads: int, device: str = "cpu") -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                graph if isinstance(graph, bytes) else os.fspath(graph),
                options,
                providers=_providers(device),
            )
        except _LOAD_ERRORS as error:
            raise ModelDamaged(f"onnxruntime cannot load the extractor: {error}") from error
        self._input = self._session.get_inputs()[0].name
        self._threads = threads

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

    def run_all(self, batches: Iterable[Pixels]) -> Iterator[Features]:
        """The same for each of ``batches``, side by side, in order."""
        return in_order(self.run, batches, self._threads, 2 * self._threads)

    def embed(self, images: Iterable[Decoded]) -> Iterator[tuple[list[Decoded], Features]]:
        """Batches of readable images and their features; unreadable ones come in batches of their own.

        The order of ``images`` is kept within the readable and within the unreadable ones.

        Yields:
            ``(images, features)``: n images with pixels and (n, ...) float32, or one image with an
            error and an empty (0, 0) array.
        """
        return in_order(self._embed_batch, _batches(images), self._threads, 2 * self._threads)

    def _embed_batch(self, batch: list[Decoded]) -> tuple[list[Decoded], Features]:
        pixels = [image.pixels for image in batch if image.pixels is not None]
        return batch, self.run(np.stack(pixels)) if pixels else np.empty((0, 0), np.float32)


def _providers(device: str) -> list[str | tuple[str, dict[str, str]]]:
    cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device == "cuda" and not cuda:
        raise UsageError("this onnxruntime has no CUDA; install onnxruntime-gpu, or leave --device out")
    if device == "cpu" or not cuda:
        return ["CPUExecutionProvider"]
    return [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]  # TF32 has 10 bits


def _batches(images: Iterable[Decoded]) -> Iterator[list[Decoded]]:
    batch: list[Decoded] = []
    for image in images:
        if image.pixels is None:
            yield [image]
            continue
        batch.append(image)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


_INT8_OPERATORS = ("Conv", "Add", "Clip", "Relu")
_FLOAT_CONVOLUTIONS = 9


def quantise(graph: Path, out: Path, batches: Iterable[Pixels]) -> None:
    """Write ``graph`` with 8-bit weights and activations, as far as its scores survive it.

    Weights get a scale a channel, activations the range that ``batches`` span (static quantisation). The
    nodes up to the ninth convolution stay float: their error reaches everything behind them. On
    ``tf_efficientnet_lite0`` they are what lifts the Spearman correlation of scores above 0.98.

    Args:
        graph: a float extractor.
        out: the file to write.
        batches: pixels of normal images, each (n, H, W, 3) uint8.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, inputs: Iterator[dict[str, Pixels]]) -> None:
            self._inputs = inputs

        def get_next(self) -> dict[str, Pixels] | None:
            return next(self._inputs, None)

    model = onnx.load(graph)
    add_pre_process_metadata(model)  # the exporter has optimised it; without this a warning is logged
    name = model.graph.input[0].name
    convolutions = [i for i, node in enumerate(model.graph.node) if node.op_type == "Conv"]
    first = convolutions[:_FLOAT_CONVOLUTIONS]
    quantization.quantize_static(
        model,
        out,
        Reader({name: pixels} for pixels in batches),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=list(_INT8_OPERATORS),
        nodes_to_exclude=[node.name for node in model.graph.node[: first[-1] + 1]] if first else [],
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )
