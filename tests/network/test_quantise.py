from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from anomscan.network.extractor import Extractor
from anomscan.network.quantise import quantise
from anomscan.types import Pixels
from tests.fakes import fake_network

LAYERS, CHANNELS = 17, 8


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """Convolutions of random weights, of (N, 16, 16, 3) pixels; features of norm 1."""
    generator = np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT, name="cast"),
        helper.make_node("Transpose", ["floats"], ["x0"], perm=[0, 3, 1, 2], name="transpose"),
    ]
    weights = []
    for i in range(LAYERS):
        before = 3 if i == 0 else CHANNELS
        kernel = generator.normal(size=(CHANNELS, before, 3, 3)) / (3 * before**0.5)
        scale = np.geomspace(0.1, 10, CHANNELS)[:, None, None, None]  # a channel needs a range of its own
        kernel = kernel * scale if i == LAYERS - 1 else kernel
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"w{i}"))
        nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"c{i}"], pads=[1] * 4, name=f"conv{i}"))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"x{i + 1}"], name=f"relu{i}"))
    nodes += [
        helper.make_node("Flatten", [f"x{LAYERS}"], ["flat"], name="flatten"),
        helper.make_node("LpNormalization", ["flat"], ["image"], axis=1, p=2, name="norm"),
    ]
    given = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 16, 16, 3])
    made = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", CHANNELS * 256])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [given], [made], weights),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    helper.set_model_props(model, {"backbone": "a small one"})
    onnx.save(model, tmp_path / "float.onnx")
    return tmp_path / "float.onnx"


def batches(count: int, seed: int) -> list[Pixels]:
    return [*np.random.default_rng(seed).integers(0, 255, (count, 4, 16, 16, 3), np.uint8)]


def test_features_of_8_bits_are_nearly_those_of_floats(graph: Path, tmp_path: Path) -> None:
    quantise(graph, tmp_path / "small.onnx", batches(5, seed=0))
    exact, small = Extractor(graph, threads=1), Extractor(tmp_path / "small.onnx", threads=1)
    (pixels,) = batches(1, seed=1)
    before, after = exact.run(pixels).image, small.run(pixels).image
    assert 0 < np.abs(after - before).max() < 0.05
    assert (before * after).sum(axis=1).min() > 0.99
    assert small.metadata["backbone"] == "a small one"


def test_the_first_convolutions_stay_float(graph: Path, tmp_path: Path) -> None:
    quantise(graph, tmp_path / "small.onnx", batches(1, seed=0))
    written = onnx.load(tmp_path / "small.onnx").graph
    quantised = {name for node in written.node if node.op_type == "DequantizeLinear" for name in node.output}
    inputs = {node.name: node.input for node in written.node if node.op_type == "Conv"}
    rounded = [i for i in range(LAYERS) if quantised & {*inputs[f"conv{i}"]}]
    assert rounded == [14, 15, 16]
    stored = {tensor.name: tensor.data_type for tensor in written.initializer}
    assert [i for i in range(LAYERS) if stored.get(f"w{i}") == TensorProto.FLOAT] == list(range(14))
    assert [stored[f"w{i}_quantized"] for i in rounded] == [TensorProto.INT8] * 3


def test_every_channel_has_a_scale_of_its_own(graph: Path, tmp_path: Path) -> None:
    quantise(graph, tmp_path / "small.onnx", batches(1, seed=0))
    sizes = {t.name: t.dims for t in onnx.load(tmp_path / "small.onnx").graph.initializer}
    scales = [size for name, size in sizes.items() if name.startswith("w") and name.endswith("scale")]
    assert scales == [[CHANNELS]] * 3


def test_activations_take_the_range_of_the_images_given(graph: Path, tmp_path: Path) -> None:
    """Static quantisation: what goes beyond the range of the calibration images is clipped."""
    dark = [pixels // 8 for pixels in batches(2, seed=0)]
    quantise(graph, tmp_path / "all.onnx", batches(2, seed=0))
    quantise(graph, tmp_path / "dark.onnx", dark)
    (pixels,) = batches(1, seed=1)
    expected = Extractor(graph, threads=1).run(pixels).image
    errors = [
        np.abs(Extractor(tmp_path / name, threads=1).run(pixels).image - expected).max()
        for name in ("all.onnx", "dark.onnx")
    ]
    assert errors[1] > 3 * errors[0]


def test_a_graph_without_convolutions_is_written_too(tmp_path: Path) -> None:
    network = fake_network(tmp_path, 16)
    quantise(network.graph, tmp_path / "small.onnx", batches(1, seed=0))
    (pixels,) = batches(1, seed=1)
    np.testing.assert_allclose(
        Extractor(tmp_path / "small.onnx", threads=1).run(pixels).image,
        Extractor(network.graph, threads=1).run(pixels).image,
        atol=0.01,
    )
