from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from anomscan.errors import GalleryTooSmall, UsageError
from anomscan.fit.export import export
from anomscan.fit.index import IndexOptions, index
from anomscan.images.find import find
from anomscan.model.folder import read_manifest
from anomscan.model.manifest import HoldOut
from anomscan.model.model import NORMALS, read_model
from anomscan.network.network import EXTRACTOR
from anomscan.scoring import gallery
from anomscan.scoring.gallery import RECALL
from anomscan.scoring.info import GalleryInfo
from anomscan.scoring.registry import parse_scorer
from anomscan.screen.run import ScoreJob, run
from tests.conftest import REPOSITORY, draw, draw_odd, fake_model, silent


def test_the_default_network_needs_no_download(default_folder: Path, tmp_path: Path) -> None:
    manifest = read_manifest(str(default_folder))
    assert manifest.backbone.name == "tf_efficientnet_lite0"
    assert (manifest.method.preset, manifest.method.steps, manifest.data.images) == ("none", 0, 20)
    draw_odd(1).save(tmp_path / "odd.png")
    draw(300).save(tmp_path / "plain.png")
    with run(ScoreJob(find([str(tmp_path)]), read_model(str(default_folder), 1)), silent) as outcome:
        odd, plain = outcome.ranking.rows()
    assert Path(odd.path).name == "odd.png"
    assert odd.score is not None
    assert plain.score is not None
    assert odd.score > 2 * plain.score


def test_the_fingerprint_depends_on_pixels_and_names_not_on_the_place(
    plain: Path, normal_folder: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(normal_folder, tmp_path / "moved"))
    fingerprints = [read_manifest(str(plain)).data.fingerprint]
    fingerprints.append(index(str(moved), str(plain), IndexOptions(), silent).manifest.data.fingerprint)
    draw(999).save(moved / "00.png")
    fingerprints.append(index(str(moved), str(plain), IndexOptions(), silent).manifest.data.fingerprint)
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_index_keeps_the_extractor_of_the_model(normal_folder: Path, tmp_path: Path) -> None:
    folder = str(tmp_path / "m")
    before = fake_model(normal_folder, tmp_path / "m", steps=2).manifest
    fewer = Path(shutil.copytree(normal_folder, tmp_path / "fewer"))
    for path in sorted(fewer.iterdir())[:5]:
        path.unlink()
    after = index(str(fewer), folder, IndexOptions(), silent).manifest
    assert after.files[EXTRACTOR] == before.files[EXTRACTOR]
    assert after.method == before.method
    assert after.method.steps == 2
    assert after.data.images == 15
    assert after.data.fingerprint != before.data.fingerprint


def test_index_changes_the_scorer_where_the_extractor_allows_it(plain: Path) -> None:
    folder, root = str(plain), read_manifest(str(plain)).data.root
    for name in ("mahalanobis", "kmeans:4", "mean", "knn"):
        assert index(root, folder, IndexOptions(scorer=name), silent).manifest.scorer == parse_scorer(name)
    assert index(root, folder, IndexOptions(scorer="mean"), silent).manifest.scorer.name == "mean"
    assert index(root, folder, IndexOptions(), silent).manifest.scorer.name == "mean"
    for name in ("knn-euclidean", "samplewise", "logit"):
        with pytest.raises(UsageError, match="adapt again with it"):
            index(root, folder, IndexOptions(scorer=name), silent)


def test_unreadable_normals_are_reported_and_left_out(
    plain: Path, normal_folder: Path, tmp_path: Path
) -> None:
    normals = Path(shutil.copytree(normal_folder, tmp_path / "normals"))
    (normals / "00.png").write_bytes(b"broken")
    fitted = index(str(normals), str(plain), IndexOptions(), silent)
    assert [Path(image.path).name for image in fitted.unreadable] == ["00.png"]
    assert (fitted.manifest.data.images, fitted.manifest.data.unreadable) == (19, 1)


@pytest.mark.parametrize("how", ["kmeans:4", "coreset:4"])
def test_a_reduced_gallery_still_names_normals_and_exports(
    plain: Path, normal_folder: Path, tmp_path: Path, how: str
) -> None:
    manifest = index(str(normal_folder), str(plain), IndexOptions(reduce=how), silent).manifest
    assert (manifest.data.images, manifest.gallery) == (20, GalleryInfo("exact", 1.0, how, 4))
    model = read_model(str(plain), threads=1)
    assert len(model.gallery) == len(model.normals) == 4
    assert {Path(path).parent for path in model.normals} == {normal_folder}
    assert export(str(plain), str(tmp_path / "x.onnx"), [], silent) < 1e-4


