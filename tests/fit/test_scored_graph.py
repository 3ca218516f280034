from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from anomscan.errors import ModelDamaged
from anomscan.fit.scored_graph import ScoredGraph
from anomscan.images.decode import Decoded, decode_all
from anomscan.images.find import Source
from anomscan.model.model import Model, read_model
from anomscan.network.backends import OnnxRuntime
from anomscan.screen.screener import Scored, Screener
from tests.conftest import draw, draw_odd, fake_model
from tests.fakes import fake_network


def opened(folder: Path) -> Model:
    return read_model(str(folder), threads=1)


def decoded(model: Model, folder: Path, normals: Path) -> list[Decoded]:
    """Two normals of the gallery or held out, others like them, and two that are not."""
    for seed in range(4):
        draw(400 + seed).save(folder / f"{seed}.png")
    for seed in range(2):
        draw_odd(410 + seed).save(folder / f"odd{seed}.png")
    paths = [*sorted(normals.glob("*.png"))[:6], *sorted(folder.glob("*.png"))]
    images = decode_all([Source(str(path)) for path in paths], model.manifest.preprocessing, 1)
    return [image for image in images if isinstance(image, Decoded)]


def check(scored: Scored, found: dict[str, np.ndarray], normals: list[str], atol: float) -> None:
    """What the file gives is what ``score`` says."""
    np.testing.assert_allclose(found["score"], scored.scores, rtol=2e-4, atol=atol)
    np.testing.assert_array_equal(found["features"], scored.outputs.image)
    assert [normals[row] for row in found["nearest"][:, 0]] == scored.nearest
    assert scored.p_values is not None
    np.testing.assert_allclose(found["p_value"], scored.p_values, atol=1e-6)
    assert (found["p_value"] <= scored.p_values).all(), "rounded down"
    assert scored.known.sum() == 6
    assert (found["p_value"][scored.known] == 1).all()


@pytest.mark.parametrize("scorer", ["knn", "knn-euclidean", "kmeans:3", "mahalanobis"])
def test_it_says_what_score_says(normal_folder: Path, tmp_path: Path, scorer: str) -> None:
    fake_model(normal_folder, tmp_path / "m", 0.5, scorer=scorer)
    model = opened(tmp_path / "m")
    images = decoded(model, tmp_path, normal_folder)
    ScoredGraph.of(str(tmp_path / "m"), model).write(tmp_path / "out.onnx")
    found = OnnxRuntime(tmp_path / "out.onnx", 1).run_each([image.pixels for image in images], 4)
    assert list(found) == ["score", "p_value", "features", "nearest"]
    assert found["nearest"].shape == (len(images), 2)
    check(Screener(model).batch(images), found, model.normals, atol=2e-6)


def test_with_patches_it_has_a_map(fake_patch_model: Path, normal_folder: Path, tmp_path: Path) -> None:
    model = opened(fake_patch_model)
    images = decoded(model, tmp_path, normal_folder)
    own = ScoredGraph.of(str(fake_patch_model), model)
    own.write(tmp_path / "out.onnx")
    found = OnnxRuntime(tmp_path / "out.onnx", 1).run_each([image.pixels for image in images], 4)
    scored = Screener(model).batch(images)
    check(scored, found, model.normals, atol=5e-4)
    assert scored.outputs.maps is not None
    np.testing.assert_allclose(found["map"], scored.outputs.maps.distances, atol=1e-4)
    results = own.results(images)
    np.testing.assert_array_equal(results.scores, scored.scores)
    np.testing.assert_array_equal(results.p_values, scored.p_values)
    assert [model.normals[row] for row in results.nearest] == scored.nearest
    without = replace(own, graph=fake_network(tmp_path).graph)
    with pytest.raises(ModelDamaged, match="gives no patches"):
        without.write(tmp_path / "other.onnx")


def test_without_held_out_normals_it_has_no_p_values(model_folder: Path, tmp_path: Path) -> None:
    model = opened(model_folder)
    ScoredGraph.of(str(model_folder), model).write(tmp_path / "out.onnx")
    written = onnx.load(tmp_path / "out.onnx")
    assert [output.name for output in written.graph.output] == ["score", "features", "nearest"]
    about = {entry.key: entry.value for entry in written.metadata_props}
    assert about["model"] == model.manifest.id
    assert (about["height"], about["width"]) == ("64", "64")
    assert about["scorer"] == "knn, k = 2, cosine distance"
    assert "p_value" not in about
    text = (tmp_path / "out.onnx").read_bytes()
    assert not [path for path in model.normals if path.encode() in text], "names of normals stay outside"


def test_features_of_older_models_go_by_another_name(
    model_folder: Path, normal_folder: Path, tmp_path: Path
) -> None:
    model = opened(model_folder)
    own = ScoredGraph.of(str(model_folder), model)
    old = onnx.load(own.graph)
    old.graph.node[-1].output[0] = old.graph.output[0].name = "features"
    onnx.save(old, tmp_path / "old.onnx")
    replace(own, graph=tmp_path / "old.onnx").write(tmp_path / "out.onnx")
    images = decoded(model, tmp_path, normal_folder)
    found = OnnxRuntime(tmp_path / "out.onnx", 1).run_each([image.pixels for image in images], 4)
    np.testing.assert_allclose(found["score"], own.results(images).scores, rtol=2e-4, atol=2e-6)
