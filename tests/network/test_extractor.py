from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from anomscan.errors import ModelDamaged, UsageError
from anomscan.images.decode import Decoded
from anomscan.images.find import Unreadable
from anomscan.model.model import Model
from anomscan.network.extractor import BATCH, Batch, Extractor
from anomscan.types import Outputs, Pixels
from tests.conftest import REPOSITORY, SIZE, draw


def images(count: int) -> list[Decoded]:
    return [Decoded(f"{seed}.png", np.array(draw(100 + seed, side=SIZE))) for seed in range(count)]


def graph(file: Path, *outputs: str) -> Path:
    """A graph of (N, 2, 2, 3) pixels; every output is them as floats, times its place, 1 first."""
    nodes = [helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT)]
    constants = []
    for place, name in enumerate(outputs, start=1):
        constants.append(helper.make_tensor(f"by {place}", TensorProto.FLOAT, [], [place]))
        nodes.append(helper.make_node("Mul", ["floats", f"by {place}"], [name]))
    given = [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 2, 2, 3])]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2, 2, 3]) for name in outputs]
    whole = helper.make_model(
        helper.make_graph(nodes, "g", given, made, constants),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    helper.set_model_props(whole, {"height": "2", "backbone": "none"})
    onnx.save(whole, file)
    return file


PIXELS: Pixels = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)


