from __future__ import annotations

import numpy as np
import pytest

from anomscan.bundle import Model
from anomscan.options import Decision
from anomscan.screening import FeatureSample, Ranking, decide
from anomscan.summary import Summary, summarise


def summary(model: Model, decision: Decision, count: int = 10) -> Summary:
    with Ranking() as ranking:
        for i in range(count):
            ranking.add(f"{i}.png", i / 10, "n", 0.1 if i == count - 1 else 0.5)
        ranking.add_unreadable("broken.png", "broken")
        limit = decide(decision, ranking, model.calibration)
        return summarise(ranking, model, model.calibration, FeatureSample(), decision, limit, 2.0)


def test_counts_quantiles_and_speed(model: Model) -> None:
    found = summary(model, Decision(threshold=0.8))
    assert (found.images, found.unreadable, found.anomalous, found.limit) == (11, 1, 2, 0.8)
    assert found.quantiles == {
        "0": 0.0,
        "0.05": 0.0,
        "0.25": 0.2,
        "0.5": 0.4,
        "0.75": 0.7,
        "0.95": 0.9,
        "1": 0.9,
    }
    assert (found.seconds, found.images_per_second) == (2.0, 5.5)
    assert found.model == model.manifest.id
    assert found.messages() == ["2 of 10 images are anomalous", "1 of 11 files could not be read"]


def test_without_a_decision_nothing_is_said(model: Model) -> None:
    found = summary(model, Decision())
    assert (found.anomalous, found.limit) == (None, None)
    assert found.messages() == ["1 of 11 files could not be read"]


def test_nothing_could_be_read(model: Model) -> None:
    assert summary(model, Decision(threshold=1.0), count=0).quantiles == {}


def test_a_false_discovery_rate_out_of_reach_is_said(model: Model) -> None:
    from dataclasses import replace

    from anomscan.calibration import Calibration

    names = [str(i) for i in range(19)]
    calibration = Calibration(np.zeros((19, 2), np.float32), np.zeros(19, np.float32), names, names)
    found = summary(replace(model, calibration=calibration), Decision(fdr=0.1))
    assert found.anomalous == 0
    assert found.messages()[1] == (
        "with 19 held-out normals, --fdr 0.1 finds nothing unless 5 of 10 images exceed them all; "
        "hold out more, or use --fpr"
    )
    assert found.quantiles["1"] == pytest.approx(0.9)
