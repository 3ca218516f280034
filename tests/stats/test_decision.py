from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from anomscan.errors import UsageError
from anomscan.stats.decision import UNDECIDED, Decision, Review

ONE = {"fpr": 0.01, "fdr": 0.05, "threshold": 0.0}


@pytest.mark.parametrize("pair", list(combinations(ONE, 2)))
def test_two_ways_to_decide_are_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match="three ways to decide; choose one"):
        Decision(**{name: ONE[name] for name in pair})


def test_only_rates_need_p_values() -> None:
    assert Decision(fpr=0.01).rates == [(0.01, "--fpr")]
    assert Decision(fdr=0.05).rates == [(0.05, "--fdr")]
    assert Decision(threshold=0.0).rates == UNDECIDED.rates == []


def test_nothing_is_decided_unless_asked() -> None:
    assert Decision() == UNDECIDED
    assert Decision(threshold=0.0) != UNDECIDED


def test_a_share_or_a_budget_is_read() -> None:
    assert Review.parse("0.2", None) == Review(rate=0.2)
    assert Review.parse(" 20/day", 480.0) == Review(budget=20.0, per_day=480.0)
    for text in ("", "0", "-1", "1.5", "x/day", "20/week", "1.2.3", "1e999/day"):
        with pytest.raises(UsageError, match="--review takes a share"):
            Review.parse(text, None)


def test_a_second_limit_is_above_the_first() -> None:
    assert Decision(fpr=0.1, review=Review(rate=0.2)).review == Review(rate=0.2)
    for wrong in ({"fdr": 0.1}, {"threshold": 0.1}, {}, {"fpr": 0.2}):
        with pytest.raises(UsageError, match="--review"):
            Decision(**wrong, review=Review(rate=0.2))


def test_the_limit_lies_on_the_p_values_there_are() -> None:
    assert Review(rate=0.31).steps(0.1, 19, 5) == 4
    assert Review(rate=0.31).limit(0.1, 19, 5) == pytest.approx(6 / 20)
    assert Review(budget=20, per_day=200).limit(0.1, 19, 5) == pytest.approx(4 / 20)
    assert Review(budget=20).limit(0.1, 19, 200) == pytest.approx(4 / 20)
    assert Review(budget=20).limit(0.1, 19, 10) == pytest.approx(1.0)
    assert Review(budget=1).limit(0.1, 19, 200) == pytest.approx(0.1)


@pytest.mark.parametrize("budget", [10, 20, 33])
def test_a_budget_is_kept_on_average(budget: float) -> None:
    """Of 200 normals a day so many are looked at, with 59 held-out ones."""
    generator, review = np.random.default_rng(0), Review(budget=budget, per_day=200)
    looked = []
    for _ in range(600):
        held, new = np.sort(generator.normal(size=59)), generator.normal(size=200)
        p_values = (1 + 59 - np.searchsorted(held, new)) / 60
        looked.append(((p_values > 0.05) & (p_values <= review.limit(0.05, 59, 1))).sum())
    assert np.mean(looked) <= budget + 3 * np.std(looked) / np.sqrt(600)
    assert np.mean(looked) > budget - 200 / 60 - 1
