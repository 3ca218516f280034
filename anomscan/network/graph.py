"""An ONNX graph to which operators are added: what comes behind the network of a model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anomscan.errors import OutputError
from anomscan.network.inspect import LARGEST

if TYPE_CHECKING:
    pass

Value = str
"""What is computed in a graph, by the name that it has there."""

OPSET = 18
OPERATORS = frozenset(
    (
        *("Cast", "Concat", "Gather", "Identity", "Reshape", "Slice", "Unsqueeze", "Where"),
        *("Add", "Clip", "Div", "Gemm", "Less", "LessOrEqual", "Log", "MatMul", "Max", "Min", "Mul", "Or"),
        *("ReduceSum", "Sqrt", "Sub", "TopK"),
    )
)
"""What is added is of these, which onnxruntime, OpenVINO and TensorRT all compute."""
_PREFIX = "scorer"
_LARGE = 1024
"""Numbers of a constant from which on it is worth rounding."""


@dataclass(frozen=True)
class GraphOutputs:
    """What a network gives, as values of a graph: see ``types.Outputs``.

    ``image`` is (N, D); ``distances`` (N, rows, columns), of the patches to the nearest of a normal, or None.
    """

    image: Value
    distances: Value | None = None


class Graph:
    """Adds operators to the graph of an extractor.

    The same operator on the same values, and the same constant, are there once.

    Args:
        path: the ``.onnx`` file; it stays as it is.
    """

    def __init__(self, path: Path) -> None:
        import onnx

        self._model = onnx.load(path)
        self._graph = self._model.graph
        self._there: dict[Any, tuple[Value, ...]] = {}
        self.given = [output.name for output in self._graph.output]

    def constant(self, array: NDArray[Any]) -> Value:
        """A constant; numbers of 64 bits become such of 32, whole ones stay."""
        from onnx import numpy_helper

        held = np.ascontiguousarray(array, np.float32 if array.dtype.kind == "f" else array.dtype)
        digest = hashlib.sha256(held.data).digest()
        key = ("", held.shape, held.dtype, digest)
        if key not in self._there:
            name = f"{_PREFIX}/constant_{len(self._there)}"
            self._graph.initializer.append(numpy_helper.from_array(held, name))
            self._there[key] = (name,)
        return self._there[key][0]

    def add(self, operator: str, *inputs: Value | NDArray[Any] | float, **attributes: Any) -> Value:
        """The first output of an operator; arrays and numbers among its inputs become constants."""
        return self._add(operator, 1, inputs, attributes)[0]

    def top(self, values: Value, k: int) -> tuple[Value, Value]:
        """The k largest of each row, (n, k) descending, and where they are, (n, k) int64."""
        largest, places = self._add("TopK", 2, (values, np.array([k])), {"axis": 1})
        return largest, places

    def sum(self, values: Value, *axes: int) -> Value:
        """The sum over some axes, which are gone."""
        return self.add("ReduceSum", values, np.array(axes), keepdims=0)

    def norm(self, vectors: Value, axis: int) -> Value:
        """The Euclidean norm along an axis, which is gone."""
        return self.add("Sqrt", self.sum(self.add("Mul", vectors, vectors), axis))

    def shaped(self, values: Value, *shape: int) -> Value:
        """The same values in another shape; one side may be -1."""
        return self.add("Reshape", values, np.array(shape))

    def cast(self, values: Value, dtype: type[np.generic]) -> Value:
        """The same values of another type."""
        from onnx import helper

        return self.add("Cast", values, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def give(self, outputs: Mapping[str, tuple[Value, type[np.generic], tuple[int, ...]]]) -> None:
        """Let these be all outputs, by name: a value, its type, and its shape behind N."""
        from onnx import helper

        del self._graph.output[:]
        for name, (value, dtype, shape) in outputs.items():
            if value != name:
                self._graph.node.append(helper.make_node("Identity", [value], [name], f"{_PREFIX}/{name}"))
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            self._graph.output.append(helper.make_tensor_value_info(name, kind, ["N", *shape]))

    def round(self) -> None:
        """Round large constants to 16 bits."""
        from onnx import numpy_helper

        for tensor in self._graph.initializer:
            array = numpy_helper.to_array(tensor)
            if array.dtype == np.float32 and array.size >= _LARGE:
                rounded = array.astype(np.float16).astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))

    def save(self, path: Path, about: Mapping[str, str]) -> None:
        """Write the graph, with ``about`` as its metadata beside what the extractor says of itself.

        What an exporter noted at every node (names of source files) is left out. Large constants that are
        the same in 16 bits are kept in those, and brought back to 32 before they are used.

        Raises:
            OutputError: it is larger than an ONNX file can be.
        """
        import onnx
        from onnx import helper

        parts = self._graph.node, self._graph.initializer, self._graph.input
        for part in (self._graph, *chain(*parts)):
            del part.metadata_props[:]
            part.doc_string = ""
        del self._graph.value_info[:]
        self._pack()
        known = {entry.key: entry.value for entry in self._model.metadata_props}
        helper.set_model_props(self._model, {**known, **about})
        if self._model.ByteSize() > LARGEST:
            raise OutputError(
                "with the features of all normals it is larger than an ONNX file can be; make the gallery "
                "smaller with 'anomscan index NORMAL --reduce coreset:K'"
            )
        onnx.save(self._model, path)

    def _pack(self) -> None:
        from onnx import TensorProto, helper, numpy_helper

        casts = []
        for tensor in self._graph.initializer:
            array, name = numpy_helper.to_array(tensor), tensor.name
            if array.dtype != np.float32 or array.size < _LARGE:
                continue
            with np.errstate(over="ignore"):
                packed = array.astype(np.float16)
            if np.array_equal(packed.astype(np.float32), array):
                tensor.CopyFrom(numpy_helper.from_array(packed, f"{name}/16"))
                casts.append(
                    helper.make_node("Cast", [tensor.name], [name], tensor.name, to=TensorProto.FLOAT)
                )
        nodes = list(self._graph.node)
        del self._graph.node[:]
        self._graph.node.extend([*casts, *nodes])

    def _add(
        self,
        operator: str,
        outputs: int,
        inputs: tuple[Value | NDArray[Any] | float, ...],
        attributes: Mapping[str, Any],
    ) -> tuple[Value, ...]:
        from onnx import helper

        names = [value if isinstance(value, str) else self.constant(np.asarray(value)) for value in inputs]
        key = (operator, *names, *sorted(attributes.items()))
        if key not in self._there:
            found = [f"{_PREFIX}/{operator}_{len(self._there)}_{i}" for i in range(outputs)]
            node = helper.make_node(operator, names, found, found[0], **attributes)
            self._graph.node.append(node)
            self._there[key] = tuple(found)
        return self._there[key]
