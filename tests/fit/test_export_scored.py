from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from anomscan.errors import CalibrationTooSmall, NoImages, OutputError, ParityError, UsageError
from anomscan.fit import export_scored as module
from anomscan.fit.export_scored import ScoredOptions, export_scored
from anomscan.fit.scored_graph import ScoredGraph
from anomscan.model.manifest import ALL
from anomscan.model.model import read_model
from anomscan.network.backends import OnnxRuntime
from anomscan.scoring import patches
from anomscan.scoring.info import Looks
from tests.conftest import draw, draw_odd, fake_model, silent


@pytest.fixture
def incoming(tmp_path: Path) -> str:
    folder = tmp_path / "incoming"
    folder.mkdir()
    for seed in range(6):
        (draw if seed < 4 else draw_odd)(400 + seed).save(folder / f"{seed}.png")
    (folder / "broken.png").write_bytes(b"broken")
    return str(folder)


def test_normals_and_their_mirror_images_are_checked(calibrated_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    parity = export_scored(str(calibrated_folder), str(out), ScoredOptions(), silent)
    report = json.loads((tmp_path / "out.parity.json").read_text())
    assert out.exists()
    assert parity.images == len(report["rows"]) == 40
    assert parity.fpr == pytest.approx(1 / 11), "no p-value is smaller"
    assert parity.change is None
    mirrored = [row for row in report["rows"] if row["path"].endswith(" (mirrored)")]
    assert len(mirrored) == 20
    assert min(row["p_value_exported"] for row in mirrored) < 1, "they are no copies"


def test_images_can_be_named(calibrated_folder: Path, incoming: str, tmp_path: Path) -> None:
    options = ScoredOptions((incoming,), fpr=0.2)
    parity = export_scored(str(calibrated_folder), str(tmp_path / "out.onnx"), options, silent)
    assert (parity.images, parity.fpr, parity.anomalous) == (6, 0.2, 2)


def test_a_file_that_says_something_else_is_not_written(
    calibrated_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(self: ScoredGraph, out: Path) -> None:
        honest(self, out)
        model = onnx.load(out)
        (scale,) = [node for node in model.graph.node if node.output[0] == "score"]
        scale.op_type = "Neg"
        onnx.save(model, out)

    honest = ScoredGraph.write
    monkeypatch.setattr(ScoredGraph, "write", write)
    with pytest.raises(ParityError, match="does not say of real images what the model says"):
        export_scored(str(calibrated_folder), str(tmp_path / "out.onnx"), ScoredOptions(), silent)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_done_is_refused(calibrated_folder: Path, model_folder: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out.onnx")
    with pytest.raises(CalibrationTooSmall, match=r"--fpr 0\.01 needs 99 held-out normals"):
        export_scored(str(calibrated_folder), out, ScoredOptions(fpr=0.01), silent)
    with pytest.raises(CalibrationTooSmall, match="the model has none"):
        export_scored(str(model_folder), out, ScoredOptions(fpr=0.5), silent)
    with pytest.raises(OutputError, match="cannot write"):
        export_scored(str(model_folder), "/proc/out.onnx", ScoredOptions(), silent)
    assert list(tmp_path.iterdir()) == []
    assert export_scored(str(model_folder), out, ScoredOptions(), silent).fpr is None


def test_without_normals_there_is_nothing_to_check_with(
    normal_folder: Path, incoming: str, tmp_path: Path
) -> None:
    normals = Path(shutil.copytree(normal_folder, tmp_path / "normals"))
    folder, out = str(tmp_path / "m"), str(tmp_path / "out.onnx")
    fake_model(normals, Path(folder), 0.5)
    shutil.rmtree(normals)
    with pytest.raises(NoImages, match="--images"):
        export_scored(folder, out, ScoredOptions(), silent)
    with pytest.raises(NoImages, match=r"10 of the 10 held-out normals can no longer be read"):
        export_scored(folder, out, ScoredOptions((incoming,), fp16=True), silent)
    assert export_scored(folder, out, ScoredOptions((incoming,)), silent).images == 6


def test_a_search_in_lists_stays_one(
    normal_folder: Path, incoming: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patches, "_EXACT_UP_TO", 5)
    monkeypatch.setattr(patches, "_LISTS", 1)
    fake_model(normal_folder, tmp_path / "m", 0.5, looks="both")
    parity = export_scored(
        str(tmp_path / "m"), str(tmp_path / "out.onnx"), ScoredOptions((incoming,), 0.2), silent
    )
    assert not read_model(str(tmp_path / "m"), 1).scorer.patches.gallery.exact  # type: ignore[union-attr]
    assert parity.change is None
    assert parity.backends[0].agreement.beyond == 0
    assert parity.backends[0].agreement.decisions == 0


def test_weights_can_have_16_bits(calibrated_folder: Path, incoming: str, tmp_path: Path) -> None:
    """The fake network has none that are large enough: it is the same, and read again all the same."""
    options = ScoredOptions((incoming,), 0.2, fp16=True)
    parity = export_scored(str(calibrated_folder), str(tmp_path / "out.onnx"), options, silent)
    assert parity.change is not None
    assert (parity.change.score, parity.change.decisions) == (0, 0)


def test_weights_can_have_8_bits(calibrated_folder: Path, tmp_path: Path) -> None:
    options = ScoredOptions(int8=True)
    parity = export_scored(str(calibrated_folder), str(tmp_path / "out.onnx"), options, silent)
    assert parity.change is not None
    assert parity.change.spearman > 0.9


def test_what_has_8_bits_already_is_refused(
    calibrated_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (calibrated_folder / "model.json").read_text()
    folder = Path(shutil.copytree(calibrated_folder, tmp_path / "m"))
    info = '{"speed": 1.0, "spearman": 1.0, "p_value_change": 0.0}'
    (folder / "model.json").write_text(text.replace('"int8": null', f'"int8": {info}'))
    with pytest.raises(UsageError, match="has 8 bits already"):
        export_scored(str(folder), str(tmp_path / "out.onnx"), ScoredOptions(int8=True), silent)
    monkeypatch.setattr(module, "OF_A_KIND", 3)
    assert export_scored(str(folder), str(tmp_path / "out.onnx"), ScoredOptions(), silent).images == 12


def test_images_one_by_one_are_what_they_are_together(
    calibrated_folder: Path, incoming: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.onnx"
    export_scored(str(calibrated_folder), str(out), ScoredOptions((incoming,)), silent)
    pixels = np.random.default_rng(0).integers(0, 255, (7, 64, 64, 3), np.uint8)
    backend = OnnxRuntime(out, 1)
    together, alone = backend.run(pixels), backend.run_each(list(pixels), 1)
    np.testing.assert_allclose(alone["score"], together["score"], rtol=1e-5)
    np.testing.assert_array_equal(alone["p_value"], together["p_value"])


@pytest.mark.parametrize("looks", ["image", "both"])
@pytest.mark.parametrize("fp16", [False, True])
def test_where_all_normals_calibrate_the_file_has_the_same_p_values(
    looks: Looks,
    fp16: bool,
    normal_folder: Path,
    incoming: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patches, "_EXACT_UP_TO", 5)
    folder = str(tmp_path / "m")
    fake_model(normal_folder, Path(folder), ALL, looks=looks)
    options = ScoredOptions((incoming,), 0.05, fp16=fp16)
    parity = export_scored(folder, str(tmp_path / "out.onnx"), options, silent)
    assert parity.anomalous == 2
    assert parity.backends[0].agreement.beyond == 0
    rows = json.loads((tmp_path / "out.parity.json").read_text())["rows"]
    assert min(row["p_value_exported"] for row in rows) == pytest.approx(1 / 21, abs=1e-6)
    assert max(row["p_value_exported"] for row in rows) > 0.1
    named = export_scored(folder, str(tmp_path / "again.onnx"), ScoredOptions(fpr=0.05), silent)
    assert named.images == 40, "no normal is read twice"
