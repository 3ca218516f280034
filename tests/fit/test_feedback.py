from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anomscan.adapt.options import FocusChoice
from anomscan.errors import InputError, ModelNotFound, NoImages, UsageError
from anomscan.fit.build import build_from
from anomscan.fit.feedback import add, calibrate, remove
from anomscan.fit.held_out import HELD
from anomscan.fit.index import IndexOptions, index
from anomscan.fit.normals import Normals
from anomscan.images.decode import Decoded, decode_all
from anomscan.images.find import find
from anomscan.model.folder import ModelDraft, read_manifest
from anomscan.model.manifest import ALL, HoldOut
from anomscan.model.model import Model, read_model
from anomscan.report.rows import Row
from anomscan.scoring import gallery
from anomscan.scoring.bank import MOST
from anomscan.scoring.base import knn_score, read_arrays
from anomscan.scoring.gallery import Gallery
from anomscan.scoring.info import Looks
from anomscan.scoring.registry import make_scorer, parse_scorer
from anomscan.screen.run import ScoreJob, run
from anomscan.screen.screener import Screener
from anomscan.stats.calibration import Calibration
from anomscan.types import Outputs
from tests.conftest import SIZE, draw, fake_model, silent
from tests.fakes import CELLS, fake_network
from tests.fit.conftest import stained_images


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
    changes: tuple[Callable[[], object], ...] = (
        lambda: add(alarms, folder, silent),
        lambda: remove(alarms, folder),
        lambda: calibrate(str(tmp_path), folder, "none", silent),
    )
    for change in changes:
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
    with pytest.raises(UsageError, match="no longer has every normal"):
        add(alarms, str(folder), silent)
    with pytest.raises(UsageError, match="no longer has every normal"):
        remove(alarms, str(folder))


@pytest.fixture
def stained(tmp_path: Path) -> list[str]:
    """Images that are like the normals but for a red cell."""
    return stained_images(tmp_path, 3, (255, 0, 0))


def patch_score(folder: Path, path: str) -> float:
    (row,) = scored(folder, [path])
    assert row.patch_score is not None
    return row.patch_score


def sources_of_patches(model: Model) -> list[str]:
    """The normals that the patches of the gallery came from."""
    assert model.patches is not None
    return sorted({model.patches.origin(i)[0] for i in range(len(model.patches))})


def held_out_scores_are_those_of_screening(folder: Path) -> bool:
    """Else p-values would compare what cannot be compared."""
    model = read_model(str(folder), 1)
    assert model.calibration is not None
    images = decode_all(find(model.calibration.paths), model.manifest.preprocessing, 1)
    batch = Screener(model).batch([image for image in images if isinstance(image, Decoded)])
    return np.allclose(batch.scores, model.calibration.scores, rtol=1e-5, atol=1e-5)


def test_the_patches_of_the_fake_network_are_its_cells(patchy: Path, stained: list[str]) -> None:
    model = read_model(str(patchy), 1)
    assert model.patches is not None
    assert (model.patches.grid, len(model.patches)) == ((CELLS, CELLS), 10 * CELLS**2)
    assert sources_of_patches(model) == sorted(model.normals)
    assert held_out_scores_are_those_of_screening(patchy)
    (row,) = scored(patchy, stained[:1])
    assert row.p_value == 1 / 11
    assert row.regions is not None
    assert row.regions[0] == (48, 36, 12, 12)


