from __future__ import annotations

from contextlib import closing

from anomscan.images.find import Unreadable
from anomscan.model.model import Model
from anomscan.report.evidence import MOST_UNREADABLE
from anomscan.screen.run import Outcome, ScoreJob
from tests.fakes import scored


def test_a_thousand_unreadable_files_are_listed_and_more_are_counted(model: Model) -> None:
    outcome = Outcome(ScoreJob((), model, keep=2))
    with closing(outcome.ranking) as ranking:
        ranking.add(scored(["a", "b", "c"], [0.1, 0.3, 0.2]))
        outcome.sample.add(scored(["a", "b", "c"], [0.1, 0.3, 0.2]))
        for i in range(MOST_UNREADABLE + 5):
            ranking.add_unreadable(Unreadable(f"{i}", "broken"))
        outcome.seconds = 1.0
        evidence = outcome.evidence(2, outcome.summary())
        assert [row.path for row in evidence.rows] == ["b", "c"]
        assert [row.path for row in evidence.unreadable] == [f"{i}" for i in range(MOST_UNREADABLE)]
        assert evidence.summary.unreadable == MOST_UNREADABLE + 5
        assert evidence.histogram(0.0, 0.4, 2) == [1, 2]
        assert {"b", "c"} <= evidence.features.keys()
