from __future__ import annotations

from itertools import combinations

import pytest

from anomscan.errors import UsageError
from anomscan.stats.decision import UNDECIDED, Decision

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