@pytest.mark.parametrize("looks", ["both", "patch"])
def test_a_defect_that_was_accepted_stands_out_no_longer(
    looks: str, normal_folder: Path, stained: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    fake_model(normal_folder, folder, 0.5, looks=looks)  # type: ignore[arg-type]
    before = read_manifest(str(folder))
    (row,) = scored(folder, [stained[1]])
    add(stained[:1], str(folder), silent)
    (then,) = scored(folder, [stained[1]])
    assert row.score is not None
    assert row.patch_score is not None
    assert then.score is not None
    assert then.patch_score is not None
    assert then.score < row.score
    assert then.patch_score < 0.2 * row.patch_score
    model = read_model(str(folder), 1)
    assert model.patches is not None
    assert len(model.patches) == 11 * CELLS**2
    assert sources_of_patches(model) == sorted(model.normals)
    maps = Screener(model).batch([image_of(model, stained[1])]).outputs.maps
    assert maps is not None
    assert model.patches.origin(int(maps.nearest[0, 3, 4])) == (stained[0], 3, 4)
    assert held_out_scores_are_those_of_screening(folder)
    assert before.patches is not None
    assert model.manifest.patches is not None
    assert model.manifest.patches.peak == before.patches.peak
    assert model.manifest.patches.image == before.patches.image
    assert model.manifest.patches.gallery.vectors == 11 * CELLS**2
    assert model.manifest.focus == before.focus


def image_of(model: Model, path: str) -> Decoded:
    (image,) = decode_all(find([path]), model.manifest.preprocessing, 1)
    assert isinstance(image, Decoded)
    return image


def test_patches_of_what_was_removed_are_gone(patchy: Path, stained: list[str]) -> None:
    before = patch_score(patchy, stained[1])
    add([stained[0], stained[2]], str(patchy), silent)
    assert patch_score(patchy, stained[1]) < 0.2 * before
    remove([stained[0]], str(patchy))
    model = read_model(str(patchy), 1)
    assert stained[0] not in sources_of_patches(model)
    assert stained[2] in sources_of_patches(model)
    assert held_out_scores_are_those_of_screening(patchy)
    remove([stained[2]], str(patchy))
    assert patch_score(patchy, stained[1]) == before
    model = read_model(str(patchy), 1)
    assert sources_of_patches(model) == sorted(model.normals)
    first = model.normals[0]
    remove([first], str(patchy))
    assert first not in sources_of_patches(read_model(str(patchy), 1))
    assert held_out_scores_are_those_of_screening(patchy)


def test_patches_of_what_is_added_again_are_those_of_now(patchy: Path, stained: list[str]) -> None:
    add(stained, str(patchy), silent)
    draw(751).save(stained[0])
    add([stained[0]], str(patchy), silent)
    add([stained[0]], str(patchy), silent)
    model = read_model(str(patchy), 1)
    assert model.patches is not None
    assert len(model.patches) == 13 * CELLS**2
    held = model.patches.held()
    own = [i for i in range(len(held)) if model.patches.origin(i)[0] == stained[0]]
    assert len(own) == CELLS**2
    assert (np.abs(held.features[own] - [255, 0, 0]).sum(axis=1) > 100).all()


def test_held_out_images_leave_with_their_patches(patchy: Path) -> None:
    model = read_model(str(patchy), 1)
    assert model.calibration is not None
    paths = model.calibration.paths
    add(paths[:2], str(patchy), silent)
    remove(paths[5:6], str(patchy))
    model = read_model(str(patchy), 1)
    assert model.calibration is not None
    assert model.calibration.paths == [*paths[2:5], *paths[6:]]
    assert set(paths[:2]) <= set(sources_of_patches(model))
    held = read_arrays(patchy / model.manifest.files[HELD].name)["patches"]
    for path, patches in zip(model.calibration.paths, held, strict=True):
        given = model.extractor.run(image_of(model, path).pixels[None]).patches
        assert given is not None
        np.testing.assert_array_equal(patches, given[0])
    assert held_out_scores_are_those_of_screening(patchy)


def test_others_calibrate_by_their_patches_too(patchy: Path, tmp_path: Path) -> None:
    others = tmp_path / "others"
    others.mkdir()
    for seed in range(15):
        draw(800 + seed).save(others / f"{seed:02}.png")
    before = read_manifest(str(patchy))
    after = calibrate(str(others), str(patchy), "none", silent).manifest
    changed = {role for role, file in after.files.items() if file != before.files[role]}
    assert changed == {"calibration", HELD}
    assert after.patches == before.patches
    assert len(read_arrays(patchy / after.files[HELD].name)["patches"]) == 15
    assert len(list(patchy.glob("held-*"))) == 1
    assert held_out_scores_are_those_of_screening(patchy)
    add([str(others / "00.png")], str(patchy), silent)
    assert held_out_scores_are_those_of_screening(patchy)


def test_a_model_of_patches_without_calibration_can_be_changed(
    normal_folder: Path, stained: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    before = fake_model(normal_folder, folder, looks="both").manifest
    assert HELD not in before.files
    after = add(stained[:1], str(folder), silent).manifest
    assert (after.calibration, HELD in after.files) == (None, False)
    assert before.patches is not None
    assert after.patches is not None
    assert (after.patches.dark, after.patches.bright) == (before.patches.dark, before.patches.bright)


def with_patches(folder: Path, normals: Path, most: int) -> None:
    """A model whose gallery holds so many patches at most."""
    with ModelDraft.begin(str(folder)) as draft:
        network = fake_network(draft.scratch, SIZE, looks="both")
        found = Normals.find(str(normals)).split(HoldOut(0.5), seed=0)
        build_from(draft, network, make_scorer(parse_scorer("knn")), found, silent, most=most)


def test_a_reduced_gallery_of_patches_takes_changes(
    normal_folder: Path, stained: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    with_patches(folder, normal_folder, 200)
    before = patch_score(folder, stained[1])
    add(stained[:1], str(folder), silent)
    model = read_model(str(folder), 1)
    assert model.patches is not None
    assert 200 <= len(model.patches) <= MOST
    assert patch_score(folder, stained[1]) < 0.2 * before
    assert held_out_scores_are_those_of_screening(folder)
    remove(stained[:1], str(folder))
    assert stained[0] not in sources_of_patches(read_model(str(folder), 1))


def test_it_stays_as_small_as_it_was_asked_to_be(
    normal_folder: Path, stained: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    with_patches(folder, normal_folder, 200)
    add(stained, str(folder), silent)
    assert len(read_model(str(folder), 1).patches or ()) == 200


def test_a_model_whose_patches_are_not_looked_at_takes_changes(patchy: Path, stained: list[str]) -> None:
    model = read_model(str(patchy), 1)
    root = str(Path(model.normals[0]).parent)
    index(root, str(patchy), IndexOptions(focus=FocusChoice("image")), silent, HoldOut(0.5))
    add(stained[:1], str(patchy), silent)
    model = read_model(str(patchy), 1)
    assert (model.patches, model.manifest.patches, HELD in model.manifest.files) == (None, None, False)
    assert scores_are_those_of_the_gallery(model)
    index(root, str(patchy), IndexOptions(focus=FocusChoice("patch")), silent, HoldOut(0.5))
    assert held_out_scores_are_those_of_screening(patchy)


def every(normals: Path, folder: Path, looks: Looks = "image", group_by: str = "none") -> Path:
    """A model whose normals all calibrate."""
    fake_model(normals, folder, ALL, looks=looks, group_by=group_by)
    return folder


def scores_are_those_among_others(folder: Path) -> bool:
    """Those by models of all normals but one and its copies."""
    model = read_model(str(folder), 1)
    calibration = model.calibration
    assert calibration is not None
    assert calibration.gallery is not None
    groups = dict(zip(model.normals, calibration.gallery, strict=True))
    for path, name, score in zip(calibration.paths, calibration.names, calibration.scores, strict=True):
        copied = Path(shutil.copytree(folder, folder.parent / "without"))
        remove([other for other in groups if groups[other] == name], str(copied))
        less = read_model(str(copied), 1)
        if less.patches:
            less.scorer.patch_info = replace(  # type: ignore[attr-defined]
                model.manifest.patches,
                gallery=less.manifest.patches.gallery,  # type: ignore[union-attr]
            )
        found = Screener(less).batch([image_of(less, path)]).scores[0]
        shutil.rmtree(copied)
        if not np.isclose(found, score, rtol=1e-4, atol=1e-4):
            return False
    return True


@pytest.fixture
def eight(tmp_path: Path) -> Path:
    folder = tmp_path / "eight"
    folder.mkdir()
    for seed in range(8):
        draw(seed).save(folder / f"{seed}.png")
    return folder


@pytest.mark.parametrize("looks", ["image", "both"])
def test_where_all_calibrate_they_still_do_after_changes(
    looks: Looks, eight: Path, stained: list[str], tmp_path: Path
) -> None:
    folder = every(eight, tmp_path / "m", looks)
    before = read_manifest(str(folder))
    assert before.calibration is not None
    assert (before.schema, before.calibration.images, before.calibration.rule) == (2, 8, HoldOut(ALL))
    assert scores_are_those_among_others(folder)
    added = add(stained[:2], str(folder), silent).manifest
    assert added.calibration == before.calibration, "what was added does not calibrate"
    assert (added.data.images, HELD in added.files) == (10, looks == "both")
    assert scores_are_those_among_others(folder)
    removed = remove([str(eight / "3.png")], str(folder)).manifest
    assert removed.calibration is not None
    assert (removed.calibration.images, removed.calibration.groups) == (7, 7)
    assert scores_are_those_among_others(folder)
    assert [row.p_value for row in scored(folder, [str(eight / "0.png")])] == [1.0]


def test_a_copy_that_is_added_does_not_bring_its_normal_nearer(eight: Path, tmp_path: Path) -> None:
    folder = every(eight, tmp_path / "m")
    before = read_model(str(folder), 1).calibration
    (tmp_path / "copies").mkdir()
    shutil.copy(eight / "2.png", tmp_path / "copies" / "another.png")
    add([str(tmp_path / "copies")], str(folder), silent)
    after = read_model(str(folder), 1).calibration
    assert before is not None
    assert after is not None
    assert after.scores[2] == pytest.approx(before.scores[2], abs=1e-6)
    assert scores_are_those_among_others(folder)


def test_where_too_few_are_left_none_calibrates_and_that_is_said(eight: Path, tmp_path: Path) -> None:
    folder = every(eight, tmp_path / "m")
    fitted = remove([str(eight / f"{i}.png") for i in range(6)], str(folder))
    assert fitted.manifest.calibration is None
    assert "too few" in fitted.notes[0]


def test_others_calibrate_in_the_place_of_all(eight: Path, normal_folder: Path, tmp_path: Path) -> None:
    folder = every(eight, tmp_path / "m")
    others = tmp_path / "others"
    others.mkdir()
    for seed in range(12):
        draw(900 + seed).save(others / f"{seed}.png")
    after = calibrate(str(others), str(folder), "none", silent).manifest
    assert after.calibration is not None
    assert (after.calibration.rule, after.schema) == (HoldOut(), 1)
    model = read_model(str(folder), 1)
    assert model.calibration is not None
    assert model.calibration.gallery is None
    assert scores_are_those_of_the_gallery(model)


def test_a_group_leaves_the_gallery_together(tmp_path: Path) -> None:
    normals = tmp_path / "days"
    for day in range(4):
        (normals / str(day)).mkdir(parents=True)
        for seed in range(2):
            draw(10 * day + seed).save(normals / str(day) / f"{seed}.png")
    folder = every(normals, tmp_path / "m", group_by="folder")
    info = read_manifest(str(folder)).calibration
    assert info is not None
    assert (info.images, info.groups) == (8, 4)
    assert scores_are_those_among_others(folder)
    more = normals / "0" / "late.png"
    draw(0).save(more)
    add([str(more)], str(folder), silent)
    assert scores_are_those_among_others(folder)
