"""When an image is called anomalous."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from anomscan.errors import UsageError


@dataclass(frozen=True)
class Review:
    """What a person looks at: what is not anomalous but has a p-value of at most some other rate.

    That ``rate`` is given, or follows from a ``budget``: normal images to look at a day. ``per_day`` is how
    many images come a day; where it is None, those of the run are a day's.
    """

    rate: float | None = None
    budget: float | None = None
    per_day: float | None = None

    @classmethod
    def parse(cls, text: str, per_day: float | None) -> Review:
        """``R`` or ``N/day``, as on the command line; raises UsageError."""
        found = re.fullmatch(r"([0-9.]+(?:e-?[0-9]+)?)(/day)?", text.strip())
        try:
            value = float(found[1]) if found else math.nan
        except ValueError:
            value = math.nan
        if found is None or not math.isfinite(value) or value <= 0:
            raise UsageError(f"--review takes a share of the normals, such as 0.2, or N/day, not {text!r}")
        if found[2]:
            return cls(budget=value, per_day=per_day)
        if per_day is not None:
            raise UsageError("--per-day says how many images share the budget of --review N/day")
        if value > 1:
            raise UsageError(f"--review takes a share from 0 to 1, or N/day, not {text!r}")
        return cls(rate=value)

    def steps(self, fpr: float, groups: int, images: int) -> int:
        """How many of the G + 1 possible p-values lie between the two limits.

        A new normal has each of them with the same probability, 1 / (G + 1), so that as many of these as fit
        into the budget keep it on average.

        Args:
            fpr: up to that p-value an image is anomalous.
            groups: G, held-out normals or groups of them.
            images: of the run.
        """
        anomalous = math.floor(fpr * (groups + 1) + 1e-9)
        if self.rate is not None:
            return math.floor(self.rate * (groups + 1) + 1e-9) - anomalous
        share = (self.budget or 0.0) / max(self.per_day or images, 1)
        return min(math.floor(share * (groups + 1) + 1e-9), groups + 1 - anomalous)

    def limit(self, fpr: float, groups: int, images: int) -> float:
        """The largest p-value to look at; ``fpr`` where that is nothing."""
        anomalous = math.floor(fpr * (groups + 1) + 1e-9)
        steps = self.steps(fpr, groups, images)
        return max(fpr, (anomalous + steps + 1e-9) / (groups + 1))


@dataclass(frozen=True)
class Decision:
    """When an image is called anomalous; at most one of the three, none of them to call nothing.

    By p-value, so that at most ``fpr`` of the normals are; by Benjamini-Hochberg over the batch, so that at
    most ``fdr`` of those called so are normal; or by a raw score of ``threshold`` or more. Beside ``fpr``,
    ``review`` says what a person looks at. Raises UsageError.
    """

    fpr: float | None = None
    fdr: float | None = None
    threshold: float | None = None
    review: Review | None = None

    def __post_init__(self) -> None:
        options = {"--fpr": self.fpr, "--fdr": self.fdr, "--threshold": self.threshold}
        for option, value in options.items():
            if value is not None and math.isnan(value):
                raise UsageError(f"{option} takes a number, not nan")
        if sum(value is not None for value in (self.fpr, self.fdr, self.threshold)) > 1:
            raise UsageError("--fpr, --fdr and --threshold are three ways to decide; choose one")
        if self.review is None:
            return
        if self.fpr is None:
            raise UsageError("--review is a second limit beside --fpr, which is missing")
        if self.review.rate is not None and self.review.rate <= self.fpr:
            raise UsageError(f"--review {self.review.rate:g} must be larger than --fpr {self.fpr:g}")

    @property
    def rates(self) -> list[tuple[float, str]]:
        """The rates that need p-values, each with its option."""
        options = ((self.fpr, "--fpr"), (self.fdr, "--fdr"))
        return [(rate, option) for rate, option in options if rate is not None]


UNDECIDED = Decision()
"""Nothing is called anomalous, nor normal."""
