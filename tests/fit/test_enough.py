from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anomscan.errors import InputError, UsageError
from anomscan.fit.enough import Enough, Step, enough, measure
from anomscan.model.manifest import ALL
from anomscan.model.model import Model, read_model
from anomscan.scoring.info import Looks
from anomscan.scoring.registry import PROCEDURES
from tests.conftest import draw_plain, fake_model, silent

COUNTS = (20, 40, 80)
SOURCES = np.repeat(np.arange(30), 4)


def scores(generator: np.random.Generator, apart: float) -> tuple[np.ndarray, np.ndarray]:
    return generator.normal(size=30), generator.normal(size=120) + apart


def test_false_alarms_that_fall_are_seen_and_what_would_halve_them() -> None:
    generator = np.random.default_rng(0)
    drawn = [[scores(generator, apart)] for apart in (1.0, 2.0, 3.0)]
    found = measure(COUNTS, drawn, SOURCES, 0.05, generator)
    assert [step.normals for step in found.steps] == list(COUNTS)
    assert found.steps[0].alarms > found.steps[1].alarms > found.steps[2].alarms
    assert found.low > 0
    assert found.sentence().endswith("more normals would halve the false alarms at the same detection") or (
        "would halve the false alarms" in found.sentence()
    )


def test_where_nothing_falls_more_normals_bring_nothing() -> None:
    generator = np.random.default_rng(1)
    same = scores(generator, 2.0)
    found = measure(COUNTS, [[same], [same], [same]], SOURCES, 0.05, generator)
    assert found.power == pytest.approx(0, abs=1e-9)
    assert found.sentence() == "more normals of this kind bring nothing that can be measured"


@pytest.mark.parametrize(
    ("power", "low", "high", "said"),
    [
        (
            1.0,
            0.5,
            2.0,
            "about 80 more normals (33 to 240) would halve the false alarms at the same detection",
        ),
        (
            0.5,
            0.1,
            1.0,
            "about 240 more normals (80 to over 800) would halve the false alarms at the same detection",
        ),
        (
            1.0,
            -0.2,
            2.0,
            "whether more normals help cannot be told: 80 more may halve the false alarms, or bring nothing",
        ),
        (0.05, 0.01, 0.1, "more normals of this kind bring nothing that can be measured"),
        (-0.3, -0.5, 0.1, "more normals of this kind bring nothing that can be measured"),
    ],
)
def test_what_is_said(power: float, low: float, high: float, said: str) -> None:
    steps = [Step(count, 0.1, 0.05, 0.2) for count in COUNTS]
    assert Enough(0.8, steps, power, low, high).sentence() == said


def made_model(folder: Path, looks: Looks, count: int = 40, procedure: str | None = None) -> Model:
    (folder / "normal").mkdir()
    for seed in range(count):
        draw_plain(seed).save(folder / "normal" / f"{seed:02}.png")
    fake_model(folder / "normal", folder / "model", 0.4, looks=looks, procedure=procedure)
    return read_model(str(folder / "model"), threads=1)


@pytest.mark.parametrize(
    ("looks", "procedure"), [("image", None), ("both", None), *(("patch", name) for name in PROCEDURES)]
)
def test_a_model_is_compared_with_a_quarter_and_half_of_its_normals(
    tmp_path: Path, looks: Looks, procedure: str | None
) -> None:
    found = enough(made_model(tmp_path, looks, procedure=procedure), 0.1, str(tmp_path), silent)
    assert [step.normals for step in found.steps] == [6, 12, 24]
    assert 0.2 <= found.detection <= 0.95
    for step in found.steps:
        assert 0 < step.low <= step.alarms <= step.high <= 1
    assert found.low <= found.power <= found.high


def test_normals_that_are_too_few_or_gone(tmp_path: Path) -> None:
    few = made_model(tmp_path, "image", 20)
    with pytest.raises(InputError, match="12 normals and 8 held-out ones are where the model has"):
        enough(few, 0.1, str(tmp_path), silent)
    reduced = replace(few.manifest, gallery=replace(few.manifest.gallery, reduced="coreset:5"))
    with pytest.raises(UsageError, match="no longer has every normal"):
        enough(replace(few, manifest=reduced), 0.1, str(tmp_path), silent)
    gone = replace(few, normals=[f"/gone/{i}.png" for i in range(12)])
    with pytest.raises(InputError, match="0 normals and 8 held-out ones are where the model has"):
        enough(gone, 0.1, str(tmp_path), silent)


def test_normals_that_cannot_be_read_any_more(tmp_path: Path) -> None:
    model = made_model(tmp_path, "image", 40)
    for path in model.normals[:10]:
        Path(path).write_bytes(b"")
    with pytest.raises(InputError, match="14 normals and 16 held-out ones are readable, too few"):
        enough(model, 0.1, str(tmp_path), silent)


def test_no_picture_elsewhere_is_opened(tmp_path: Path) -> None:
    model = made_model(tmp_path, "image", 40)
    draw_plain(99).save(tmp_path / "private.png")
    elsewhere = replace(model, normals=[str(tmp_path / "private.png")] * 24)
    with pytest.raises(InputError, match="0 normals and 16 held-out ones are where the model has"):
        enough(elsewhere, 0.1, str(tmp_path), silent)


def test_where_all_normals_calibrate_it_cannot_be_told(normal_folder: Path, tmp_path: Path) -> None:
    fake_model(normal_folder, tmp_path / "m", ALL)
    with pytest.raises(InputError, match="all calibrate and none is held out; index again with --holdout"):
        enough(read_model(str(tmp_path / "m"), 1), 0.1, str(tmp_path), silent)