def test_features_have_norm_one(model: Model) -> None:
    (batch,) = model.extractor.embed(images(3))
    assert isinstance(batch, Batch)
    assert batch.outputs.image.dtype == np.float32
    assert batch.outputs.patches is None
    np.testing.assert_allclose(np.linalg.norm(batch.outputs.image, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("size", [1, 3, 7, 64])
def test_the_batch_does_not_matter(model: Model, size: int) -> None:
    pixels = np.stack([image.pixels for image in images(8)])
    pixels = np.tile(pixels, (8, 1, 1, 1))
    alone = np.concatenate([model.extractor.run(pixels[i : i + 1]).image for i in range(8)])
    together = model.extractor.run(pixels[:size]).image
    np.testing.assert_allclose(together[:8], alone[:size], atol=1e-6)


def test_unreadable_images_do_not_break_a_batch(model: Model) -> None:
    readable, bad = images(BATCH + 1), Unreadable("bad.jpg", "truncated")
    first, *batches = model.extractor.embed([*readable[:2], bad, *readable[2:]])
    assert first is bad
    whole = [batch for batch in batches if isinstance(batch, Batch)]
    assert [image for batch in whole for image in batch.images] == readable
    assert [len(batch.outputs) for batch in batches if isinstance(batch, Batch)] == [BATCH, 1]


@pytest.mark.parametrize("tiles", [1, 3, BATCH, 2 * BATCH + 1])
def test_the_outputs_of_tiles_stand_side_by_side(tmp_path: Path, tiles: int) -> None:
    extractor = Extractor(graph(tmp_path / "x.onnx", "image", "patches"), threads=2)
    pixels = np.random.default_rng(0).integers(0, 255, (5, tiles, 2, 2, 3), np.uint8)
    there, bad = [Decoded(str(i), own) for i, own in enumerate(pixels)], Unreadable("b", "gone")
    whole = Decoded("w", pixels[0, 0])
    longest: list[int] = []

    def then(outputs: Outputs) -> Outputs:
        longest.append(len(outputs))
        return outputs

    found = list(extractor.embed([*there[:2], bad, *there[2:], whole], then))
    batches = [batch for batch in found if isinstance(batch, Batch)]
    assert found.index(bad) == 2
    assert [image for batch in batches for image in batch.images] == [*there, whole]
    assert max(longest) <= BATCH
    for own, batch in zip(pixels, batches, strict=False):
        assert batch.outputs.image.shape == (1, 2 * tiles, 2, 3)
        np.testing.assert_array_equal(batch.outputs.image[0], own.reshape(-1, 2, 3))
        assert batch.outputs.patches is not None
        np.testing.assert_array_equal(batch.outputs.patches[0], 2.0 * own.reshape(-1, 2, 3))


def test_the_order_is_kept_whatever_the_threads(tmp_path: Path) -> None:
    extractor = Extractor(graph(tmp_path / "x.onnx", "image"), threads=3)
    pixels = [np.full((2, 2, 2, 3), i, np.uint8) for i in range(50)]
    assert [outputs.image.max() for outputs in extractor.run_all(pixels)] == list(range(50))


def test_the_file_says_what_it_needs(tmp_path: Path) -> None:
    metadata = Extractor(graph(tmp_path / "x.onnx", "image"), threads=1).metadata
    assert metadata == {"height": "2", "backbone": "none"}


@pytest.mark.parametrize("names", [["image"], ["features"]])
def test_the_features_are_the_output_of_that_name_or_its_older_one(tmp_path: Path, names: list[str]) -> None:
    outputs = Extractor(graph(tmp_path / "x.onnx", *names), threads=1).run(PIXELS)
    assert isinstance(outputs, Outputs)
    np.testing.assert_array_equal(outputs.image, PIXELS)
    assert outputs.patches is None


@pytest.mark.parametrize("names", [["image", "patches"], ["patches", "more", "image"]])
def test_outputs_go_by_their_names_not_by_their_places(tmp_path: Path, names: list[str]) -> None:
    outputs = Extractor(graph(tmp_path / "x.onnx", *names), threads=1).run(PIXELS)
    np.testing.assert_array_equal(outputs.image, PIXELS * (names.index("image") + 1.0))
    assert outputs.patches is not None
    np.testing.assert_array_equal(outputs.patches, PIXELS * (names.index("patches") + 1.0))


@pytest.mark.parametrize("names", [["patches"], ["logits"], ["logits", "patches"]])
def test_a_graph_without_features_is_refused(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(ModelDamaged, match=f"no output called image, only {', '.join(names)}"):
        Extractor(graph(tmp_path / "x.onnx", *names), threads=1)


def test_what_is_no_graph_is_a_damaged_model(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"nonsense")
    (tmp_path / "empty.onnx").touch()
    for name in ("x.onnx", "empty.onnx", "missing.onnx"):
        with pytest.raises(ModelDamaged, match="cannot load the extractor"):
            Extractor(tmp_path / name, threads=1)


def test_cuda_is_taken_where_there_is_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = graph(tmp_path / "x.onnx", "image")
    with pytest.raises(UsageError, match="no CUDA"):
        Extractor(file, threads=1, device="cuda")
    asked = []

    def session(given: str, *_: object, providers: list[object]) -> None:
        assert given == os.fspath(file)
        asked.append([p[0] if isinstance(p, tuple) else p for p in providers])
        raise ort_errors.Fail

    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    for device in ("auto", "cuda", "cpu"):
        with pytest.raises(ModelDamaged):
            Extractor(file, 1, device)
    assert asked == [both, both, both[1:]]


NO_MEMORY = """
import sys
from pathlib import Path
import numpy as np
from anomscan.errors import ModelDamaged
from anomscan.network.extractor import Extractor

try:
    Extractor(Path(sys.argv[1]), 1).run(np.zeros((1, 2, 2, 3), np.uint8))
except ModelDamaged as error:
    print(error)
"""


def test_what_a_graph_cannot_have_is_said_once(tmp_path: Path) -> None:
    """onnxruntime would print besides that it cannot have so much memory."""
    file = graph(tmp_path / "g.onnx", "before")
    whole = onnx.load(file)
    whole.graph.node.append(helper.make_node("Expand", ["before", "huge"], ["image"]))
    shape = [1 << 30, 1 << 29, 1, 1, 1, 1]  # its bytes are more than a number
    whole.graph.initializer.append(helper.make_tensor("huge", TensorProto.INT64, [6], shape))
    whole.graph.output[0].name = "image"
    whole.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(whole, file)
    done = subprocess.run([sys.executable, "-c", NO_MEMORY, file], capture_output=True, cwd=REPOSITORY)
    assert done.stdout.startswith(b"the extractor fails on (1, 2, 2, 3) pixels: ")
    assert done.stderr == b""


def test_scoring_reports_to_nobody_and_leaves_nothing_in_the_home_folder(
    normal_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    """In an environment of its own: what suppresses the reports in a test's would hide a fault."""
    (home := tmp_path / "home").mkdir()
    own = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "HOME": str(home)}
    command = [sys.executable, "-m", "anomscan", "score", str(normal_folder), "--model", str(model_folder)]
    subprocess.run(command, env=own, check=True, capture_output=True)
    assert list(home.iterdir()) == []
