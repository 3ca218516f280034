from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomscan.adapt import extraction
from anomscan.adapt.presets import PRESETS
from anomscan.bundle import CALIBRATION, INDEX, SCORER, WEIGHTS, read_model
from anomscan.config import HoldOut
from anomscan.errors import GalleryTooSmall, InputError, NoImages, UsageError
from anomscan.exporting import export
from anomscan.fitting import hold_out_rule, index
from anomscan.images import find
from anomscan.options import BackboneChoice
from anomscan.screening import Ranking, score
from tests.conftest import REPOSITORY, SIZE, Fit, draw, silent


@pytest.mark.parametrize("method", PRESETS)
def test_every_preset_makes_a_model_that_scores(
    fit: Fit,
    normal_folder: Path,
    others: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    monkeypatch.setattr(extraction, "FEWEST_TO_SPLIT", 10)
    needs = PRESETS[method].objective().needs if PRESETS[method].objective else None
    further: dict[str, Any] = {needs: str(others)} if needs else {}
    if PRESETS[method].objective is not None:
        further["steps"] = 2
    manifest = fit(normal_folder, tmp_path / "m", method=method, **further).manifest
    assert manifest.method.preset == method
    assert manifest.method.steps == further.get("steps", 0)
    model = read_model(tmp_path / "m", threads=1)
    distances, _ = model.gallery.search(model.gallery.vectors(), 1)
    assert distances.max() < 1e-2
    with Ranking() as ranking:
        score(
            find([str(normal_folder / "00.png"), str(others)]),
            model,
            ranking,
            k=None,
            threads=1,
            progress=silent,
        )
        assert all(np.isfinite(row.score) for row in ranking.rows() if row.score is not None)
        assert ranking.scored == 13
    assert export(tmp_path / "m", tmp_path / "x.onnx", [], silent) < 1e-4


@pytest.mark.parametrize("method", ["panda-oe", "adib", "adra"])
def test_what_learns_from_outliers_can_score_by_its_logit(
    fit: Fit, normal_folder: Path, others: Path, tmp_path: Path, method: str
) -> None:
    further: dict[str, Any] = {"outliers": str(others), "scorer": "logit"}
    manifest = fit(normal_folder, tmp_path / "m", method=method, steps=8, **further).manifest
    assert (manifest.scorer.name, manifest.scorer.metric) == ("logit", "euclidean")
    with Ranking() as ranking:
        model, everything = read_model(tmp_path / "m", threads=1), [str(normal_folder), str(others)]
        score(find(everything), model, ranking, k=None, threads=1, progress=silent)
        first = next(iter(ranking.rows()))
    assert others in Path(first.path).parents
    assert export(tmp_path / "m", tmp_path / "x.onnx", [], silent) < 1e-4


def test_adapting_changes_the_features_and_none_does_not(
    fit: Fit, small: BackboneChoice, normal_folder: Path, tmp_path: Path
) -> None:
    index(str(normal_folder), tmp_path / "plain", small, None, silent)
    fit(normal_folder, tmp_path / "none", method="none")
    fit(normal_folder, tmp_path / "adapted", steps=3)
    plain, none, adapted = (
        read_model(tmp_path / name, threads=1).gallery.vectors() for name in ("plain", "none", "adapted")
    )
    np.testing.assert_array_equal(none, plain)
    assert np.abs(adapted - plain).max() > 1e-5


@pytest.mark.parametrize("method", ["panda-es", "msc"])
def test_the_seed_makes_two_runs_identical(
    fit: Fit, normal_folder: Path, tmp_path: Path, method: str
) -> None:
    first, same, other = (
        fit(normal_folder, tmp_path / name, method=method, steps=3, seed=seed).manifest.files[INDEX].sha256
        for name, seed in (("a", 7), ("b", 7), ("c", 8))
    )
    assert first == same != other


def test_a_cache_on_disk_gives_the_same_model(fit: Fit, normal_folder: Path, tmp_path: Path) -> None:
    in_memory = fit(normal_folder, tmp_path / "a", steps=2)
    on_disk = fit(normal_folder, tmp_path / "b", steps=2, memory=0)
    assert in_memory.manifest.files[INDEX] == on_disk.manifest.files[INDEX]


def test_a_time_budget_stops_the_training(fit: Fit, normal_folder: Path, tmp_path: Path) -> None:
    fitted = fit(normal_folder, tmp_path / "m", steps=10_000, time_budget=1.0)
    assert fitted.manifest.method.steps < 1000


def test_the_adapted_weights_can_be_given_back(fit: Fit, normal_folder: Path, tmp_path: Path) -> None:
    manifest = fit(normal_folder, tmp_path / "m", steps=2).manifest
    weights = tmp_path / "m" / manifest.files[WEIGHTS].name
    index(str(normal_folder), tmp_path / "again", BackboneChoice("resnet10t", weights, SIZE), None, silent)
    first, again = (read_model(tmp_path / name, threads=1).gallery.vectors() for name in ("m", "again"))
    np.testing.assert_allclose(first, again, atol=1e-5)


def test_index_with_a_backbone_starts_afresh(
    fit: Fit, small: BackboneChoice, normal_folder: Path, tmp_path: Path
) -> None:
    fit(normal_folder, tmp_path / "m", steps=2)
    assert index(str(normal_folder), tmp_path / "m", small, None, silent).manifest.method.preset == "none"


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
    with pytest.raises(GalleryTooSmall, match="holds 1 normal image,"):
        fit(single, tmp_path / "m", method=method)
    with pytest.raises(UsageError, match="no method"):
        fit(single, tmp_path / "m", method="x")
    assert not (tmp_path / "m").exists()


KILLER = """
import os, signal, sys
from pathlib import Path
from anomscan.fitting import adapt, index
from anomscan.options import AdaptOptions, BackboneChoice
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job starts without
def deadly(what, done, total, remark):
    if what.startswith(sys.argv[3]) and done == int(sys.argv[4]):
        os.kill(os.getpid(), int(sys.argv[5]))
small = BackboneChoice("resnet10t", Path(sys.argv[6]), 64)
adapt(sys.argv[1], Path(sys.argv[2]), AdaptOptions("panda-es", small, steps=3), deadly)
"""


@pytest.mark.parametrize(
    ("stage", "done", "how"),
    [
        ("reading", 10, signal.SIGKILL),
        ("adapting", 2, signal.SIGKILL),
        ("adapting", 2, signal.SIGINT),
        ("exporting", 0, signal.SIGKILL),
        ("embedding", 20, signal.SIGKILL),
    ],
)
def test_an_interrupted_adapt_leaves_the_old_model(
    model_folder: Path,
    normal_folder: Path,
    small: BackboneChoice,
    tmp_path: Path,
    stage: str,
    done: int,
    how: signal.Signals,
) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "m"))
    before = json.loads((folder / "model.json").read_text())
    process = subprocess.run(
        [
            sys.executable,
            "-c",
            KILLER,
            normal_folder,
            folder,
            stage,
            str(done),
            str(int(how)),
            str(small.weights),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        check=False,
    )
    assert process.returncode == -how, process.stderr.decode()
    assert json.loads((folder / "model.json").read_text()) == before
    assert len(read_model(folder, threads=1).gallery) == 20


@pytest.mark.parametrize(("method", "scorer"), [("panda-es", "mahalanobis"), ("none", "kmeans:3")])
def test_what_is_held_out_shapes_nothing(
    fit: Fit, normal_folder: Path, tmp_path: Path, method: str, scorer: str
) -> None:
    """The same features and the same scorer come from the other images alone."""
    steps = {} if method == "none" else {"steps": 2}
    fitted = fit(normal_folder, tmp_path / "m", method=method, scorer=scorer, hold_out=HoldOut(0.3), **steps)
    model = read_model(tmp_path / "m", threads=1)
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
        model.scorer.score(model.calibration.features, model.gallery, 2),
        rtol=1e-5,
    )


def test_the_rule_is_the_models_unless_another_is_asked_for(
    calibrated_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    assert hold_out_rule(calibrated_folder, None, None) == HoldOut(0.5, "none")
    assert hold_out_rule(calibrated_folder, 0.1, "folder") == HoldOut(0.1, "folder")
    for folder in (model_folder, tmp_path / "none", None):
        assert hold_out_rule(folder, None, "prefix") == HoldOut(0.2, "prefix")


def test_with_few_normals_none_is_held_out(fit: Fit, normal_folder: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(normal_folder.iterdir())[:9]:
        shutil.copy(path, few)
    manifest = fit(few, tmp_path / "m", method="none", hold_out=HoldOut(0.2)).manifest
    assert (manifest.data.images, manifest.calibration) == (9, None)
