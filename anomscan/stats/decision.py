"""When an image is called anomalous."""

from __future__ import annotations

import math
from dataclasses import dataclass

from anomscan.errors import UsageError


@dataclass(frozen=True)
class Decision:
    """When an image is called anomalous; at most one of the three, none of them to call nothing.

    By p-value, so that at most ``fpr`` of the normals are; by Benjamini-Hochberg over the batch, so that at
    most ``fdr`` of those called so are normal; or by a raw score of ``threshold`` or more. Raises UsageError.
    """

    fpr: float | None = None
    fdr: float | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        options = {"--fpr": self.fpr, "--fdr": self.fdr, "--threshold": self.threshold}
        for option, value in options.items():
            if value is not None and math.isnan(value):
                raise UsageError(f"{option} takes a number, not nan")
        if sum(value is not None for value in (self.fpr, self.fdr, self.threshold)) > 1:
            raise UsageError("--fpr, --fdr and --threshold are three ways to decide; choose one")

    @property
    def rates(self) -> list[tuple[float, str]]:
        """The rates that need p-values, each with its option."""
        options = ((self.fpr, "--fpr"), (self.fdr, "--fdr"))
        return [(rate, option) for rate, option in options if rate is not None]


UNDECIDED = Decision()
"""Nothing is called anomalous, nor normal."""
