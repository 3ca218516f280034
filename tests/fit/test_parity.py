from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anomscan.errors import ParityError
from anomscan.fit.parity import Parity, agree, compare, ranks
from anomscan.fit.scored_graph import Results, ScoredGraph
from anomscan.images.decode import Decoded, decode_all
from anomscan.images.find import Source
from anomscan.model.model import Model, read_model
from anomscan.network.backends import Arrays, OnnxRuntime
from anomscan.stats.calibration import Calibration
from anomscan.types import Pixels
from tests.scoring.features import unit

CALIBRATION = Calibration(unit(9), np.arange(1, 10, dtype=np.float32), list("abcdefghi"), list("abcdefghi"))
SCORES = np.array([0.5, 3.5, 7.5, 20], np.float32)


def results(scores: np.ndarray, p_values: np.ndarray | None = None) -> Results:
    scores = scores.astype(np.float32)
    if p_values is None:
        p_values = CALIBRATION.p_values(scores)
    return Results(scores, p_values, unit(len(scores)), np.zeros(len(scores), np.int64), None)


def test_what_rounding_explains_is_no_fault() -> None:
    before = results(SCORES)
    found = agree(before, results(SCORES * np.float32(1 + 2e-5)), CALIBRATION, 0.1)
    assert not found.faults
    assert (found.swapped, found.ranks, found.p_values, found.decisions) == (0, 0, 0, 0)
    assert 1e-5 < found.score < 3e-5
    tied = results(np.array([9, 5, 5], np.float32))
    swapped = agree(tied, results(np.array([9, 4.9999, 5], np.float32)), CALIBRATION, 0.1)
    assert (swapped.ranks, swapped.swapped, swapped.faults) == (2, 0, [])
    shown = agree(replace(before, rounding=0.01), results(SCORES + 0.009), CALIBRATION, 0.1)
    assert not shown.faults, "1 - cos of what is all but the same may differ by more"


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (results(SCORES * np.float32(1.001)), ["scores differ by up to 0.001"]),
        (results(np.array([0.5, 3.5, 7.5, np.nan])), ["scores differ by up to inf"]),
        (
            results(SCORES[::-1].copy(), CALIBRATION.p_values(SCORES)),
            ["scores differ by up to 3.5", "3 images have another rank"],
        ),
        (results(SCORES, np.array([1.0, 0.7, 0.4, 0.1])), ["1 p-values differ"]),
        (
            results(SCORES, np.array([1.0, 0.7, 0.3, 0.2])),
            ["1 p-values differ", "1 images are called differently"],
        ),
    ],
)
def test_what_it_does_not_explain_is(after: Results, said: list[str]) -> None:
    assert agree(results(SCORES), after, CALIBRATION, 0.1).faults == said


def test_copies_of_normals_have_a_p_value_of_one() -> None:
    before = results(SCORES, np.array([1.0, 0.7, 1.0, 0.1]))
    assert not agree(before, before, CALIBRATION, 0.1).faults
    assert agree(before, results(SCORES), CALIBRATION, 0.1).faults == ["1 p-values differ"]


def test_maps_are_compared_on_their_own_scale() -> None:
    maps = np.array([[[1.0, 2.0], [3.0, 0.0]]] * 4, np.float32)
    before = replace(results(SCORES), distances=maps)
    near = agree(before, replace(before, distances=maps + 1e-5), CALIBRATION, None)
    assert near.decisions is None
    assert near.map == pytest.approx(1e-5 / 1.5, rel=0.05)
    assert not near.faults
    assert agree(before, replace(before, distances=maps + 0.1), CALIBRATION, None).faults == [
        "maps differ by up to 0.067"
    ]


def test_ranks_count_from_the_most_anomalous() -> None:
    assert ranks(np.array([1, 3, 2, 3], np.float32)).tolist() == [4, 1, 3, 2]


class Altered(OnnxRuntime):
    """A backend that computes something else."""

    def run(self, pixels: Pixels) -> Arrays:
        found = super().run(pixels)
        return {**found, "score": found["score"] * 1.01}


@pytest.fixture
def model(calibrated_folder: Path) -> Model:
    return read_model(str(calibrated_folder), threads=1)


@pytest.fixture
def images(model: Model, normal_folder: Path) -> list[Decoded]:
    sources = [Source(str(path)) for path in sorted(normal_folder.iterdir())]
    found = decode_all(sources, model.manifest.preprocessing, 1)
    return [image for image in found if isinstance(image, Decoded)]


def parity(
    model: Model, folder: Path, images: list[Decoded], out: Path, *others: type[OnnxRuntime], strict: bool
) -> Parity:
    scored = ScoredGraph.of(str(folder), model)
    scored.write(out)
    loaded = [kind(out, 1) for kind in (OnnxRuntime, *others)]
    return compare(scored, loaded, images, None, model.normals, 0.1, 1, strict=strict)


def test_the_report_says_it_of_every_image(
    model: Model, calibrated_folder: Path, images: list[Decoded], tmp_path: Path
) -> None:
    found = parity(model, calibrated_folder, images, tmp_path / "x.onnx", strict=True)
    found.save(tmp_path / "report.json", {"model": "m"})
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["model"], report["images"], report["fpr"], report["anomalous"]) == ("m", 20, 0.1, 0)
    assert report["normals"] == model.normals
    assert [row["path"] for row in report["rows"]] == [image.path for image in images]
    assert sorted(row["rank_exported"] for row in report["rows"]) == list(range(1, 21))
    assert {row["p_value_exported"] for row in report["rows"]} == {1.0}
    assert report["backends"][0]["agreement"]["beyond"] == 0
    assert report["backends"][0]["milliseconds"] > 0
    assert found.backends[0].agreement.score == report["backends"][0]["agreement"]["score"] < 1e-3


def test_a_backend_that_differs_is_refused_or_reported(
    model: Model, calibrated_folder: Path, images: list[Decoded], tmp_path: Path
) -> None:
    with pytest.raises(ParityError, match=r"in onnxruntime .*: scores differ by up to 0.01.*not written"):
        parity(model, calibrated_folder, images, tmp_path / "x.onnx", Altered, strict=True)
    found = parity(model, calibrated_folder, images, tmp_path / "x.onnx", Altered, strict=False)
    assert [bool(backend.agreement.faults) for backend in found.backends] == [False, True]
