"""Call images anomalous."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from anomscan.errors import CalibrationTooSmall
from anomscan.screen.ranking import Ranking
from anomscan.screen.screener import Scored
from anomscan.stats.calibration import Calibration, benjamini_hochberg
from anomscan.stats.decision import UNDECIDED, Decision


def check(decision: Decision, calibration: Calibration | None) -> None:
    """Refuse, before any work, a decision that the model's calibration cannot make.

    Raises:
        CalibrationTooSmall: there is none, or one too small for the rate.
    """
    for rate, option in decision.rates:
        if calibration is None:
            raise CalibrationTooSmall(
                f"{option} needs held-out normals and the model has none; index or adapt again, with "
                "--holdout, or run 'anomscan calibrate' with other normals"
            )
        calibration.require(rate, option)
    review = decision.review
    if review is None or calibration is None or decision.fpr is None:
        return
    if (review.rate or review.per_day) and review.steps(decision.fpr, calibration.groups, 1) < 1:
        asked = (review.rate or 0.0) - decision.fpr
        if review.budget and review.per_day:
            asked = review.budget / review.per_day
        raise CalibrationTooSmall(
            f"--review cannot choose {100 * asked:.2g} % of the normals by {calibration.groups} held-out "
            f"ones, which tell steps of {100 / (calibration.groups + 1):.2g} %; hold out more with "
            "--holdout, or allow more"
        )


def decide(decision: Decision, ranking: Ranking, calibration: Calibration | None) -> float | None:
    """Call images of ``ranking`` anomalous; without any decision none is called anything.

    Returns:
        The score that the decision comes to: above it, or for a threshold from it on, an image is anomalous.
    """
    if decision.threshold is not None:
        ranking.mark(score=decision.threshold)
        return decision.threshold
    if calibration is None or decision == UNDECIDED:
        return None
    p_value = decision.fpr
    if p_value is None:
        p_value = benjamini_hochberg(*ranking.p_values(), decision.fdr or 0.0)
    ranking.mark(p_value=p_value)
    return calibration.limit(p_value)


def called(decision: Decision, scored: Scored) -> NDArray[np.bool_] | None:
    """Which of n images are anomalous, (n,), each for itself: by ``fpr`` or by ``threshold``; else None."""
    if decision.threshold is not None:
        return np.asarray(scored.scores.astype(np.float64) >= decision.threshold)
    if decision.fpr is None or scored.p_values is None:
        return None
    return np.asarray(scored.p_values <= decision.fpr)


def review(decision: Decision, ranking: Ranking, calibration: Calibration | None) -> float | None:
    """Mark what a person should look at, if that was asked for.

    Returns:
        The p-value up to which that is.
    """
    if decision.review is None or decision.fpr is None or calibration is None:
        return None
    limit = decision.review.limit(decision.fpr, calibration.groups, ranking.ranked)
    ranking.mark_review(decision.fpr, limit)
    return limit
