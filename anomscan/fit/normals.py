"""The normal images: found once, split once."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from anomscan.errors import ModelNotFound, UsageError
from anomscan.files.urls import absolute
from anomscan.fit.look import EVERYTHING, Gathering, Look
from anomscan.fit.sets import Sets
from anomscan.images.find import Found, find_images
from anomscan.images.workpiece import PartRule
from anomscan.model.folder import read_manifest
from anomscan.model.manifest import ALL, GroupRule, HoldOut, check_group_rule
from anomscan.types import Levels, Progress, Reading

HELD_OUT = 0.2
"""Share of the normals that are held out to calibrate with, where no other was asked for."""
FEWEST_TO_HOLD_OUT = 12
"""With fewer normals than this, all are needed in the gallery and none are held out."""
MOST_HELD_OUT = 10_000
"""More held-out normals than this say nothing new: the smallest p-value is 0.0001 with them."""


@dataclass(frozen=True)
class Normals:
    """The normal images below ``root``: those to learn from, and by ``rule`` those to calibrate with.

    ``look`` is what a first look at all of them showed.
    """

    root: str
    sources: list[Found]
    held_out: list[Found]
    rule: HoldOut
    look: Look = field(default_factory=lambda: Look(Reading()))

    @classmethod
    def find(
        cls,
        root: str,
        gathering: Gathering = EVERYTHING,
        progress: Progress = lambda *_: None,
        levels: Levels | None = None,
    ) -> Normals:
        """All images below ``root``, none held out; ``levels`` is the range that a network was trained with.

        Raises:
            InputError: ``root`` does not exist, holds no file with an image suffix, or shows nothing.
        """
        search = gathering.search()
        sources = gathering.sift(find_images(root, search), progress)
        look = gathering.look(sources, progress, levels)
        look = replace(look, notes=[*search.messages(), *look.notes])
        return cls(root, sources, [], HoldOut(), look)

    def split(self, rule: HoldOut, seed: int, trained: Collection[str] = ()) -> Normals:
        """Hold some out at random, whole groups together.

        The order in which groups are drawn depends on nothing but their names below ``root`` and the seed:
        when the index is built again with a few more images, the same ones are held out, which the training
        has not seen. No group with an image of ``trained``, absolute paths that it did see, is held out;
        nothing is where all calibrate, or of fewer than ``FEWEST_TO_HOLD_OUT`` images, and no group that
        would leave less than half.

        Raises:
            UsageError: all images are of one group.
        """
        if rule.is_all:
            return replace(self, rule=rule)
        target = min(round(rule.share * len(self.sources)), MOST_HELD_OUT)
        if not target or len(self.sources) < FEWEST_TO_HOLD_OUT:
            return replace(self, rule=rule)
        chosen: set[int] = set()
        for group in self._drawn(rule.group_by, seed):
            if any(absolute(self.sources[i].path) in trained for i in group):
                continue
            if len(chosen) < target and len(chosen) + len(group) <= max(target, len(self.sources) // 2):
                chosen.update(group)
        split: tuple[list[Found], list[Found]] = ([], [])
        for i, source in enumerate(self.sources):
            split[i in chosen].append(source)
        return replace(self, sources=split[0], held_out=split[1], rule=rule)

    def _drawn(self, group_by: GroupRule, seed: int) -> list[list[int]]:
        """The positions of the images of each group, in an order drawn by ``seed``."""
        names = group_names([source.path for source in self.sources], group_by, self.look.copies)
        groups: dict[str, list[int]] = {}
        for i, name in enumerate(names):
            groups.setdefault(os.path.relpath(name, self.root), []).append(i)
        if len(groups) == 1:
            own = {group_name(source.path, group_by) for source in self.sources}
            why, other = f"--group-by {group_by} puts", "another rule"
            if len(own) > 1:
                why, other = "copies of images in several groups join", "other normals"
            raise UsageError(
                f"{why} all {len(self.sources)} normals into one group, so that none can be held out; "
                f"choose {other}, or --holdout 0"
            )
        drawn = sorted(groups, key=lambda name: hashlib.sha256(os.fsencode(f"{seed}/{name}")).digest())
        return [groups[name] for name in drawn]


def group_names(paths: Sequence[str], group_by: GroupRule, copies: Mapping[str, int]) -> list[str]:
    """The group of each image: what the rule says, and groups that hold copies of each other are one.

    Args:
        paths: of the images.
        group_by: see ``group_name``.
        copies: of an image that has copies, the number of its set, by path.

    Returns:
        A name for each; of groups that became one, the first in order.
    """
    own = [group_name(path, group_by) for path in paths]
    sets = Sets(own)
    first: dict[int, str] = {}
    for path, name in zip(paths, own, strict=True):
        if path in copies:
            sets.join(name, first.setdefault(copies[path], name))
    return [sets.of(name) for name in own]


def group_name(path: str, group_by: GroupRule) -> str:
    """What images of one session, lot or day have in common.

    ``folder`` is the folder of the image; ``prefix`` its name, in its folder, before the last number
    (``lot7_0012_left.png`` is of ``lot7``); with ``none`` every image is alone. ``part`` is what ``score
    --part-by prefix`` takes for one part, and a regular expression what it takes for one by that.
    """
    folder, name = os.path.split(path)
    if group_by == "folder":
        return folder
    if group_by == "prefix":
        return os.path.join(folder, re.sub(r"[\W_]*\d+\D*$", "", os.path.splitext(name)[0]))
    if group_by == "none":
        return path
    return PartRule("prefix" if group_by == "part" else group_by).of(path)


def hold_out_rule(folder: str | None, share: float | None, group_by: GroupRule | None) -> HoldOut:
    """What was asked for; what was not is as in the model of ``folder``, if there is one, or the default.

    Where none is to be held out, a share of 0, all are to calibrate.

    Raises UsageError where ``group_by`` is no rule.
    """
    rule = HoldOut(HELD_OUT)
    if group_by is not None:
        try:
            check_group_rule(group_by)
        except ValueError as error:
            raise UsageError(
                f"--group-by takes none, folder, prefix, part or a regular expression with a group: {error}"
            ) from error
    if folder is not None:
        with suppress(ModelNotFound):
            calibration = read_manifest(folder).calibration
            if calibration is not None:
                rule = HoldOut(calibration.rule.share or HELD_OUT, calibration.rule.group_by)
    return HoldOut(rule.share if share is None else share or ALL, group_by or rule.group_by)
