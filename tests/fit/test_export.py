from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from anomscan.errors import NoImages, OutputError, ParityError
from anomscan.fit.export import export
from anomscan.fit.index import IndexOptions, index
from anomscan.images.decode import decode
from anomscan.model.model import read_model
from tests.conftest import SIZE, draw, fake_model, silent


def test_export_checks_and_writes_the_graph(default_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    assert export(str(default_folder), str(out), [], silent) < 1e-4
    session = onnxruntime.InferenceSession(out)
    (given,), (taken,) = session.get_inputs(), session.get_outputs()
    assert (given.type, given.shape[1:]) == ("tensor(uint8)", [SIZE, SIZE, 3])
    assert isinstance(given.shape[0], str), "N is dynamic"
    assert (taken.name, taken.type, taken.shape[1]) == ("image", "tensor(float)", 1280)
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["width"] == str(SIZE)
    assert metadata["output"] == "float32 [N, D], L2-normalised"
    model = read_model(str(default_folder), threads=1)
    pixels = np.stack([decode(path, model.manifest.preprocessing).pixels for path in model.normals[:3]])
    (features,) = session.run(None, {given.name: pixels})
    np.testing.assert_allclose(features, model.gallery.vectors()[:3], atol=1e-5)


def test_export_refuses_a_graph_that_scores_differently(
    plain: Path, normal_folder: Path, tmp_path: Path
) -> None:
    normals = Path(shutil.copytree(normal_folder, tmp_path / "normals"))
    folder, out = str(plain), str(tmp_path / "out.onnx")
    index(str(normals), folder, IndexOptions(), silent)
    for path in normals.iterdir():
        draw(5000 + int(path.stem)).save(path)
    with pytest.raises(ParityError, match="so it was not written"):
        export(folder, out, [], silent)
    assert not Path(out).exists()
    export(folder, out, [str(normals)], silent)
    assert Path(out).exists()
    shutil.rmtree(normals)
    with pytest.raises(NoImages, match="--images"):
        export(folder, str(tmp_path / "other.onnx"), [], silent)
    assert not (tmp_path / "other.onnx").exists()


@pytest.mark.parametrize("scorer", ["mahalanobis", "kmeans:3", "knn-euclidean"])
def test_the_scores_that_are_compared_are_the_scorers(
    normal_folder: Path, tmp_path: Path, scorer: str
) -> None:
    fake_model(normal_folder, tmp_path / "m", scorer=scorer)
    assert export(str(tmp_path / "m"), str(tmp_path / "x.onnx"), [], silent) < 1e-4
    assert (tmp_path / "x.onnx").read_bytes() == next((tmp_path / "m").glob("extractor-*.onnx")).read_bytes()


def test_export_to_a_place_that_cannot_be_written(model_folder: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        export(str(model_folder), "/proc/out.onnx", [], silent)
