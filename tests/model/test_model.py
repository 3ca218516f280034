from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anomscan.errors import ModelDamaged, ModelNotFound, ModelTooNew
from anomscan.model import model as model_module
from anomscan.model.folder import MANIFEST, ModelDraft, read_manifest
from anomscan.model.manifest import Manifest
from anomscan.model.model import NORMALS, Model, read_model, read_normals, read_scorer, write_normals
from anomscan.network.network import EXTRACTOR
from anomscan.scoring.base import INDEX, SCORER
from anomscan.types import Outputs
from tests.model.models import replace_model


def with_file(folder: Path, role: str, content: bytes) -> Manifest:
    """Commit the model with other content of a file, whose checksum is right all the same."""
    with ModelDraft.begin(str(folder)) as draft:
        manifest = read_manifest(str(folder))
        kept = [kept for kept in manifest.files if kept != role]
        name, suffix = {
            NORMALS: ("gallery", "json"),
            SCORER: ("scorer", "npz"),
            INDEX: ("index", "faiss"),
        }.get(role, ("extractor", "onnx"))
        file = draft.scratch / f"{name}.{suffix}"
        file.write_bytes(content)
        return draft.keep(manifest, kept).put({role: file}).commit(manifest)


def test_a_model_is_all_that_scoring_needs(model: Model, normal_folder: Path) -> None:
    assert [Path(path).parent for path in model.normals] == [normal_folder] * 20
    assert len(model.gallery) == 20
    assert model.gallery is model.scorer.gallery
    assert model.calibration is None
    assert model.calibrated(3) is None
    vectors = model.gallery.vectors()
    scores, nearest = model.scorer.score_and_nearest(Outputs(vectors), 1)
    assert nearest.tolist() == list(range(20))
    assert scores.max() < 1e-5


def test_there_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="anomscan adapt"):
        read_model(str(tmp_path / "none"), threads=1)


def test_a_newer_model_is_not_read(folder: Path) -> None:
    (folder / MANIFEST).write_text(json.dumps({"schema": 4, "anomscan": "9.0"}))
    with pytest.raises(ModelTooNew, match=r"9\.0"):
        read_model(str(folder), threads=1)


def test_a_model_of_a_scorer_to_come(folder: Path) -> None:
    data = json.loads((folder / MANIFEST).read_text())
    data["scorer"]["name"] = "patchcore"
    (folder / MANIFEST).write_text(json.dumps(data))
    with pytest.raises(ModelTooNew, match="'patchcore', which this version does not know"):
        read_model(str(folder), threads=1)


def test_a_model_of_before_there_were_calibrations_is_read(folder: Path) -> None:
    data = json.loads((folder / MANIFEST).read_text())
    del data["calibration"], data["changes"]
    (folder / MANIFEST).write_text(json.dumps(data))
    assert read_manifest(str(folder)).calibration is None
    assert read_model(str(folder), threads=1).calibration is None


def test_the_calibration_is_for_the_neighbours_asked_for(calibrated_folder: Path) -> None:
    model = read_model(str(calibrated_folder), threads=1)
    assert model.calibration is not None
    own, other = model.calibrated(2), model.calibrated(5)
    assert own is model.calibration
    assert other is not None
    assert other.paths == own.paths
    np.testing.assert_array_equal(
        own.scores, model.scorer.score(Outputs(own.features), 2), err_msg="as incoming images are scored"
    )
    np.testing.assert_array_equal(other.scores, model.scorer.score(Outputs(own.features), 5))
    assert (other.scores > own.scores).all()


@pytest.mark.parametrize("role", [EXTRACTOR, INDEX, SCORER, NORMALS])
def test_nonsense_with_a_right_checksum_is_damage(folder: Path, role: str) -> None:
    with_file(folder, role, b"nonsense")
    with pytest.raises(ModelDamaged):
        read_model(str(folder), threads=1)


@pytest.mark.parametrize("content", [b"{}", b'"/a"', b"[1, 2]", b"\xff", b"", b"[[]]", b"[" * 100_000])
def test_normals_are_a_list_of_paths(folder: Path, content: bytes) -> None:
    manifest = with_file(folder, NORMALS, content)
    with pytest.raises(ModelDamaged, match="is not a list of paths; adapt again"):
        read_normals(str(folder), manifest)


def test_names_of_any_bytes_come_back_exactly(folder: Path, tmp_path: Path) -> None:
    paths = ["/a.png", "/\udcff\n\u2028é🔩.png"]
    manifest = with_file(folder, NORMALS, write_normals(tmp_path, paths)[NORMALS].read_bytes())
    assert read_normals(str(folder), manifest) == paths


def test_the_scorer_is_read_without_the_extractor(folder: Path) -> None:
    manifest = read_manifest(str(folder))
    (folder / manifest.files[EXTRACTOR].name).unlink()
    assert len(read_scorer(str(folder), manifest).gallery) == 20


def test_a_model_that_is_replaced_while_it_is_read_is_read_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_model(folder, 3)
    read, times = read_normals, []

    def replaced_meanwhile(place: str, manifest: Manifest) -> list[str]:
        times.append(manifest)
        if len(times) == 1:
            replace_model(folder, 4)
        return read(place, manifest)

    monkeypatch.setattr(model_module, "read_normals", replaced_meanwhile)
    model = read_model(str(folder), threads=1)
    assert len(model.gallery) == len(model.normals) == 4
    assert len(times) == 2
    assert model.manifest == replace(times[1])


def test_fewer_names_than_normals_is_damage(folder: Path, tmp_path: Path) -> None:
    with_file(folder, NORMALS, write_normals(tmp_path, ["/a.png"])[NORMALS].read_bytes())
    with pytest.raises(ModelDamaged, match="fewer normals than its gallery holds"):
        read_model(str(folder), threads=1)
