from __future__ import annotations

import glob
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from anomscan.errors import ModelDamaged
from anomscan.network.extractor import Extractor
from anomscan.network.inspect import check_graph
from tests.fakes import fake_network


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return fake_network(tmp_path).graph


def changed(path: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def test_what_the_tool_writes_is_accepted(graph: Path, model_folder: Path) -> None:
    check_graph(graph)
    for file in glob.glob(f"{model_folder}/*.onnx"):
        check_graph(Path(file))


def external(model: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "constant")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    model.graph.initializer.append(tensor)


def external_attribute(model: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "constant")
    tensor.data_location = TensorProto.EXTERNAL
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["a", "b"], ["c"], body=body))


def hidden_graph(model: onnx.ModelProto) -> None:
    model.graph.node.append(
        helper.make_node("Identity", ["a"], ["b"], inside=helper.make_graph([], "g", [], []))
    )


def custom(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Evil", ["a"], ["b"], domain="com.example"))


def custom_opset(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def function(model: onnx.ModelProto) -> None:
    model.functions.append(helper.make_function("", "F", ["a"], ["b"], [], [helper.make_opsetid("", 18)]))


def sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.append(onnx.SparseTensorProto())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (external, "reads constants from another file"),
        (external_attribute, "reads constants from another file"),
        (loop, "has control flow"),
        (hidden_graph, "graphs inside a graph"),
        (custom, "operators of 'com.example'"),
        (custom_opset, "operators of 'com.example'"),
        (function, "functions of its own"),
        (sparse, "sparse constants"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_could_do_more_than_compute_is_refused_before_a_session_is_built(
    graph: Path, change: Callable[[onnx.ModelProto], None], sentence: str
) -> None:
    with pytest.raises(ModelDamaged, match=sentence):
        Extractor(changed(graph, change), threads=1)


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"no graph at all", b"\x3a\xff\xff\xff\xff\x0f"])
def test_what_is_no_graph_is_one_sentence(graph: Path, content: bytes) -> None:
    graph.write_bytes(content)
    with pytest.raises(ModelDamaged, match="is not an ONNX graph"):
        check_graph(graph)


def test_a_graph_cut_anywhere_is_refused_or_harmless(graph: Path) -> None:
    whole = graph.read_bytes()
    for length in range(0, len(whole), 7):
        graph.write_bytes(whole[:length])
        with pytest.raises(ModelDamaged):
            Extractor(graph, threads=1)
