from __future__ import annotations

from pathlib import Path

import pytest

from anomscan.errors import CalibrationTooSmall
from anomscan.images.find import Unreadable
from anomscan.model.model import read_model
from anomscan.screen.decide import called, check, decide, review
from anomscan.screen.ranking import Ranking
from anomscan.stats.calibration import Calibration
from anomscan.stats.decision import UNDECIDED, Decision, Review
from tests.fakes import scored


@pytest.fixture
def held_out(calibrated_folder: Path) -> Calibration:
    calibration = read_model(str(calibrated_folder), threads=1).calibration
    assert calibration is not None
    return calibration


def test_decisions(ranking: Ranking, held_out: Calibration) -> None:
    ranking.add(scored("0123", [1.0, 0.9, 0.8, 0.7], [1 / 11, 1 / 11, 2 / 11, 1.0]))
    ranking.add_unreadable(Unreadable("broken", "broken"))
    assert decide(Decision(), ranking, held_out) is None
    assert {row.anomalous for row in ranking.rows()} == {None}
    assert decide(Decision(fpr=0.1), ranking, held_out) == held_out.limit(0.1)
    assert [row.anomalous for row in ranking.rows()] == [True, True, False, False, None]
    decide(Decision(fdr=0.19), ranking, held_out)
    assert [path for path, _ in ranking.anomalous_files()] == ["0", "1"]
    decide(Decision(fdr=0.25), ranking, held_out)
    assert [path for path, _ in ranking.anomalous_files()] == ["0", "1", "2"]
    assert decide(Decision(threshold=0.7), ranking, None) == 0.7
    assert [row.anomalous for row in ranking.rows()] == [True, True, True, True, None]
    assert ranking.anomalous == 4


def test_a_decision_that_cannot_be_made_is_refused(held_out: Calibration) -> None:
    check(Decision(threshold=1.0), None)
    check(Decision(fpr=1 / 11), held_out)
    with pytest.raises(CalibrationTooSmall, match="the model has none"):
        check(Decision(fpr=0.5), None)
    with pytest.raises(CalibrationTooSmall, match=r"--fdr 0\.05 needs 19 held-out normals"):
        check(Decision(fdr=0.05), held_out)


@pytest.mark.parametrize(
    ("decision", "called_so"),
    [
        (UNDECIDED, None),
        (Decision(threshold=2.0), [False, True, True]),
        (Decision(fpr=0.1), [False, False, True]),
    ],
)
def test_each_image_for_itself(decision: Decision, called_so: list[bool] | None) -> None:
    found = called(decision, scored(["a", "b", "c"], [1.0, 2.0, 3.0], [0.5, 0.2, 0.1]))
    assert (None if found is None else found.tolist()) == called_so


def test_a_second_limit_marks_what_a_person_should_look_at(ranking: Ranking, held_out: Calibration) -> None:
    ranking.add(scored("0123", [1.0, 0.9, 0.8, 0.7], [1 / 11, 2 / 11, 3 / 11, 1.0]))
    ranking.add_unreadable(Unreadable("broken", "broken"))
    assert review(Decision(fpr=0.1), ranking, held_out) is None
    assert review(Decision(fpr=0.1, review=Review(rate=0.2)), ranking, held_out) == pytest.approx(2 / 11)
    assert [row.review for row in ranking.rows()] == [False, True, False, False, None]
    assert review(Decision(fpr=0.1, review=Review(budget=3)), ranking, held_out) == pytest.approx(9 / 11)
    assert ranking.to_review == 2


def test_a_second_limit_that_is_no_other_is_refused(held_out: Calibration) -> None:
    check(Decision(fpr=0.1, review=Review(rate=0.2)), held_out)
    check(Decision(fpr=0.1, review=Review(budget=1)), held_out)  # of how many images is not known yet
    with pytest.raises(CalibrationTooSmall, match=r"cannot choose 5 % of the normals by 10 held-out ones"):
        check(Decision(fpr=0.1, review=Review(rate=0.15)), held_out)
    with pytest.raises(CalibrationTooSmall, match=r"cannot choose 1 % of the normals"):
        check(Decision(fpr=0.1, review=Review(budget=1, per_day=100)), held_out)
