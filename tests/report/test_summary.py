from __future__ import annotations

import json
from dataclasses import asdict, fields, replace

import pytest

from anomscan.report.summary import SHIFTED, Summary
from anomscan.stats.decision import UNDECIDED, Decision
from anomscan.stats.drift import Drift

SUMMARY = Summary(
    anomscan="1",
    model="0123456789abcdef",
    created="2026-01-02T03:04:05+00:00",
    images=11,
    unreadable=1,
    anomalous=None,
    decision=UNDECIDED,
    limit=None,
    held_out=19,
    quantiles={"0": 0.0, "1": 0.9},
    drift=None,
    seconds=2.0,
    images_per_second=5.5,
)


def test_counts_of_what_was_decided_and_of_the_unreadable_are_said() -> None:
    decided = replace(SUMMARY, decision=Decision(threshold=0.8), anomalous=2)
    assert decided.scored == 10
    assert decided.messages() == ["2 of 10 images are anomalous", "1 of 11 files could not be read"]
    assert replace(decided, anomalous=0, unreadable=0).messages() == ["0 of 11 images are anomalous"]


def test_without_a_decision_nothing_is_said() -> None:
    assert SUMMARY.messages() == ["1 of 11 files could not be read"]
    assert replace(SUMMARY, unreadable=0).messages() == []


def test_a_batch_that_has_shifted_says_so_instead_of_a_count() -> None:
    decided = replace(SUMMARY, decision=Decision(fpr=0.1), anomalous=10, unreadable=0)
    moved, still = Drift(0.5, 0.001, True), Drift(0.1, 0.5, False)
    assert replace(decided, drift=moved).messages() == [SHIFTED]
    assert (replace(decided, drift=moved).shifted, replace(decided, drift=still).shifted) == (True, False)
    assert replace(decided, drift=still).messages() == ["10 of 11 images are anomalous"]


@pytest.mark.parametrize(("anomalous", "rate", "said"), [(0, 0.1, True), (1, 0.1, False), (0, 0.9, False)])
def test_a_false_discovery_rate_out_of_reach_is_said(anomalous: int, rate: float, said: bool) -> None:
    found = replace(SUMMARY, decision=Decision(fdr=rate), anomalous=anomalous, unreadable=0, images=10)
    sentence = (
        "with 19 calibrating normals, --fdr 0.1 finds nothing unless 5 of 10 images exceed them all; "
        "calibrate with more, or use --fpr"
    )
    assert (sentence in found.messages()) == said
    assert len(found.messages()) == 1 + said


def test_json_has_every_field() -> None:
    moved = replace(SUMMARY, drift=Drift(0.5, 0.001, True), decision=Decision(fpr=0.1), anomalous=3)
    text = moved.to_json()
    assert text.endswith("}\n")
    assert text.isascii()
    assert json.loads(text) == asdict(moved)
    assert list(json.loads(text)) == [field.name for field in fields(Summary)]


def test_parts_are_counted_instead_of_images() -> None:
    decided = replace(SUMMARY, decision=Decision(fdr=0.1), anomalous=0, parts=4, review=2)
    assert decided.judged == 4
    assert decided.messages() == [
        "0 of 4 parts are anomalous, 2 to review",
        "with 19 calibrating normals, --fdr 0.1 finds nothing unless 2 of 4 parts exceed them all; "
        "calibrate with more, or use --fpr",
        "1 of 11 files could not be read",
    ]
