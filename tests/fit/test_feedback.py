from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from anomscan.errors import InputError, ModelNotFound, NoImages, UsageError
from anomscan.fit.build import build_from
from anomscan.fit.feedback import add, calibrate, remove
from anomscan.fit.index import IndexOptions, index
from anomscan.fit.normals import Normals
from anomscan.images.find import find
from anomscan.model.folder import ModelDraft, read_manifest
from anomscan.model.manifest import HoldOut
from anomscan.model.model import Model, read_model
from anomscan.report.rows import Row
from anomscan.scoring import gallery
from anomscan.scoring.base import knn_score
from anomscan.scoring.gallery import Gallery
from anomscan.scoring.registry import make_scorer, parse_scorer
from anomscan.screen.run import ScoreJob, run
from anomscan.stats.calibration import Calibration
from anomscan.types import Outputs
from tests.conftest import draw, silent
from tests.fakes import fake_network


def scored(folder: Path, paths: list[str]) -> list[Row]:
    with run(ScoreJob(find(paths), read_model(str(folder), 1)), silent) as outcome:
        return list(outcome.ranking.rows())


def scores_are_those_of_the_gallery(model: Model) -> bool:
    assert model.calibration is not None
    expected = model.scorer.score(Outputs(model.calibration.features), model.manifest.scorer.k)
    return bool(np.allclose(model.calibration.scores, expected, atol=1e-6))


def test_added_images_are_normal_from_then_on(folder: Path, alarms: list[str]) -> None:
    before = read_manifest(str(folder))
    assert {row.p_value for row in scored(folder, alarms)} == {1 / 11}
    manifest = add(alarms[:3], str(folder), silent).manifest
    assert [row.p_value for row in scored(folder, alarms[:3])] == [1.0] * 3
    model = read_model(str(folder), 1)
    assert len(model.gallery) == len(model.normals) == manifest.data.images == before.data.images + 3
    assert scores_are_those_of_the_gallery(model)
    assert manifest.calibration == before.calibration
    assert manifest.data.fingerprint != before.data.fingerprint
    assert manifest.id != before.id
    assert (manifest.changes[0].action, manifest.changes[0].paths) == ("added", alarms[:3])
    assert manifest.files["extractor"] == before.files["extractor"]
    kept = json.loads((folder / "model.json").read_text())["changes"]
    assert kept[0]["date"].startswith("20")


def test_one_of_a_kind_vouches_for_the_others(folder: Path, alarms: list[str]) -> None:
    before = {row.path: row.score for row in scored(folder, alarms[2:])}
    add(alarms[:2], str(folder), silent)
    for row in scored(folder, alarms[2:]):
        assert row.score is not None
        assert row.score < 0.5 * (before[row.path] or 0)


def test_adding_again_changes_nothing_but_the_log(folder: Path, alarms: list[str]) -> None:
    first = add(alarms, str(folder), silent).manifest
    again = add(alarms, str(folder), silent).manifest
    assert again.data.images == first.data.images
    assert len(again.changes) == 2


def test_a_held_out_image_that_is_added_is_no_longer_held_out(folder: Path) -> None:
    calibration = read_model(str(folder), 1).calibration
    assert calibration is not None
    manifest = add(calibration.paths[:4], str(folder), silent).manifest
    assert manifest.data.images == 14
    assert manifest.calibration is not None
    assert (manifest.calibration.images, manifest.calibration.groups) == (6, 6)


def test_removed_images_are_forgotten_even_if_they_have_gone(folder: Path, alarms: list[str]) -> None:
    add(alarms, str(folder), silent)
    Path(alarms[0]).unlink()
    before = read_model(str(folder), 1)
    assert before.calibration is not None
    manifest = remove([alarms[0], before.calibration.paths[0]], str(folder)).manifest
    after = read_model(str(folder), 1)
    assert len(after.gallery) == len(before.gallery) - 1
    assert alarms[0] not in after.normals
    assert after.calibration is not None
    assert len(after.calibration.paths) == 9
    assert scores_are_those_of_the_gallery(after)
    assert [change.action for change in manifest.changes] == ["added", "removed"]


def test_a_folder_is_removed_with_all_below(folder: Path, alarms: list[str]) -> None:
    add(alarms, str(folder), silent)
    remove([str(Path(alarms[0]).parent)], str(folder))
    assert len(read_model(str(folder), 1).gallery) == 10


