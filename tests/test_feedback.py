from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from anomscan import gallery
from anomscan.bundle import Model, read_manifest, read_model
from anomscan.config import HoldOut
from anomscan.errors import GalleryTooSmall, InputError, NoImages, UsageError
from anomscan.feedback import add, calibrate, remove
from anomscan.fitting import index
from anomscan.images import find
from anomscan.report import Row
from anomscan.screening import Ranking, score
from tests.conftest import draw, silent


@pytest.fixture
def folder(calibrated_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(calibrated_folder, tmp_path / "m"))


@pytest.fixture
def alarms(tmp_path: Path) -> list[str]:
    """Images unlike the normals, of a kind."""
    paths = []
    for seed in range(4):
        paths.append(str(tmp_path / f"alarm {seed}.png"))
        draw(700 + seed).rotate(45).resize((96, 30)).save(paths[-1])
    return paths


def scored(folder: Path, paths: list[str]) -> list[Row]:
    with Ranking() as ranking:
        score(find(paths), read_model(folder, 1), ranking, k=None, threads=1, progress=silent)
        return list(ranking.rows())


def scores_are_those_of_the_gallery(model: Model) -> bool:
    assert model.calibration is not None
    expected = model.scorer.score(model.calibration.features, model.gallery, model.manifest.scorer.k)
    return bool(np.allclose(model.calibration.scores, expected, atol=1e-6))


def test_added_images_are_normal_from_then_on(folder: Path, alarms: list[str]) -> None:
    before = read_manifest(folder)
    assert {row.p_value for row in scored(folder, alarms)} == {1 / 11}
    manifest = add(alarms[:3], folder, silent).manifest
    assert [row.p_value for row in scored(folder, alarms[:3])] == [1.0] * 3
    model = read_model(folder, 1)
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
    add(alarms[:2], folder, silent)
    for row in scored(folder, alarms[2:]):
        assert row.score is not None
        assert row.score < 0.5 * (before[row.path] or 0)


def test_adding_again_changes_nothing_but_the_log(folder: Path, alarms: list[str]) -> None:
    first = add(alarms, folder, silent).manifest
    again = add(alarms, folder, silent).manifest
    assert again.data.images == first.data.images
    assert len(again.changes) == 2


def test_a_held_out_image_that_is_added_is_no_longer_held_out(folder: Path) -> None:
    calibration = read_model(folder, 1).calibration
    assert calibration is not None
    manifest = add(calibration.paths[:4], folder, silent).manifest
    assert manifest.data.images == 14
    assert manifest.calibration is not None
    assert (manifest.calibration.images, manifest.calibration.groups) == (6, 6)


def test_removed_images_are_forgotten_even_if_they_have_gone(folder: Path, alarms: list[str]) -> None:
    add(alarms, folder, silent)
    Path(alarms[0]).unlink()
    before = read_model(folder, 1)
    assert before.calibration is not None
    manifest = remove([alarms[0], before.calibration.paths[0]], folder).manifest
    after = read_model(folder, 1)
    assert len(after.gallery) == len(before.gallery) - 1
    assert alarms[0] not in after.normals
    assert after.calibration is not None
    assert len(after.calibration.paths) == 9
    assert scores_are_those_of_the_gallery(after)
    assert [change.action for change in manifest.changes] == ["added", "removed"]


def test_a_folder_is_removed_with_all_below(folder: Path, alarms: list[str]) -> None:
    add(alarms, folder, silent)
    remove([str(Path(alarms[0]).parent)], folder)
    assert len(read_model(folder, 1).gallery) == 10


def test_what_cannot_be_added_or_removed(folder: Path, normal_folder: Path, tmp_path: Path) -> None:
    before = read_manifest(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoImages):
        add([str(tmp_path / "empty")], folder, silent)
    with pytest.raises(InputError, match="nowhere"):
        add(["nowhere"], folder, silent)
    with pytest.raises(InputError, match="is not among the normals"):
        remove([str(normal_folder / "00.png"), "nowhere"], folder)
    with pytest.raises(InputError, match="no normal would be left"):
        remove([str(normal_folder)], folder)
    normals = read_model(folder, 1).normals
    with pytest.raises(GalleryTooSmall):
        remove(normals[1:], folder)
    assert read_manifest(folder) == before


def test_an_index_built_anew_has_no_log(folder: Path, normal_folder: Path, alarms: list[str]) -> None:
    add(alarms, folder, silent)
    assert index(str(normal_folder), folder, None, None, silent).manifest.changes == []


def test_other_normals_calibrate_without_touching_the_rest(folder: Path, tmp_path: Path) -> None:
    others = tmp_path / "others"
    for day in ("monday", "tuesday"):
        (others / day).mkdir(parents=True)
        for seed in range(15):
            draw(800 + seed + 50 * (day == "monday")).save(others / day / f"{seed}.png")
    (others / "broken.png").touch()
    before = read_manifest(folder)
    fitted = calibrate(str(others), folder, "folder", silent)
    assert [Path(image.path).name for image in fitted.unreadable] == ["broken.png"]
    after = fitted.manifest.calibration
    assert after is not None
    assert (after.images, after.groups, after.root, after.rule.group_by) == (30, 2, str(others), "folder")
    assert {role: file for role, file in fitted.manifest.files.items() if role != "calibration"} == {
        role: file for role, file in before.files.items() if role != "calibration"
    }
    model = read_model(folder, 1)
    assert model.calibration is not None
    assert (len(model.calibration.paths), model.calibration.groups) == (30, 2)
    assert scores_are_those_of_the_gallery(model)
    assert len(list(folder.glob("calibration-*"))) == 1


def test_the_normals_of_the_gallery_do_not_calibrate(folder: Path, normal_folder: Path) -> None:
    with pytest.raises(InputError, match=r"10 of the 20 images, .* among the normals"):
        calibrate(str(normal_folder), folder, "none", silent)


def test_a_model_without_calibration_can_be_changed_and_calibrated(
    model_folder: Path, alarms: list[str], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "plain"))
    assert add(alarms, folder, silent).manifest.calibration is None
    others = tmp_path / "others"
    others.mkdir()
    for seed in range(12):
        draw(900 + seed).save(others / f"{seed}.png")
    assert calibrate(str(others), folder, "none", silent).manifest.calibration is not None
    assert scores_are_those_of_the_gallery(read_model(folder, 1))


def test_feedback_keeps_the_bound() -> None:
    """Round after round every false alarm joins the gallery; the rate among new normals stays in bounds."""
    from anomscan.calibration import Calibration
    from anomscan.gallery import Gallery
    from anomscan.scorers import knn_score

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
    index(str(normal_folder), folder, None, None, silent, HoldOut(0.2))
    assert read_manifest(folder).gallery.index.startswith("IVF")
    add(alarms[:3], folder, silent)
    assert [row.p_value for row in scored(folder, alarms[:3])] == [1.0] * 3
    kept = read_model(folder, 1).gallery.vectors()
    remove([alarms[0]], folder)
    model = read_model(folder, 1)
    assert model.manifest.gallery.index.startswith("IVF")
    assert model.normals[-2:] == alarms[1:3]
    np.testing.assert_array_equal(np.delete(kept, -3, axis=0), model.gallery.vectors())


def test_a_gallery_that_is_not_whole_takes_no_changes(
    folder: Path, normal_folder: Path, alarms: list[str]
) -> None:
    index(str(normal_folder), folder, None, None, silent, reduce="coreset:5")
    for change in (lambda: add(alarms, folder, silent), lambda: remove(alarms, folder)):
        with pytest.raises(UsageError, match="no longer has every normal"):
            change()
