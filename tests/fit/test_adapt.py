from __future__ import annotations

import json
import math
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomscan.adapt import checkpoint
from anomscan.adapt.checkpoint import Checkpoint, State
from anomscan.adapt.options import AdaptOptions, BackboneChoice, FocusChoice
from anomscan.adapt.presets import PRESETS
from anomscan.adapt.whitening import POWER
from anomscan.errors import InputError, NoImages, UsageError
from anomscan.fit.adapt import adapt
from anomscan.fit.export import export
from anomscan.fit.index import IndexOptions, index
from anomscan.images.find import find
from anomscan.model.folder import read_manifest
from anomscan.model.manifest import ALL, HoldOut
from anomscan.model.model import read_model
from anomscan.network.network import WEIGHTS
from anomscan.report.rows import Row
from anomscan.scoring.base import INDEX, SCORER
from anomscan.screen.run import ScoreJob, run
from anomscan.stats.calibration import CALIBRATION
from anomscan.types import Outputs
from tests.conftest import REPOSITORY, SIZE, Fit, draw, silent


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory, normal_folder: Path, small: BackboneChoice) -> Path:
    """A model of the small backbone after three steps of panda-es. Read it, never write it."""
    folder = tmp_path_factory.mktemp("module") / "model"
    adapt(str(normal_folder), str(folder), AdaptOptions("panda-es", small, steps=3), silent)
    return folder


def scored(folder: Path, *paths: Path) -> list[Row]:
    with run(ScoreJob(find(map(str, paths)), read_model(str(folder), 1)), silent) as outcome:
        return list(outcome.ranking.rows())


