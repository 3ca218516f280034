from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from anomscan.bundle import read_model
from anomscan.errors import NoImages, OutputError, ParityError
from anomscan.exporting import export
from anomscan.fitting import index
from anomscan.images import decode
from tests.conftest import SIZE, draw, silent


def test_export_checks_and_writes_the_graph(model_folder: Path, tmp_path: Path) -> None:
    assert export(model_folder, tmp_path / "out.onnx", [], silent) < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "out.onnx")
    (given,), (taken,) = session.get_inputs(), session.get_outputs()
    assert (given.type, given.shape[1:]) == ("tensor(uint8)", [SIZE, SIZE, 3])
    assert isinstance(given.shape[0], str), "N is dynamic"
    assert (taken.type, taken.shape[1]) == ("tensor(float)", 1280)
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["width"] == str(SIZE)
    assert metadata["output"] == "float32 [N, D], L2-normalised"
    model = read_model(model_folder, threads=1)
    pixels = np.stack([decode(path, model.manifest.preprocessing) for path in model.normals[:3]])
    (features,) = session.run(None, {given.name: pixels})
    np.testing.assert_allclose(features, model.gallery.vectors()[:3], atol=1e-5)


def test_export_refuses_a_graph_that_scores_differently(
    model_folder: Path, normal_folder: Path, tmp_path: Path
) -> None:
    normals = Path(shutil.copytree(normal_folder, tmp_path / "normals"))
    folder = Path(shutil.copytree(model_folder, tmp_path / "m"))
    index(str(normals), folder, None, None, silent)
    for path in normals.iterdir():
        draw(5000 + int(path.stem)).save(path)
    with pytest.raises(ParityError, match="so it was not written"):
        export(folder, tmp_path / "out.onnx", [], silent)
    assert not (tmp_path / "out.onnx").exists()
    export(folder, tmp_path / "out.onnx", [str(normals)], silent)
    shutil.rmtree(normals)
    with pytest.raises(NoImages, match="--images"):
        export(folder, tmp_path / "other.onnx", [], silent)


def test_export_to_a_place_that_cannot_be_written(model_folder: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        export(model_folder, Path("/proc/out.onnx"), [], silent)
