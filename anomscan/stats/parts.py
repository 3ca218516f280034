"""One p-value for a part that was seen in several views.

The most anomalous view speaks for the part, and its score is compared with those of the most anomalous views
of held-out parts: whole parts are as likely to rank anywhere among each other as single images are, however
much their views depend on each other. A part of m views is compared with held-out parts of at least m, whose
maximum can only be larger. A part of which some views are in the gallery was not held out and is left aside.

Where that leaves too few parts, the smallest p-value of the views times their number is taken (Bonferroni):
it needs nothing but p-values of the views, keeps the bound under any dependence, and costs the most where
views agree.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from anomscan.stats.calibration import Calibration
from anomscan.text import many
from anomscan.types import Features


@dataclass
class HeldParts:
    """The held-out normals as J parts.

    Args:
        images: the held-out normals as single images.
        maxima: (J,) the largest score of a view of each part.
        views: how many views each has.
        names: the group that each is held out with.
    """

    images: Calibration
    maxima: Features
    views: list[int]
    names: list[str]
    _by_views: dict[int, Calibration] = field(default_factory=dict)

    @classmethod
    def of(cls, images: Calibration, parts: Sequence[str], in_gallery: Collection[str]) -> HeldParts:
        """The parts of held-out images.

        Args:
            images: n of them.
            parts: the part of each.
            in_gallery: parts that the gallery has a view of.
        """
        members: dict[str, list[int]] = {}
        for i, part in enumerate(parts):
            if part not in in_gallery:
                members.setdefault(part, []).append(i)
        maxima = np.array([images.scores[rows].max() for rows in members.values()], np.float32)
        views = [len(rows) for rows in members.values()]
        return cls(images, maxima, views, [images.names[rows[0]] for rows in members.values()])

    def of_views(self, count: int) -> Calibration:
        """The held-out parts with at least so many views, each as its most anomalous view."""
        if count not in self._by_views:
            rows = [i for i, views in enumerate(self.views) if views >= count]
            names = [self.names[i] for i in rows]
            self._by_views[count] = Calibration(
                np.empty((len(rows), 0), np.float32), self.maxima[rows], names, names
            )
        return self._by_views[count]

    def are_enough(self, count: int) -> bool:
        """Whether parts of so many views reach no larger p-values by their own maximum than by Bonferroni."""
        held = self.of_views(count).groups
        return count > 1 and held > 0 and held + 1 >= (self.images.groups + 1) / count

    def smallest(self, count: int) -> float:
        """The smallest p-value of a part with so many views."""
        if self.are_enough(count):
            return 1 / (self.of_views(count).groups + 1)
        return min(1.0, count / (self.images.groups + 1))

    def p_value(self, score: float, least: float, count: int) -> float:
        """The p-value of a part.

        Args:
            score: the largest of its views.
            least: the smallest p-value of its views.
            count: how many views it has.

        Returns:
            A p-value that a normal part has at or below A with a probability of at most A.
        """
        if self.are_enough(count):
            return float(self.of_views(count).p_values(np.array([score], np.float32))[0])
        return min(1.0, count * least)

    def how(self, count: int) -> str:
        """What the p-value of a part with so many views comes from, in words."""
        held, part = self.of_views(count).groups, self.images.noun.replace("normals", "part")
        if count == 1:
            return f"{self.images.groups} {self.images.noun}"
        if self.are_enough(count):
            return f"maximum against {many(held, part, f'{part}s')}"
        return f"Bonferroni: {many(held, f'{part} is', f'{part}s are')} too few"