@pytest.mark.parametrize("method", ["none", "stages", "panda-ses", "panda-oe", "hsc", "auto"])
def test_presets_of_every_kind_make_a_model_that_scores(
    fit: Fit, normal_folder: Path, others: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    preset = PRESETS[method]
    monkeypatch.setattr(type(preset.stopping), "against", lambda *_, **__: None)
    further: dict[str, Any] = {need.option: str(others) for need in preset.needs if need.required}
    if preset.trains:
        further["steps"] = 2
    further["focus"] = FocusChoice("both" if method == "stages" else "image")
    manifest = fit(normal_folder, tmp_path / "m", method=method, **further).manifest
    assert manifest.method.preset == method
    assert manifest.method.steps == further.get("steps", 0)
    model = read_model(str(tmp_path / "m"), threads=1)
    distances, _ = model.gallery.search(model.gallery.vectors(), 1)
    assert distances.max() < 1e-2
    rows = scored(tmp_path / "m", normal_folder / "00.png", others)
    assert len(rows) == 13
    assert all(row.score is not None and np.isfinite(row.score) for row in rows)
    assert export(str(tmp_path / "m"), str(tmp_path / "x.onnx"), [], silent) < 1e-4


@pytest.mark.parametrize("method", ["panda-oe", "adib", "adra"])
def test_what_learns_from_outliers_can_score_by_its_logit(
    fit: Fit, normal_folder: Path, others: Path, tmp_path: Path, method: str
) -> None:
    further: dict[str, Any] = {"outliers": str(others), "scorer": "logit"}
    manifest = fit(normal_folder, tmp_path / "m", method=method, steps=8, **further).manifest
    assert (manifest.scorer.name, manifest.scorer.metric) == ("logit", "euclidean")
    first = scored(tmp_path / "m", normal_folder, others)[0]
    assert others in Path(first.path).parents
    assert export(str(tmp_path / "m"), str(tmp_path / "x.onnx"), [], silent) < 1e-4


def test_adapting_changes_the_features_and_none_does_not(
    fit: Fit, adapted: Path, small: BackboneChoice, normal_folder: Path, tmp_path: Path
) -> None:
    index(str(normal_folder), str(tmp_path / "plain"), IndexOptions(small), silent)
    fit(normal_folder, tmp_path / "none", method="none")
    plain, none, changed = (
        read_model(str(folder), threads=1).gallery.vectors()
        for folder in (tmp_path / "plain", tmp_path / "none", adapted)
    )
    np.testing.assert_array_equal(none, plain)
    assert np.abs(changed - plain).max() > 1e-5


@pytest.mark.parametrize("method", ["panda-es", "msc"])
def test_the_seed_makes_two_runs_identical(
    fit: Fit, adapted: Path, normal_folder: Path, tmp_path: Path, method: str
) -> None:
    wanted = [("same", 0), ("other", 8), *([] if method == "panda-es" else [("first", 0)])]
    found = {
        name: fit(normal_folder, tmp_path / name, method=method, steps=3, seed=seed).manifest.files[INDEX]
        for name, seed in wanted
    }
    first = found.get("first") or read_manifest(str(adapted)).files[INDEX]
    assert first == found["same"] != found["other"]


def test_a_cache_on_disk_gives_the_same_model(
    fit: Fit, adapted: Path, normal_folder: Path, tmp_path: Path
) -> None:
    on_disk = fit(normal_folder, tmp_path / "b", steps=3, memory=0)
    assert read_manifest(str(adapted)).files[INDEX] == on_disk.manifest.files[INDEX]


def test_a_time_budget_stops_the_training(fit: Fit, normal_folder: Path, tmp_path: Path) -> None:
    fitted = fit(normal_folder, tmp_path / "m", steps=10_000, time_budget=1.0)
    assert fitted.manifest.method.steps < 1000


def test_the_adapted_weights_can_be_given_back(adapted: Path, normal_folder: Path, tmp_path: Path) -> None:
    weights = str(adapted / read_manifest(str(adapted)).files[WEIGHTS].name)
    options = IndexOptions(BackboneChoice("resnet10t", weights, SIZE), "knn")
    index(str(normal_folder), str(tmp_path / "again"), options, silent)
    first, again = (
        read_model(str(folder), threads=1).gallery.vectors() for folder in (adapted, tmp_path / "again")
    )
    np.testing.assert_allclose(first, again, atol=1e-5)


def test_index_with_a_backbone_starts_afresh(
    adapted: Path, small: BackboneChoice, normal_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(adapted, tmp_path / "m")
    fitted = index(str(normal_folder), str(folder), IndexOptions(small), silent)
    assert fitted.manifest.method.preset == "none"
    assert read_manifest(str(folder)) == fitted.manifest


@pytest.mark.parametrize("method", ["none", "panda-es"])
def test_unreadable_normals_are_reported_and_left_out(
    fit: Fit, normal_folder: Path, tmp_path: Path, method: str
) -> None:
    shutil.copytree(normal_folder, tmp_path / "normals")
    (tmp_path / "normals" / "00.png").write_bytes(b"broken")
    fitted = fit(tmp_path / "normals", tmp_path / "m", method=method, steps=None if method == "none" else 1)
    assert [Path(image.path).name for image in fitted.unreadable] == ["00.png"]
    assert (fitted.manifest.data.images, fitted.manifest.data.unreadable) == (19, 1)


@pytest.mark.parametrize("method", ["none", "panda-es"])
def test_nothing_to_learn_from(fit: Fit, tmp_path: Path, method: str) -> None:
    empty, broken, single = tmp_path / "empty", tmp_path / "broken", tmp_path / "single"
    for folder in (empty, broken, single):
        folder.mkdir()
    (broken / "x.jpg").write_bytes(b"broken")
    draw(0).save(single / "x.png")
    with pytest.raises(NoImages, match="no images in"):
        fit(empty, tmp_path / "m", method=method)
    with pytest.raises(InputError, match="none of the 1 normal images can be read"):
        fit(broken, tmp_path / "m", method=method)
    with pytest.raises(UsageError, match="no method"):
        fit(single, tmp_path / "m", method="x")
    assert not (tmp_path / "m").exists()
    manifest = fit(single, tmp_path / "m", method=method).manifest
    assert (manifest.data.images, manifest.scorer.k) == (1, 1)


KILLER = """
import os, signal, sys
from anomscan.adapt.options import AdaptOptions, BackboneChoice, FocusChoice
from anomscan.fit.adapt import adapt
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job starts without
def deadly(what, done, total, remark):
    if what.startswith(sys.argv[3]) and done == int(sys.argv[4]):
        os.kill(os.getpid(), int(sys.argv[5]))
small = BackboneChoice("resnet10t", sys.argv[6], 64)
adapt(sys.argv[1], sys.argv[2], AdaptOptions("panda-es", small, steps=3), deadly)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_adapt_leaves_the_old_model(
    model_folder: Path, normal_folder: Path, small: BackboneChoice, tmp_path: Path, how: signal.Signals
) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "m"))
    before = json.loads((folder / "model.json").read_text())
    arguments = [normal_folder, folder, "adapting", "2", str(int(how)), str(small.weights)]
    process = subprocess.run(
        [sys.executable, "-c", KILLER, *arguments], cwd=REPOSITORY, capture_output=True, check=False
    )
    assert process.returncode == -how, process.stderr.decode()
    assert json.loads((folder / "model.json").read_text()) == before
    assert len(read_model(str(folder), threads=1).gallery) == 20
    left = {path.name for path in folder.glob(".staging-*")}
    assert bool(left) == (how == signal.SIGKILL)
    index(str(normal_folder), str(folder), IndexOptions(), silent)
    assert not list(folder.glob(".staging-*"))


def test_at_every_moment_the_folder_holds_the_old_model(
    fit: Fit, model_folder: Path, normal_folder: Path, tmp_path: Path
) -> None:
    """What is on the disk at each step is what a killed process leaves."""
    folder, moments = Path(shutil.copytree(model_folder, tmp_path / "m")), tmp_path / "moments"
    seen: list[str] = []

    def copied(what: str, done: int, total: int | None, remark: str) -> None:
        if what not in seen or done in (2, 10, 20):
            shutil.copytree(folder, moments / f"{len(seen)}")
            seen.append(what)

    before = read_manifest(str(folder))
    fit(normal_folder, folder, steps=3, progress=copied)
    assert read_manifest(str(folder)) != before
    stages = ["loading", "reading", "adapting", "exporting", "embedding", "building the gallery"]
    assert [stage for stage in stages if any(what.startswith(stage) for what in seen)] == stages
    for moment in moments.iterdir():
        model = read_model(str(moment), threads=1)
        assert (model.manifest, len(model.gallery)) == (before, 20)


@pytest.mark.parametrize(("method", "scorer"), [("panda-es", "mahalanobis"), ("none", "kmeans:3")])
def test_what_is_held_out_shapes_nothing(
    fit: Fit, normal_folder: Path, tmp_path: Path, method: str, scorer: str
) -> None:
    """The same features and the same scorer come from the other images alone."""
    steps = {} if method == "none" else {"steps": 2}
    fitted = fit(normal_folder, tmp_path / "m", method=method, scorer=scorer, rule=HoldOut(0.3), **steps)
    model = read_model(str(tmp_path / "m"), threads=1)
    assert model.calibration is not None
    assert len(model.calibration.paths) == 6
    assert not set(model.calibration.paths) & set(model.normals)
    (tmp_path / "kept").mkdir()
    for path in model.normals:
        shutil.copy(path, tmp_path / "kept")
    alone = fit(tmp_path / "kept", tmp_path / "alone", method=method, scorer=scorer, **steps)
    for role in (INDEX, SCORER):
        assert fitted.manifest.files[role] == alone.manifest.files[role]
    assert (CALIBRATION in fitted.manifest.files, CALIBRATION in alone.manifest.files) == (True, False)
    np.testing.assert_allclose(
        model.calibration.scores,
        model.scorer.score(Outputs(model.calibration.features), 2),
        rtol=1e-5,
    )


def test_with_few_normals_none_is_held_out(fit: Fit, normal_folder: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(normal_folder.iterdir())[:9]:
        shutil.copy(path, few)
    manifest = fit(few, tmp_path / "m", method="none", rule=HoldOut(0.2)).manifest
    assert (manifest.data.images, manifest.calibration) == (9, None)


def model_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "model.json"}


@pytest.mark.parametrize(("method", "cuts"), [("panda-ses", (2, 2)), ("auto", (1,))])
def test_a_run_that_is_cut_off_goes_on_and_ends_as_if_it_had_not_been(
    small: BackboneChoice,
    normal_folder: Path,
    others: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    cuts: tuple[int, ...],
) -> None:
    """To the byte: twice the same without a cut, and the same where it was cut after so many checkpoints."""
    preset = PRESETS[method]
    monkeypatch.setattr(type(preset.stopping), "against", lambda *_, **__: None)
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "DEAREST", math.inf)
    further: dict[str, Any] = {need.option: str(others) for need in preset.needs if need.required}
    options = AdaptOptions(method, small, steps=7, focus=FocusChoice("image"), **further)
    said: list[str] = []

    def fit(folder: Path, saves: int | None = None) -> None:
        save, left = Checkpoint.save, [saves]

        def counted(kept: Checkpoint, state: State) -> None:
            save(kept, state)
            if left[0] is not None:
                left[0] -= 1
                if not left[0]:
                    raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Checkpoint, "save", counted)
            adapt(str(normal_folder), str(folder), options, silent, say=said.append)

    for name in ("whole", "again"):
        fit(tmp_path / name)
    assert model_bytes(tmp_path / "whole") == model_bytes(tmp_path / "again")
    for saves in cuts:
        with pytest.raises(KeyboardInterrupt) as cut:
            fit(tmp_path / "cut", saves)
        (note,) = cut.value.__notes__
        assert re.fullmatch(r"the model is as it was, and the same command goes on after step [12345]", note)
        assert [path.name for path in (tmp_path / "cut").iterdir()] == [".checkpoint.safetensors"]
    fit(tmp_path / "cut")
    assert said == [f"going on after step {step} of a run that was cut off" for step in np.cumsum(cuts)]
    assert model_bytes(tmp_path / "cut") == model_bytes(tmp_path / "whole")
    one, other = (read_manifest(str(tmp_path / name)) for name in ("cut", "whole"))
    assert (one.method, one.files) == (other.method, other.files)


def test_other_images_or_options_start_anew_and_a_commit_ends_it(
    small: BackboneChoice, normal_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    normals, folder = tmp_path / "normals", tmp_path / "m"
    shutil.copytree(normal_folder, normals)
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    save, said = Checkpoint.save, list[str]()

    def stopping(kept: Checkpoint, state: State) -> None:
        save(kept, state)
        raise KeyboardInterrupt

    def cut(seed: int) -> None:
        options = AdaptOptions("panda-es", small, steps=3, seed=seed)
        with pytest.raises(KeyboardInterrupt):
            adapt(str(normals), str(folder), options, silent, say=said.append)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", stopping)
        cut(seed=0)
        cut(seed=1)
        draw(99).save(normals / "00.png")
        cut(seed=1)
    assert said == [
        f"starting anew: a run that was cut off had another {what}" for what in ("--seed", "normal images")
    ]
    assert (folder / ".checkpoint.safetensors").exists()
    index(str(normals), str(folder), IndexOptions(small), silent)
    assert not (folder / ".checkpoint.safetensors").exists()


def test_where_all_normals_calibrate_nothing_is_fitted_to_them(
    fit: Fit, normal_folder: Path, tmp_path: Path
) -> None:
    image = FocusChoice("image")
    fitted = fit(normal_folder, tmp_path / "m", method="stages", focus=image, rule=HoldOut(ALL))
    assert fitted.manifest.method.settings["whitening"] == 0
    assert fitted.manifest.calibration is not None
    assert (fitted.manifest.calibration.images, fitted.manifest.calibration.groups) == (20, 20)
    trained = fit(normal_folder, tmp_path / "m", steps=2, rule=HoldOut(ALL))
    assert trained.manifest.calibration is None
    assert any("the network was trained on them" in note for note in trained.notes)
    whitened = fit(normal_folder, tmp_path / "n", method="none", focus=image, rule=HoldOut(0.2))
    assert whitened.manifest.method.settings["whitening"] == POWER
    again = index(str(normal_folder), str(tmp_path / "n"), IndexOptions(), silent, HoldOut(ALL))
    assert again.manifest.calibration is None
    assert any("the features were fitted to normals" in note for note in again.notes)
