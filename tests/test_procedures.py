"""The procedures of papers for patches, from a folder of normals to everything that is done with a model."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomscan.adapt.options import FocusChoice
from anomscan.errors import InputError, ModelDamaged, ModelTooNew, UsageError
from anomscan.fit.export_scored import ScoredOptions, export_scored
from anomscan.fit.feedback import add, calibrate, remove
from anomscan.fit.index import IndexOptions, index
from anomscan.images.find import find
from anomscan.images.tiling import TileChoice
from anomscan.model.folder import MANIFEST, read_manifest
from anomscan.model.manifest import ALL, HoldOut
from anomscan.model.model import read_model
from anomscan.report.rows import Row
from anomscan.scoring.registry import PROCEDURES, patched_class
from anomscan.screen.run import ScoreJob, run
from tests.conftest import Fit, Run, draw, draw_odd, fake_model, silent


@pytest.fixture(scope="module", params=PROCEDURES)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, normal_folder: Path
) -> Path:
    """A model of half of the normals by the fake network. Read it, never write it."""
    folder = tmp_path_factory.mktemp("made") / str(request.param)
    fake_model(normal_folder, folder, 0.5, scorer="knn-euclidean", looks="patch", procedure=folder.name)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """The same, to change."""
    return Path(shutil.copytree(made, tmp_path / "m"))


def scored(folder: Path, paths: list[str]) -> dict[str, Row]:
    with run(ScoreJob(find(paths), read_model(str(folder), 1), keep=10), silent) as outcome:
        return {row.path: row for row in outcome.ranking.rows()}


def test_everything_that_is_written_of_images(run: Run, made: Path, tmp_path: Path) -> None:
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    draw(300).save(incoming / "plain.png")
    draw_odd(1).save(incoming / "odd.png")
    shutil.copytree(made, tmp_path / "m")
    arguments = ("score", "incoming", "--model", "m", "--columns", "image_score,patch_score,regions")
    done = run(*arguments, "--heatmaps", "heat", "--report", "r.html", "-o", "out.csv")
    assert done.returncode == 0, done.stderr.decode()
    with open(tmp_path / "out.csv", newline="") as file:
        odd, plain = csv.DictReader(file)
    assert (odd["path"], plain["path"]) == ("incoming/odd.png", "incoming/plain.png")
    assert float(odd["patch_score"]) == float(odd["score"]) > float(plain["score"]) > 0
    assert float(odd["image_score"]) > float(plain["image_score"])
    assert float(odd["p_value"]) == pytest.approx(1 / 11, abs=1e-4)
    assert odd["regions"] not in ("", "[]")
    assert len(list((tmp_path / "heat").iterdir())) == 2
    report = (tmp_path / "r.html").read_text()
    assert "odd.png" in report
    assert run("info", "--model", "m").returncode == 0


def test_a_normal_is_found_again_and_a_held_out_one_is_known(made: Path) -> None:
    model = read_model(str(made), 1)
    assert model.calibration is not None
    known = [model.normals[0], model.calibration.paths[0]]
    assert {row.p_value for row in scored(made, known).values()} == {1.0}


def test_added_normals_score_lower_and_removed_ones_as_before(folder: Path, tmp_path: Path) -> None:
    """What is added and removed again leaves the scores as they were, but where a coreset is chosen anew."""
    alarms = [str(tmp_path / f"{seed}.png") for seed in range(3)]
    for seed, path in enumerate(alarms):
        draw_odd(700 + seed).save(path)
    procedure, before = read_manifest(str(folder)).focus.procedure, scored(folder, alarms)
    manifest = add(alarms, str(folder), silent).manifest
    assert manifest.focus.procedure == procedure
    during = scored(folder, alarms)
    for path in alarms:
        assert during[path].p_value == 1.0
        assert during[path].score is not None
        assert before[path].score is not None
        assert during[path].score < before[path].score
    patches = read_model(str(folder), 1).patches
    assert patches is not None
    assert set(alarms) <= set(patches.paths)
    remove(alarms, str(folder))
    after = scored(folder, alarms)
    if procedure != "patchcore":
        for path in alarms:
            assert after[path].score == pytest.approx(before[path].score, rel=1e-4)
    with pytest.raises(InputError, match="is not among the normals"):
        remove(alarms[:1], str(folder))


def test_it_is_calibrated_with_others(folder: Path, tmp_path: Path) -> None:
    others = tmp_path / "others"
    others.mkdir()
    for seed in range(4):
        draw(500 + seed).save(others / f"{seed}.png")
    manifest = calibrate(str(others), str(folder), "none", silent).manifest
    assert manifest.calibration is not None
    assert manifest.calibration.images == 4
    (row,) = scored(folder, [str(others / "0.png")]).values()
    assert row.p_value == 1.0


def test_it_is_indexed_again_with_the_same_procedure_and_no_other(folder: Path, normal_folder: Path) -> None:
    before = read_manifest(str(folder))
    for looks in (None, "auto", "patch"):
        options = IndexOptions(focus=FocusChoice(looks))
        after = index(str(normal_folder), str(folder), options, silent).manifest
        assert after.focus == before.focus
        assert after.patches is not None
        assert after.data.images == 20
    for options in (
        IndexOptions(focus=FocusChoice("both")),
        IndexOptions(focus=FocusChoice("image")),
        IndexOptions(scorer="knn-euclidean"),
        IndexOptions(tiles=TileChoice("2x2")),
    ):
        with pytest.raises(UsageError, match=f"looks at patches as {before.focus.procedure} does; leave"):
            index(str(normal_folder), str(folder), options, silent)


def test_only_spade_needs_every_normal(folder: Path, normal_folder: Path) -> None:
    options = IndexOptions(reduce="coreset:5")
    if read_manifest(str(folder)).focus.procedure == "spade":
        with pytest.raises(UsageError, match="leave --reduce out"):
            index(str(normal_folder), str(folder), options, silent)
    else:
        fitted = index(str(normal_folder), str(folder), options, silent)
        assert fitted.manifest.gallery.reduced == "coreset:5"
        assert len(scored(folder, [str(normal_folder / "00.png")])) == 1


def test_what_keeps_every_patch_says_when_there_are_too_many(folder: Path, normal_folder: Path) -> None:
    options = IndexOptions(focus=FocusChoice(most=200))
    if read_manifest(str(folder)).focus.procedure == "patchcore":
        fitted = index(str(normal_folder), str(folder), options, silent)
        assert fitted.manifest.patches is not None
        assert fitted.manifest.patches.gallery.vectors == 128  # a tenth of 20 x 64
    else:
        with pytest.raises(UsageError, match=r"every patch of the normals, 64 of each, .* than 200 of all"):
            index(str(normal_folder), str(folder), options, silent)


def test_with_nothing_held_out_none_calibrates_and_that_is_said(folder: Path, normal_folder: Path) -> None:
    fitted = index(str(normal_folder), str(folder), IndexOptions(), silent, HoldOut(ALL))
    title = patched_class(fitted.manifest.focus.procedure).title
    assert fitted.manifest.calibration is None
    assert any(f"here {title} cannot leave a normal out; hold some out" in note for note in fitted.notes)


def test_the_scorer_is_not_exported(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written as ONNX; leave --with-scorer out"):
        export_scored(str(made), str(tmp_path / "out.onnx"), ScoredOptions(), silent)
    assert list(tmp_path.iterdir()) == []


def test_missing_and_damaged_files_are_one_sentence(folder: Path) -> None:
    manifest = read_manifest(str(folder))
    for role in patched_class(manifest.focus.procedure).roles:
        path = folder / manifest.files[role].name
        content = path.read_bytes()
        path.write_bytes(b"nonsense")
        with pytest.raises(ModelDamaged):
            read_model(str(folder), 1)
        path.write_bytes(content)
    read_model(str(folder), 1)


def test_other_versions_refuse_the_model(folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    assert content["schema"] == 2, "version 0.2.0 reads 1"
    content["focus"]["procedure"] = "of tomorrow"
    (folder / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ModelTooNew, match="'of tomorrow', which this version does not know"):
        read_model(str(folder), 1)


@pytest.mark.parametrize("method", PROCEDURES)
def test_a_real_network_sees_a_small_defect_and_where_it_is(
    method: str, fit: Fit, normal_folder: Path, tmp_path: Path
) -> None:
    fitted = fit(normal_folder, tmp_path / "m", method=method)
    assert fitted.manifest.focus.procedure == fitted.manifest.method.preset == method
    pixels = np.asarray(draw(300, side=64)).copy()
    draw(300, side=64).save(tmp_path / "good.png")
    pixels[40:48, 8:16] = 255 - pixels[40:48, 8:16]
    Image.fromarray(pixels).save(tmp_path / "bad.png")
    model = read_model(str(tmp_path / "m"), 1)
    sources = find([str(tmp_path / "good.png"), str(tmp_path / "bad.png")])
    with run(ScoreJob(sources, model, keep=2), silent) as outcome:
        maps = {Path(path).name: found.distances[0] for path, found in outcome.sample.maps().items()}
    changed = np.abs(maps["bad.png"] - maps["good.png"])
    assert changed[4:, :4].sum() > 0.8 * changed.sum() > 0
