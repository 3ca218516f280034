"""What operators added to a graph come to, by onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from anomscan.network.graph import Graph, GraphOutputs, Value


def computed(
    add: Callable[[Graph, GraphOutputs], Value],
    folder: Path,
    image: NDArray[np.float32],
    patches: NDArray[np.float32] | None = None,
    dtype: type[np.generic] = np.float32,
) -> NDArray[Any]:
    """The value that ``add`` returns; the network gives ``image`` and, as ``distances``, ``patches``."""
    given = {"image": image} | ({} if patches is None else {"patches": patches})
    shapes = {name: ["N", *array.shape[1:]] for name, array in given.items()}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    nodes = [helper.make_node("Identity", [name], [f"{name}_given"]) for name in given]
    outputs = [
        helper.make_tensor_value_info(f"{name}_given", TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "given", inputs, outputs),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    onnx.save(model, folder / "given.onnx")
    graph = Graph(folder / "given.onnx")
    value = add(graph, GraphOutputs("image", None if patches is None else "patches"))
    graph.give({"out": (value, dtype, ())})
    graph._graph.output[0].type.tensor_type.ClearField("shape")
    graph.save(folder / "out.onnx", {})
    session = onnxruntime.InferenceSession(folder / "out.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, given)
    return np.asarray(found)
