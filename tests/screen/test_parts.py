from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from anomscan.errors import CalibrationTooSmall
from anomscan.images.find import find
from anomscan.images.workpiece import PartRule
from anomscan.model.manifest import ALL
from anomscan.model.model import Model, read_model
from anomscan.report.rows import Row
from anomscan.screen.parts import Parts, group_rule
from anomscan.screen.run import ScoreJob, run
from anomscan.stats.decision import Decision
from tests.conftest import draw, draw_odd, fake_model, silent

PREFIX = PartRule("prefix")


def photograph(folder: Path, parts: range, *, odd: int | None = None) -> Path:
    """Three views each; of part ``odd`` one view is unlike the normals."""
    folder.mkdir(exist_ok=True)
    for part in parts:
        for place, view in enumerate(("left", "right", "top")):
            image = draw_odd if (part, view) == (odd, "right") else draw
            image(10 * part + place).save(folder / f"{part:03}_{view}.png")
    return folder


@pytest.fixture(scope="module")
def normals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four parts in three views."""
    return photograph(tmp_path_factory.mktemp("parts") / "normal", range(24))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, normals: Path) -> Model:
    """A model of them, with half of the parts held out whole."""
    folder = tmp_path_factory.mktemp("whole") / "model"
    fake_model(normals, folder, 0.5, group_by="part")
    return read_model(str(folder), threads=1)


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory, normals: Path) -> Model:
    """The same, held out image by image."""
    folder = tmp_path_factory.mktemp("apart") / "model"
    fake_model(normals, folder, 0.5)
    return read_model(str(folder), threads=1)


@pytest.fixture(scope="module")
def incoming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four parts, one of them odd in one view, and one of another part that cannot be read."""
    folder = photograph(tmp_path_factory.mktemp("in") / "incoming", range(100, 104), odd=102)
    (folder / "103_bottom.png").write_bytes(b"broken")
    return folder


def judged(model: Model, folder: Path, fpr: float = 0.1) -> tuple[list[Row], list[str]]:
    with run(ScoreJob(find([str(folder)]), model, Decision(fpr=fpr), part_by=PREFIX), silent) as outcome:
        return list(outcome.ranking.rows()), outcome.summary().messages()


def test_a_part_is_one_row_with_its_own_p_value(whole: Model, incoming: Path) -> None:
    rows, said = judged(whole, incoming)
    assert [row.rank for row in rows] == [1, 2, 3, 4, None]
    first = rows[0]
    assert (Path(first.path).name, first.anomalous) == ("102_right.png", True)
    assert first.part == str(incoming / "102")
    assert first.views is not None
    assert (first.views[0], len(first.views)) == (first.path, 3)
    assert first.judged_by == "3 views, maximum against 12 held-out parts"
    assert first.p_value == 1 / 13
    assert {row.anomalous for row in rows[1:4]} == {False}
    assert any(
        row.judged_by == "3 views, 1 more unreadable, maximum against 12 held-out parts" for row in rows
    )
    assert (Path(rows[-1].path).name, rows[-1].part) == ("103_bottom.png", str(incoming / "103"))
    assert said[0] == "1 of 4 parts are anomalous"


def test_parts_that_are_not_held_out_whole_are_said_and_corrected_for(apart: Model, incoming: Path) -> None:
    rows, said = judged(apart, incoming)
    assert "Bonferroni" in (rows[0].judged_by or "")
    assert rows[0].p_value == pytest.approx(3 / 37)
    assert any(line.endswith("keep parts whole with --group-by") for line in said)


def test_a_rate_that_no_part_reaches_is_refused(apart: Model, incoming: Path) -> None:
    with pytest.raises(CalibrationTooSmall, match=r"--fpr 0\.05 is out of reach for parts of 3 views"):
        judged(apart, incoming, 0.05)


def test_parts_that_differ_in_their_views(whole: Model, incoming: Path, tmp_path: Path) -> None:
    folder = tmp_path / "incoming"
    shutil.copytree(incoming, folder)
    draw(900).save(folder / "103_inside.png")
    rows, said = judged(whole, folder)
    four = next(row for row in rows if row.part == str(folder / "103"))
    assert four.judged_by == "4 views, 1 more unreadable, Bonferroni: 0 held-out parts are too few"
    assert "1 part has too many views for the calibrating parts: their p-values start above 0.1" in said


def test_a_part_that_was_said_to_be_normal(whole: Model, normals: Path) -> None:
    rows, _ = judged(whole, normals)
    assert len(rows) == 24
    assert {row.p_value for row in rows} == {1.0}
    assert all(len(row.views or ()) == 3 for row in rows)


def test_without_held_out_normals_the_highest_view_ranks_the_part(model: Model, incoming: Path) -> None:
    with run(ScoreJob(find([str(incoming)]), model, part_by=PREFIX), silent) as outcome:
        first = next(outcome.ranking.rows())
        assert outcome.ranking.ranked == 4
    assert (first.p_value, first.judged_by, first.part) == (None, "3 views", str(incoming / "102"))


def test_the_report_shows_the_view_that_speaks(whole: Model, incoming: Path) -> None:
    job = ScoreJob(find([str(incoming)]), whole, Decision(fpr=0.1), keep=2, part_by=PREFIX)
    with run(job, silent) as outcome:
        summary = outcome.summary()
        evidence = outcome.evidence(2, summary)
    assert [row.part for row in evidence.rows] == [
        row.part for row in evidence.rows if row.path in evidence.features
    ]
    assert len(evidence.rows) == 2
    assert evidence.calibration is not None
    assert (len(evidence.calibration.scores), summary.held_out, summary.parts) == (12, 12, 4)


def test_the_rule_that_holds_out_whole_parts() -> None:
    assert [group_rule(PartRule(text)) for text in ("prefix", "folder", "(x)")] == ["part", "folder", "(x)"]


@pytest.mark.parametrize(("rule", "split"), [(PREFIX, 0), (PartRule(r"/(\d+)_"), 12)])
def test_a_reduced_gallery_tells_no_more_which_parts_it_stands_for(
    whole: Model, rule: PartRule, split: int
) -> None:
    """Unless the model's own rule held whole parts out."""
    gallery = replace(whole.manifest.gallery, reduced="kmeans:3")
    reduced = replace(whole, manifest=replace(whole.manifest, gallery=gallery))
    found = Parts(rule, reduced, whole.calibration).messages(None)
    assert len(found) == bool(split)
    assert not split or found[0].startswith("views of 12 calibrating parts are among the normals")


@pytest.mark.parametrize("rule", ["part", "none"])
def test_where_all_normals_calibrate_whole_parts_do_if_they_leave_together(
    rule: str, normals: Path, incoming: Path, tmp_path: Path
) -> None:
    fake_model(normals, tmp_path / "m", ALL, group_by=rule)
    rows, said = judged(read_model(str(tmp_path / "m"), threads=1), incoming)
    assert Path(rows[0].path).name == "102_right.png"
    if rule == "part":
        assert (rows[0].p_value, rows[0].judged_by) == (1 / 25, "3 views, maximum against 24 parts")
    else:
        assert rows[0].p_value == pytest.approx(3 / 73)
        assert any("among the normals compared with" in line for line in said)
