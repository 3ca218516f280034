from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anomscan.errors import Int8Differs, NoImages, UsageError
from anomscan.fit import int8
from anomscan.fit.export import export_int8
from anomscan.fit.index import IndexOptions, index
from anomscan.fit.int8 import make_int8
from anomscan.images.decode import decode
from anomscan.images.find import find
from anomscan.model.folder import read_manifest, verified
from anomscan.model.model import read_model
from anomscan.network.extractor import BATCH, Extractor
from anomscan.network.network import EXTRACTOR, Int8Info
from anomscan.types import Pixels
from tests.conftest import silent


def batches(images: list[Pixels]) -> list[Pixels]:
    return [np.stack(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]


def test_scores_of_8_bits_are_nearly_those_of_floats(
    default_folder: Path, normal_folder: Path, tmp_path: Path
) -> None:
    folder = str(default_folder)
    manifest = read_manifest(folder)
    graph, out = verified(folder, manifest, EXTRACTOR), tmp_path / "x.onnx"
    sources = list(find([str(normal_folder)]))
    info = make_int8(graph, out, sources, manifest.preprocessing, "cosine", force=True)
    assert info.spearman > 0.5
    assert info.speed > 0
    assert out.stat().st_size < graph.stat().st_size / 3
    model = read_model(folder, threads=1)
    pixels = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8)
    small = Extractor(out, threads=1)
    assert np.abs(small.run(pixels).image - model.extractor.run(pixels).image).max() < 0.05
    decoded = [decode(source.path, manifest.preprocessing).pixels for source in sources]
    ranks = []
    for extractor in (model.extractor, small):
        features = np.concatenate([outputs.image for outputs in extractor.run_all(batches(decoded))])
        scores = np.sort(1 - features @ features.T, axis=1)[:, 1:3].sum(axis=1)
        ranks.append(np.array([(1 + np.sum(np.delete(scores, i) >= scores[i])) / 20 for i in range(20)]))
    assert info.p_value_change == pytest.approx(np.abs(ranks[0] - ranks[1]).mean(), abs=1e-6)
    assert small.metadata["backbone"] == "tf_efficientnet_lite0"
    with pytest.raises(NoImages, match="calibrated on normal images"):
        make_int8(graph, out, sources[:3], manifest.preprocessing, "cosine", force=False)


def test_index_in_8_bits_is_recorded_kept_and_not_done_twice(
    plain: Path, normal_folder: Path, tmp_path: Path
) -> None:
    folder, eight = str(plain), IndexOptions(int8=True, force=True)
    manifest = index(str(normal_folder), folder, eight, silent).manifest
    assert isinstance(manifest.int8, Int8Info)
    assert read_manifest(folder) == manifest
    assert index(str(normal_folder), folder, IndexOptions(), silent).manifest.int8 == manifest.int8
    model = read_model(folder, threads=1)
    own, _ = model.gallery.search(model.gallery.vectors(), 1)
    assert own.max() < 1e-5
    with pytest.raises(UsageError, match="8 bits already"):
        index(str(normal_folder), folder, IndexOptions(int8=True), silent)
    with pytest.raises(UsageError, match="8 bits already"):
        export_int8(folder, str(tmp_path / "x.onnx"), [], force=False)


def test_what_changes_the_ranks_is_refused(
    plain: Path, model_folder: Path, normal_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "LEAST_SPEARMAN", 1.01)
    folder, out = str(plain), str(tmp_path / "x.onnx")
    with pytest.raises(Int8Differs, match="--force"):
        index(str(normal_folder), folder, IndexOptions(int8=True), silent)
    assert read_manifest(folder) == read_manifest(str(model_folder))
    with pytest.raises(Int8Differs, match="--force"):
        export_int8(folder, out, [], force=False)
    assert not (tmp_path / "x.onnx").exists()
    assert export_int8(folder, out, [str(normal_folder)], force=True).spearman <= 1 + 1e-9
    assert (tmp_path / "x.onnx").exists()
