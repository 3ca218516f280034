"""What a run of ``score`` found, in a few numbers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anomscan.stats.decision import Decision
    from anomscan.stats.drift import Drift

SHIFTED = "the whole batch has shifted: lamp, lens, or a new product? recalibrate"


@dataclass(frozen=True)
class Summary:
    """Counts, quantiles of the scores, drift and speed of one run.

    ``model`` is the manifest's id. ``anomalous`` is None without a ``decision``; ``limit`` is the score above
    which, or for a threshold from which on, an image is anomalous. ``held_out`` counts the groups that
    p-values come from. ``drift`` is None without them or with fewer than ``drift.FEWEST`` images.
    ``seconds`` are those of scoring, without the start of the program. ``not_looked_at`` counts files without
    an image suffix, ``passed_over`` hidden, excluded and young ones, ``remarks`` images that are odd;
    ``notes`` says so in sentences. Where parts are judged, ``parts`` counts them, and ``anomalous`` and
    ``review`` count parts; ``review`` is what a person should look at, up to a p-value of ``review_limit``.
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
    not_looked_at: dict[str, int] = field(default_factory=dict)
    passed_over: dict[str, int] = field(default_factory=dict)
    remarks: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    review: int | None = None
    review_limit: float | None = None
    parts: int | None = None

    @property
    def scored(self) -> int:
        """Images that could be read."""
        return self.images - self.unreadable

    @property
    def judged(self) -> int:
        """What was ranked and decided on: images, or parts."""
        return self.scored if self.parts is None else self.parts

    @property
    def shifted(self) -> bool:
        """Whether the batch as a whole is unlike the normals."""
        return self.drift is not None and self.drift.shifted

    def messages(self) -> list[str]:
        """What to tell the person at the keyboard, if anything."""
        from anomscan.stats.calibration import fewest_discoveries

        lines = []
        what = f"{self.judged} {'images' if self.parts is None else 'parts'}"
        if self.shifted:
            lines.append(SHIFTED)
        elif self.anomalous is not None:
            asked = "" if self.review is None else f", {self.review} to review"
            lines.append(f"{self.anomalous} of {what} are anomalous{asked}")
        if self.decision.fdr is not None and not self.anomalous:
            fewest = fewest_discoveries(self.decision.fdr, self.judged, self.held_out)
            if fewest > 1:
                lines.append(
                    f"with {self.held_out} calibrating normals, --fdr {self.decision.fdr:g} finds nothing "
                    f"unless {fewest} of {what} exceed them all; calibrate with more, or use --fpr"
                )
        if self.unreadable:
            lines.append(f"{self.unreadable} of {self.images} files could not be read")
        return [*lines, *self.notes]

    def to_json(self) -> str:
        """The same as JSON text, for ``--summary``."""
        return json.dumps(asdict(self), indent=2) + "\n"
