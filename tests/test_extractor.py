from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from anomscan.bundle import Model
from anomscan.errors import ModelDamaged, UsageError
from anomscan.extractor import BATCH, Extractor
from anomscan.images import Decoded, decode
from tests.conftest import draw


def images(model: Model, folder: Path, count: int) -> list[Decoded]:
    decoded = []
    for seed in range(count):
        path = folder / f"{seed}.png"
        draw(100 + seed).save(path)
        decoded.append(Decoded(str(path), decode(str(path), model.manifest.preprocessing)))
    return decoded


def test_features_have_norm_one(model: Model, tmp_path: Path) -> None:
    ((_, features),) = model.extractor.embed(images(model, tmp_path, 3))
    assert features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("size", [1, 3, 7, 64])
def test_the_batch_does_not_matter(model: Model, tmp_path: Path, size: int) -> None:
    pixels = np.stack([image.pixels for image in images(model, tmp_path, 8) if image.pixels is not None])
    pixels = np.tile(pixels, (8, 1, 1, 1))
    alone = np.concatenate([model.extractor.run(pixels[i : i + 1]) for i in range(8)])
    together = model.extractor.run(pixels[:size])
    np.testing.assert_allclose(together[:8], alone[:size], atol=1e-6)


def test_unreadable_images_do_not_break_a_batch(model: Model, tmp_path: Path) -> None:
    readable = images(model, tmp_path, BATCH + 1)
    mixed = [*readable[:2], Decoded("bad.jpg", None, "truncated"), *readable[2:]]
    batches = list(model.extractor.embed(mixed))
    assert [d.error for d in batches[0][0]] == ["truncated"]
    assert [d.path for batch, _ in batches[1:] for d in batch] == [d.path for d in readable]
    assert [len(features) for _, features in batches] == [0, BATCH, 1]


def test_the_file_says_what_it_needs(model: Model) -> None:
    metadata = model.extractor.metadata
    assert (metadata["height"], metadata["width"]) == ("64", "64")
    assert metadata["backbone"] == "tf_efficientnet_lite0"
    assert "bicubic" in metadata["resize"]


def test_what_is_no_graph_is_a_damaged_model(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"nonsense")
    for graph in (tmp_path / "x.onnx", b"nonsense"):
        with pytest.raises(ModelDamaged, match="cannot load the extractor"):
            Extractor(graph, threads=1)


def test_cuda_is_taken_where_there_is_some(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = b"nonsense"
    with pytest.raises(UsageError, match="no CUDA"):
        Extractor(graph, threads=1, device="cuda")
    asked = []

    def session(*_: object, providers: list[object]) -> None:
        asked.append([p[0] if isinstance(p, tuple) else p for p in providers])
        raise ort_errors.Fail

    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    for device in ("auto", "cuda", "cpu"):
        with pytest.raises(ModelDamaged):
            Extractor(graph, 1, device)
    assert asked == [both, both, both[1:]]
