"""The verdict on a part that was seen in several views."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from anomscan.errors import CalibrationTooSmall
from anomscan.images.workpiece import PartRule
from anomscan.model.model import Model
from anomscan.report.rows import Row
from anomscan.stats.calibration import Calibration
from anomscan.stats.parts import HeldParts
from anomscan.text import many


class Parts:
    """Judges parts by the held-out normals of a model, grouped by the same rule; see ``stats.parts``.

    Args:
        rule: which images are views of one part.
        model: what was compared with.
        calibration: its held-out normals, as they were scored; without any there are no p-values.
    """

    def __init__(self, rule: PartRule, model: Model, calibration: Calibration | None) -> None:
        self._held: HeldParts | None = None
        self._seen: Counter[int] = Counter()
        self._split = 0
        if calibration is None:
            return
        patches = model.patches.paths if model.patches else []
        seen = {rule.of(path) for path in (*model.normals, *patches)}
        held = [rule.of(path) for path in calibration.paths]
        info = model.manifest.calibration
        if calibration.gallery is not None and info is not None and info.rule.group_by == group_rule(rule):
            seen = set()  # a part was scored without all of its views
        if model.manifest.gallery.reduced and (info is None or info.rule.group_by != group_rule(rule)):
            seen.update(held)  # which normals the gallery stands for is no longer known
        self._split = len(seen.intersection(held))
        self._held = HeldParts.of(calibration, held, seen)

    def judge(self, views: list[Row], unreadable: int) -> Row:
        """The row of a part: that of its most anomalous view, ``views[0]``, with the part's p-value.

        A view that was said to be normal, with a p-value of 1, does not speak where there is another.
        """
        speaker = views[0]
        count = len(views) if speaker.p_value != 1 else 1
        listed = replace(speaker, views=[view.path for view in views])
        said = many(len(views), "view", "views") + (f", {unreadable} more unreadable" if unreadable else "")
        if self._held is None or speaker.score is None or speaker.p_value is None:
            return replace(listed, judged_by=said)
        self._seen[count] += 1
        least = min(view.p_value for view in views if view.p_value is not None)
        p_value = self._held.p_value(speaker.score, least, count)
        if speaker.p_value == 1:
            p_value = 1.0
        return replace(listed, p_value=p_value, judged_by=f"{said}, {self._held.how(count)}")

    @property
    def calibration(self) -> Calibration | None:
        """What the parts' scores are compared with, where all have one number of views; else None."""
        if self._held is None or len(self._seen) != 1:
            return None
        (count,) = self._seen
        if count == 1:
            return self._held.images
        return self._held.of_views(count) if self._held.are_enough(count) else None

    def require(self, rate: float, option: str) -> None:
        """Raise CalibrationTooSmall where no part that was judged can have a p-value of ``rate``."""
        if self._held is None or not self._seen or self._below(rate) < self._seen.total():
            return
        count = self._seen.most_common(1)[0][0]
        smallest = self._held.smallest(count)
        raise CalibrationTooSmall(
            f"{option} {rate:g} is out of reach for parts of {many(count, 'view', 'views')}, whose p-values "
            f"start at {smallest:.2g} ({self._held.how(count)}); hold out more whole parts with --group-by "
            "and --holdout"
        )

    def messages(self, rate: float | None) -> list[str]:
        """What a person should know; ``rate`` is the p-value that decides, if one does."""
        lines = []
        if self._split:
            lines.append(
                f"views of {many(self._split, 'calibrating part is', 'calibrating parts are')} among the "
                "normals compared with, and not counted: keep parts whole with --group-by"
            )
        if rate is not None and self._held is not None and (out := self._below(rate)):
            lines.append(
                f"{many(out, 'part has', 'parts have')} too many views for the calibrating parts: their "
                f"p-values start above {rate:g}"
            )
        return lines

    def _below(self, rate: float) -> int:
        """How many parts that were judged cannot have a p-value of ``rate``."""
        held = self._held
        return 0 if held is None else sum(n for count, n in self._seen.items() if held.smallest(count) > rate)


def group_rule(rule: PartRule) -> str:
    """What holds out whole parts by that rule, for ``--group-by``."""
    return "part" if rule.text == "prefix" else rule.text
