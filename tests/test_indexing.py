from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from anomscan import gallery
from anomscan.bundle import EXTRACTOR, read_manifest, read_model
from anomscan.config import GalleryInfo, HoldOut
from anomscan.errors import GalleryTooSmall, UsageError
from anomscan.exporting import export
from anomscan.fitting import index
from anomscan.gallery import RECALL
from anomscan.scorers import parse_scorer
from tests.conftest import Fit, draw, silent


def test_the_fingerprint_depends_on_pixels_and_names_not_on_the_place(
    model_folder: Path, normal_folder: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(normal_folder, tmp_path / "moved"))
    folder = Path(shutil.copytree(model_folder, tmp_path / "m"))
    fingerprints = [read_manifest(model_folder).data.fingerprint]
    fingerprints.append(index(str(moved), folder, None, None, silent).manifest.data.fingerprint)
    draw(999).save(moved / "00.png")
    fingerprints.append(index(str(moved), folder, None, None, silent).manifest.data.fingerprint)
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_index_keeps_the_extractor_of_the_model(fit: Fit, normal_folder: Path, tmp_path: Path) -> None:
    before = fit(normal_folder, tmp_path / "m", steps=2).manifest
    fewer = tmp_path / "fewer"
    shutil.copytree(normal_folder, fewer)
    for path in sorted(fewer.iterdir())[:5]:
        path.unlink()
    after = index(str(fewer), tmp_path / "m", None, None, silent).manifest
    assert after.files[EXTRACTOR] == before.files[EXTRACTOR]
    assert after.method == before.method
    assert after.data.images == 15
    assert after.data.fingerprint != before.data.fingerprint


def test_index_changes_the_scorer_where_the_extractor_allows_it(model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "m"))
    root = read_manifest(folder).data.root
    for name in ("mahalanobis", "kmeans:4", "mean", "knn"):
        assert index(root, folder, None, name, silent).manifest.scorer == parse_scorer(name)
    assert index(root, folder, None, "mean", silent).manifest.scorer.name == "mean"
    assert index(root, folder, None, None, silent).manifest.scorer.name == "mean"
    for name in ("knn-euclidean", "samplewise", "logit"):
        with pytest.raises(UsageError, match="adapt again with it"):
            index(root, folder, None, name, silent)


@pytest.mark.parametrize("method", ["none", "panda-es"])
def test_unreadable_normals_are_reported_and_left_out(
    fit: Fit, normal_folder: Path, tmp_path: Path, method: str
) -> None:
    shutil.copytree(normal_folder, tmp_path / "normals")
    (tmp_path / "normals" / "00.png").write_bytes(b"broken")
    fitted = fit(tmp_path / "normals", tmp_path / "m", method=method, steps=None if method == "none" else 1)
    assert [Path(image.path).name for image in fitted.unreadable] == ["00.png"]
    assert (fitted.manifest.data.images, fitted.manifest.data.unreadable) == (19, 1)


@pytest.mark.parametrize("how", ["kmeans:4", "coreset:4"])
def test_a_reduced_gallery_still_names_normals_and_exports(
    model_folder: Path, normal_folder: Path, tmp_path: Path, how: str
) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "m"))
    manifest = index(str(normal_folder), folder, None, None, silent, reduce=how).manifest
    assert (manifest.data.images, manifest.gallery) == (20, GalleryInfo("exact", 1.0, how, 4))
    model = read_model(folder, threads=1)
    assert len(model.gallery) == len(model.normals) == 4
    assert {Path(path).parent for path in model.normals} == {normal_folder}
    assert export(folder, tmp_path / "x.onnx", [], silent) < 1e-4


def test_a_large_gallery_is_searched_in_lists_and_says_so(
    model_folder: Path, normal_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "EXACT_UP_TO", 10)
    folder = Path(shutil.copytree(model_folder, tmp_path / "m"))
    info = index(str(normal_folder), folder, None, None, silent).manifest.gallery
    assert info.index.startswith("IVF")
    assert RECALL <= info.recall_at_2 <= 1
    assert info.query_ms is not None
    assert read_manifest(folder).gallery == info
    assert export(folder, tmp_path / "x.onnx", [], silent) < 1e-4


def test_a_reduction_that_does_not_exist_or_is_too_large(
    model_folder: Path, normal_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "m"))
    with pytest.raises(UsageError, match="choose kmeans:K or coreset:K"):
        index(str(normal_folder), folder, None, None, silent, reduce="pca:3")
    for how in ("kmeans:21", "coreset:21"):
        with pytest.raises(GalleryTooSmall, match="too few for"):
            index(str(normal_folder), folder, None, None, silent, reduce=how)
    assert read_manifest(folder) == read_manifest(model_folder)


def test_an_adapted_model_is_never_calibrated_with_what_it_was_trained_on(
    fit: Fit, normal_folder: Path, tmp_path: Path
) -> None:
    normals = Path(shutil.copytree(normal_folder, tmp_path / "normals"))
    fit(normals, tmp_path / "m", steps=2)
    assert index(str(normals), tmp_path / "m", None, None, silent, HoldOut(0.5)).manifest.calibration is None
    for seed in range(100, 110):
        draw(seed).save(normals / f"new-{seed}.png")
    index(str(normals), tmp_path / "m", None, None, silent, HoldOut(0.2))
    calibration = read_model(tmp_path / "m", threads=1).calibration
    assert calibration is not None
    assert len(calibration.paths) == 6
    assert all(Path(path).name.startswith("new") for path in calibration.paths)