def test_what_cannot_be_added_or_removed(folder: Path, normal_folder: Path, tmp_path: Path) -> None:
    before = read_manifest(str(folder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoImages):
        add([str(tmp_path / "empty")], str(folder), silent)
    with pytest.raises(InputError, match="nowhere"):
        add(["nowhere"], str(folder), silent)
    with pytest.raises(InputError, match="is not among the normals"):
        remove([str(normal_folder / "00.png"), "nowhere"], str(folder))
    with pytest.raises(InputError, match="no normal would be left"):
        remove([str(normal_folder)], str(folder))
    normals = read_model(str(folder), 1).normals
    assert read_manifest(str(folder)) == before
    manifest = remove(normals[1:], str(folder)).manifest
    assert (manifest.data.images, before.scorer.k, manifest.scorer.k) == (1, 2, 1)


def test_where_there_is_no_model_none_is_begun(alarms: list[str], tmp_path: Path) -> None:
    folder = str(tmp_path / "none")
    for change in (
        lambda: add(alarms, folder, silent),
        lambda: remove(alarms, folder),
        lambda: calibrate(str(tmp_path), folder, "none", silent),
    ):
        with pytest.raises(ModelNotFound, match="no model in"):
            change()
    assert not Path(folder).exists()


def test_checkpoints_are_searched_among_the_normals_as_they_are_now(
    normal_folder: Path, alarms: list[str], tmp_path: Path
) -> None:
    folder = str(tmp_path / "m")
    with ModelDraft.begin(folder) as draft:
        network = fake_network(draft.scratch)
        scorer = make_scorer(parse_scorer("samplewise"), {"checkpoints": np.array([2], np.float32)})
        normals = Normals.find(str(normal_folder)).split(HoldOut(0.5), seed=0)
        build_from(draft, network, scorer, normals, silent)
    before = read_model(folder, 1).calibration
    assert scores_are_those_of_the_gallery(read_model(folder, 1))
    add(alarms, folder, silent)
    after = read_model(folder, 1)
    assert scores_are_those_of_the_gallery(after)
    assert before is not None
    assert after.calibration is not None
    assert not np.allclose(after.calibration.scores, before.scores)


def test_an_index_built_anew_has_no_log(folder: Path, normal_folder: Path, alarms: list[str]) -> None:
    add(alarms, str(folder), silent)
    assert index(str(normal_folder), str(folder), IndexOptions(), silent).manifest.changes == []


def test_other_normals_calibrate_without_touching_the_rest(folder: Path, tmp_path: Path) -> None:
    others = tmp_path / "others"
    for day in ("monday", "tuesday"):
        (others / day).mkdir(parents=True)
        for seed in range(15):
            draw(800 + seed + 50 * (day == "monday")).save(others / day / f"{seed}.png")
    (others / "broken.png").touch()
    before = read_manifest(str(folder))
    fitted = calibrate(str(others), str(folder), "folder", silent)
    assert [Path(image.path).name for image in fitted.unreadable] == ["broken.png"]
    after = fitted.manifest.calibration
    assert after is not None
    assert (after.images, after.groups, after.root, after.rule.group_by) == (30, 2, str(others), "folder")
    assert {role: file for role, file in fitted.manifest.files.items() if role != "calibration"} == {
        role: file for role, file in before.files.items() if role != "calibration"
    }
    model = read_model(str(folder), 1)
    assert model.calibration is not None
    assert (len(model.calibration.paths), model.calibration.groups) == (30, 2)
    assert scores_are_those_of_the_gallery(model)
    assert len(list(folder.glob("calibration-*"))) == 1


def test_the_normals_of_the_gallery_do_not_calibrate(folder: Path, normal_folder: Path) -> None:
    with pytest.raises(InputError, match=r"10 of the 20 images, .* among the normals"):
        calibrate(str(normal_folder), str(folder), "none", silent)


def test_a_model_without_calibration_can_be_changed_and_calibrated(
    plain: Path, alarms: list[str], tmp_path: Path
) -> None:
    assert add(alarms, str(plain), silent).manifest.calibration is None
    others = tmp_path / "others"
    others.mkdir()
    for seed in range(12):
        draw(900 + seed).save(others / f"{seed}.png")
    assert calibrate(str(others), str(plain), "none", silent).manifest.calibration is not None
    assert scores_are_those_of_the_gallery(read_model(str(plain), 1))


def test_feedback_keeps_the_bound() -> None:
    """Round after round every false alarm joins the gallery; the rate among new normals stays in bounds."""
    generator = np.random.default_rng(0)
    rates = []
    for _ in range(40):
        x = generator.normal(size=(1100, 6)) * 0.4 + np.eye(6)[0]
        x = np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)
        gallery, held_out = x[:100], x[100:199]
        names = [str(i) for i in range(99)]
        for start in range(200, 1000, 200):
            batch = x[start : start + 200]
            search = Gallery.build(gallery).search
            calibration = Calibration(held_out, knn_score(search(held_out, 2)[0]), names, names)
            alarms = calibration.p_values(knn_score(search(batch, 2)[0])) <= 0.05
            gallery = np.concatenate([gallery, batch[alarms]])
        search = Gallery.build(gallery).search
        calibration = Calibration(held_out, knn_score(search(held_out, 2)[0]), names, names)
        rates.append((calibration.p_values(knn_score(search(x[1000:], 2)[0])) <= 0.05).mean())
    assert np.mean(rates) <= 0.05 + 3 * np.std(rates) / np.sqrt(40)


def test_a_gallery_in_lists_takes_changes(
    folder: Path, normal_folder: Path, alarms: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "EXACT_UP_TO", 10)
    index(str(normal_folder), str(folder), IndexOptions(), silent, HoldOut(0.2))
    assert read_manifest(str(folder)).gallery.index.startswith("IVF")
    add(alarms[:3], str(folder), silent)
    assert [row.p_value for row in scored(folder, alarms[:3])] == [1.0] * 3
    kept = read_model(str(folder), 1).gallery.vectors()
    remove([alarms[0]], str(folder))
    model = read_model(str(folder), 1)
    assert model.manifest.gallery.index.startswith("IVF")
    assert model.normals[-2:] == alarms[1:3]
    np.testing.assert_array_equal(np.delete(kept, -3, axis=0), model.gallery.vectors())


def test_a_gallery_that_is_not_whole_takes_no_changes(
    folder: Path, normal_folder: Path, alarms: list[str]
) -> None:
    index(str(normal_folder), str(folder), IndexOptions(reduce="coreset:5"), silent)
    for change in (lambda: add(alarms, str(folder), silent), lambda: remove(alarms, str(folder))):
        with pytest.raises(UsageError, match="no longer has every normal"):
            change()