def test_a_large_gallery_is_searched_in_lists_and_says_so(
    plain: Path, normal_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "EXACT_UP_TO", 10)
    info = index(str(normal_folder), str(plain), IndexOptions(), silent).manifest.gallery
    assert info.index.startswith("IVF")
    assert RECALL <= info.recall_at_2 <= 1
    assert info.query_ms is not None
    assert read_manifest(str(plain)).gallery == info
    assert export(str(plain), str(tmp_path / "x.onnx"), [], silent) < 1e-4


def test_a_reduction_that_does_not_exist_or_is_too_large(
    plain: Path, model_folder: Path, normal_folder: Path
) -> None:
    with pytest.raises(UsageError, match="choose kmeans:K or coreset:K"):
        index(str(normal_folder), str(plain), IndexOptions(reduce="pca:3"), silent)
    for how in ("kmeans:21", "coreset:21"):
        with pytest.raises(GalleryTooSmall, match="too few for"):
            index(str(normal_folder), str(plain), IndexOptions(reduce=how), silent)
    assert read_manifest(str(plain)) == read_manifest(str(model_folder))


def test_an_adapted_model_is_never_calibrated_with_what_it_was_trained_on(
    normal_folder: Path, tmp_path: Path
) -> None:
    normals, folder = Path(shutil.copytree(normal_folder, tmp_path / "normals")), str(tmp_path / "m")
    fake_model(normals, tmp_path / "m", steps=2)
    fitted = index(str(normals), folder, IndexOptions(), silent, HoldOut(0.5))
    assert (fitted.manifest.calibration, fitted.notes) == (None, [])
    for seed in range(100, 110):
        draw(seed).save(normals / f"new-{seed}.png")
    index(str(normals), folder, IndexOptions(), silent, HoldOut(0.2))
    calibration = read_model(folder, threads=1).calibration
    assert calibration is not None
    assert len(calibration.paths) == 6
    assert all(Path(path).name.startswith("new") for path in calibration.paths)


KILLER = """
import os, signal, sys
from anomscan.fit.index import IndexOptions, index
def deadly(what, done, total, remark):
    if what.startswith(sys.argv[3]) and done == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
index(sys.argv[1], sys.argv[2], IndexOptions(), deadly)
"""


@pytest.mark.parametrize(("stage", "done"), [("embedding", 20), ("building the gallery", 0)])
def test_an_index_that_is_killed_leaves_the_old_model(
    plain: Path, model_folder: Path, others: Path, normal_folder: Path, stage: str, done: int
) -> None:
    images = others if done == 0 else normal_folder
    arguments = [sys.executable, "-c", KILLER, images, plain, stage, str(done)]
    process = subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    assert read_manifest(str(plain)) == read_manifest(str(model_folder))
    assert len(read_model(str(plain), threads=1).gallery) == 20
    assert list(plain.glob(".staging-*"))
    index(str(others), str(plain), IndexOptions(), silent)
    assert len(read_model(str(plain), threads=1).gallery) == 12
    assert not list(plain.glob(".staging-*"))


def lose_the_normals(folder: Path) -> None:
    """Delete the list of the paths that the gallery came from."""
    (folder / read_manifest(str(folder)).files[NORMALS].name).unlink()


def test_a_lost_gallery_file_is_made_again(plain: Path, normal_folder: Path) -> None:
    lose_the_normals(plain)
    fitted = index(str(normal_folder), str(plain), IndexOptions(), silent, HoldOut(0.2))
    model = read_model(str(plain), threads=1)
    assert (len(model.normals), fitted.notes) == (16, [])
    assert model.calibration is not None
    assert len(model.calibration.paths) == 4


def test_where_it_is_unknown_what_was_trained_on_none_is_held_out(
    normal_folder: Path, tmp_path: Path
) -> None:
    fake_model(normal_folder, tmp_path / "m", steps=2)
    lose_the_normals(tmp_path / "m")
    fitted = index(str(normal_folder), str(tmp_path / "m"), IndexOptions(), silent, HoldOut(0.2))
    (note,) = fitted.notes
    assert note.startswith("none can be held out: what was trained on is unknown (the model in")
    assert (fitted.manifest.calibration, fitted.manifest.data.images) == (None, 20)
    assert len(read_model(str(tmp_path / "m"), threads=1).normals) == 20
