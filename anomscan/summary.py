"""What a run of ``score`` found, in a few numbers."""

from __future__ import annotations

from dataclasses import dataclass

import anomscan
from anomscan.bundle import Model
from anomscan.calibration import Calibration, fewest_discoveries
from anomscan.drift import FEWEST, LARGEST_SAMPLE, Drift, drift
from anomscan.indexing import now
from anomscan.options import Decision
from anomscan.screening import FeatureSample, Ranking

SHARES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
SHIFTED = "the whole batch has shifted: lamp, lens, or a new product? recalibrate"


@dataclass(frozen=True)
class Summary:
    """Counts, quantiles of the scores, drift and speed of one run.

    ``model`` is the manifest's id. ``anomalous`` is None without a ``decision``; ``limit`` is the score above
    which, or for a threshold from which on, an image is anomalous. ``held_out`` counts the groups that
    p-values come from. ``drift`` is None without them or with fewer than ``drift.FEWEST`` images.
    ``seconds`` are those of scoring, without the start of the program.
    """

    anomscan: str
    model: str
    created: str
    images: int
    unreadable: int
    anomalous: int | None
    decision: Decision
    limit: float | None
    held_out: int
    quantiles: dict[str, float]
    drift: Drift | None
    seconds: float
    images_per_second: float

    def messages(self) -> list[str]:
        """What to tell the person at the keyboard, if anything."""
        lines = []
        if self.drift is not None and self.drift.shifted:
            lines.append(SHIFTED)
        elif self.anomalous is not None:
            lines.append(f"{self.anomalous} of {self.images - self.unreadable} images are anomalous")
        if self.decision.fdr is not None and not self.anomalous:
            scored = self.images - self.unreadable
            fewest = fewest_discoveries(self.decision.fdr, scored, self.held_out)
            if fewest > 1:
                lines.append(
                    f"with {self.held_out} held-out normals, --fdr {self.decision.fdr:g} finds nothing "
                    f"unless {fewest} of {scored} images exceed them all; hold out more, or use --fpr"
                )
        if self.unreadable:
            lines.append(f"{self.unreadable} of {self.images} files could not be read")
        return lines


def summarise(
    ranking: Ranking,
    model: Model,
    calibration: Calibration | None,
    sample: FeatureSample,
    decision: Decision,
    limit: float | None,
    seconds: float,
) -> Summary:
    """The summary of a ranking by ``model``: ``calibration`` gave p-values, ``sample`` is of its images."""
    moved = None
    scores, features = sample.others()
    if calibration is not None and ranking.scored >= FEWEST and len(scores):
        moved = drift(calibration, model.gallery.some(LARGEST_SAMPLE), features, scores)
    return Summary(
        anomscan=anomscan.__version__,
        model=model.manifest.id,
        created=now(),
        images=ranking.total,
        unreadable=ranking.unreadable,
        anomalous=None if decision == Decision() else ranking.anomalous,
        decision=decision,
        limit=limit,
        held_out=calibration.groups if calibration else 0,
        quantiles={f"{share:g}": ranking.quantile(share) for share in SHARES} if ranking.scored else {},
        drift=moved,
        seconds=round(seconds, 3),
        images_per_second=round(ranking.total / seconds, 2),
    )
