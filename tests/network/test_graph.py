from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from anomscan.errors import OutputError
from anomscan.network import graph as module
from anomscan.network.graph import OPERATORS, Graph
from tests.fakes import fake_network


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return fake_network(tmp_path, 16).graph


PIXELS = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3), np.uint8)


def run(path: Path) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"pixels": PIXELS}), strict=True))


def test_operators_are_added_and_given_under_names(network: Path, tmp_path: Path) -> None:
    graph = Graph(network)
    assert graph.given == ["image"]
    largest, places = graph.top("image", 2)
    norm = graph.norm(graph.add("Sub", "image", 1.0), 1)
    whole = graph.cast(graph.add("Less", norm, 1e9), np.int64)
    graph.give(
        {
            "largest": (largest, np.float32, (2,)),
            "places": (places, np.int64, (2,)),
            "norm": (norm, np.float32, ()),
            "whole": (whole, np.int64, ()),
            "image": ("image", np.float32, (192,)),
        }
    )
    graph.save(tmp_path / "out.onnx", {"model": "m"})
    found, image = run(tmp_path / "out.onnx"), run(network)["image"]
    assert list(found) == ["largest", "places", "norm", "whole", "image"]
    np.testing.assert_array_equal(found["image"], image)
    np.testing.assert_array_equal(found["places"], np.argsort(-image, axis=1, kind="stable")[:, :2])
    np.testing.assert_array_equal(found["largest"], -np.sort(-image, axis=1)[:, :2])
    np.testing.assert_allclose(found["norm"], np.linalg.norm(image - 1, axis=1), rtol=1e-6)
    assert found["whole"].tolist() == [1, 1, 1]
    written = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(written, full_check=True)
    assert {node.op_type for node in written.graph.node if node.name.startswith("scorer")} <= OPERATORS
    assert {entry.key: entry.value for entry in written.metadata_props} == {"model": "m"}


def test_the_same_is_there_once(network: Path) -> None:
    graph = Graph(network)
    array = np.arange(4.0)
    assert graph.constant(array) == graph.constant(array.astype(np.float32)) != graph.constant(array + 1)
    assert graph.add("Add", "image", array[:1]) == graph.add("Add", "image", array[:1])
    assert graph.sum("image", 1) != graph.sum("image", 0)


def test_where_an_exporter_noted_its_source_files_nothing_stays(network: Path, tmp_path: Path) -> None:
    model = onnx.load(network)
    for holder in (model.graph.node[0], model.graph, model.graph.input[0]):
        entry = holder.metadata_props.add()
        entry.key, entry.value = "trace", "/home/somebody/code.py"
        holder.doc_string = "/home/somebody/code.py"
    onnx.save(model, network)
    graph = Graph(network)
    graph.give({"image": ("image", np.float32, (192,))})
    graph.save(tmp_path / "out.onnx", {})
    assert b"somebody" in network.read_bytes()
    assert b"somebody" not in (tmp_path / "out.onnx").read_bytes()


def test_what_is_the_same_in_16_bits_is_kept_in_those(network: Path, tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).normal(size=(192, 40)).astype(np.float32)
    sizes, found = [], []
    for rounds in (False, True):
        graph, out = Graph(network), tmp_path / f"{rounds}.onnx"
        graph.give({"product": (graph.add("MatMul", "image", matrix), np.float32, (40,))})
        if rounds:
            graph.round()
        graph.save(out, {})
        sizes.append(out.stat().st_size)
        found.append(run(out)["product"])
    assert sizes[0] > 4 * matrix.size > sizes[1] > 2 * matrix.size
    rounded = run(network)["image"] @ matrix.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(found[1], rounded, rtol=1e-4, atol=1e-6)
    assert 0 < np.abs(found[1] - found[0]).max() < 1e-2


def test_a_file_that_is_too_large_is_refused(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST", 100)
    with pytest.raises(OutputError, match="larger than an ONNX file can be"):
        Graph(network).save(tmp_path / "out.onnx", {})
    assert not (tmp_path / "out.onnx").exists()
