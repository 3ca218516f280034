"""The normals that calibrate: embedded, in groups, and scored by what was fitted without them.

They are held out, or they are those of the gallery, each scored by the others: see ``stats.calibration``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomscan.errors import ModelDamaged
from anomscan.fit.embed import Embedded
from anomscan.fit.normals import MOST_HELD_OUT, group_name, group_names
from anomscan.images.find import Found
from anomscan.model.folder import verified
from anomscan.model.manifest import ALL, CalibrationInfo, GroupRule, HoldOut
from anomscan.model.model import Model
from anomscan.network.network import MethodInfo
from anomscan.scoring.base import Scorer, read_arrays
from anomscan.scoring.patched import Patched
from anomscan.scoring.reduction import Reduction
from anomscan.spread import spread_over
from anomscan.stats.calibration import Calibration, Floats
from anomscan.types import Features, Outputs, PatchMaps

HELD = "held"
"""Role of the file with their patches: scores are made of them again when normals are added or removed."""
MOST_WITH_PATCHES = 1000
"""Held-out normals whose patches are kept, 130 kB each; more are left aside."""
MOST_TILES, MOST_TILES_WITH_PATCHES = 20_000, 4000
"""The same where images are looked at in tiles, and counted in those."""
_BLOCK = 16
_SMALLEST, _LARGEST = 1e-2, 2.0


def spread(held_out: list[Found], tiles: int, *, with_patches: bool) -> list[Found]:
    """As many of them as are kept, evenly spread, of images that are looked at in so many ``tiles``."""
    most = MOST_WITH_PATCHES if with_patches else len(held_out)
    if tiles > 1:
        most = min(most, max(1, (MOST_TILES_WITH_PATCHES if with_patches else MOST_TILES) // tiles))
    places = spread_over(len(held_out), most)
    return [held_out[place] for place in places]


class Kept:
    """The patches of normals, in 16 bits, in the order in which they come; only of ``wanted`` if given."""

    def __init__(self, wanted: Collection[str] | None = None) -> None:
        self._parts: list[np.ndarray] = []
        self._wanted = wanted
        self.paths: list[str] = []

    def add(self, patches: Features, paths: list[str]) -> None:
        """Take those of n images, (n, rows, columns, C)."""
        rows = [i for i, path in enumerate(paths) if self._wanted is None or path in self._wanted]
        self._parts.append(patches[rows].astype(np.float16))
        self.paths += [paths[i] for i in rows]

    def patches(self) -> np.ndarray | None:
        """All, (n, rows, columns, C) float16; None where none came."""
        if not self._parts:
            return None
        whole = np.empty((sum(map(len, self._parts)), *self._parts[0].shape[1:]), np.float16)
        place = 0
        while self._parts:  # one after the other is given back, so that they are not there twice
            part = self._parts.pop(0)
            whole[place : place + len(part)] = part
            place += len(part)
        self._parts = [whole]
        return whole


class Moments:
    """Second moments of the whitened patches of n normals, (n, rows, columns, C).

    Whitening is fitted to all of them, so that a normal's own patches are a little nearer to the others than
    those of a new image. Without some of the normals the covariance would be, in units in which it is the
    identity with all of them, I + R - S, where S is the second moment of all and R that of the rest. Patches
    whose second moment is far above the identity were not whitened by these normals.
    """

    def __init__(self, patches: np.ndarray) -> None:
        self._patches = patches
        self._total = np.zeros((patches.shape[-1], patches.shape[-1]))
        for block in _blocks(len(patches)):
            self._total += self._of(block)
        self._whitened = float(np.linalg.eigvalsh(self._total)[-1]) <= _LARGEST * len(patches)

    def _of(self, rows: slice | NDArray[np.int64]) -> Floats:
        flat = self._patches[rows].reshape(-1, self._patches.shape[-1]).astype(np.float32)
        return np.asarray((flat.T @ flat).astype(np.float64) / (self._patches[0].size / flat.shape[1]))

    def metric_without(self, rows: NDArray[np.int64]) -> Features | None:
        """What whitens the patches anew without some of the normals, (C, C); None where nothing does."""
        count = len(self._patches)
        if len(rows) == count or not self._whitened:
            return None
        change = (self._total - self._of(rows)) / (count - len(rows)) - self._total / count
        values, vectors = np.linalg.eigh(np.eye(len(change)) + change)
        metric = (vectors / np.sqrt(np.maximum(values, _SMALLEST))) @ vectors.T
        return np.asarray(metric, np.float32)


@dataclass(frozen=True)
class HeldOut:
    """Normals that calibrate, with scores still to be made, and what is recorded of them.

    ``patches`` is (n, rows, columns, C) float16, or None where only whole images are looked at. ``groups``
    gives the group of every normal of the gallery, by its path, where none are held out and these are some
    of them or all; else it is None.
    """

    calibration: Calibration
    info: CalibrationInfo
    patches: np.ndarray | None = None
    groups: Mapping[str, str] | None = None

    @classmethod
    def of(
        cls,
        images: Embedded,
        rule: HoldOut,
        copies: Mapping[str, int],
        patches: np.ndarray | None = None,
    ) -> HeldOut:
        """Embedded normals, in groups by ``rule``; ``copies`` see ``group_names``, by absolute path."""
        names = group_names(images.paths, rule.group_by, copies)
        features = images.outputs.image
        calibration = Calibration(features, features[:0, 0], names, images.paths)
        info = CalibrationInfo(rule, images.root, len(images.paths), calibration.groups, images.fingerprint)
        return cls(calibration, info, patches)

    @classmethod
    def every(
        cls,
        images: Embedded,
        group_by: GroupRule,
        copies: Mapping[str, int],
        kept: Kept | None,
        tiles: int = 1,
    ) -> HeldOut:
        """All normals of the gallery, or, of very many, as many as say all there is to say.

        Args:
            images: the normals.
            group_by: which leave the gallery together.
            copies: see ``of``.
            kept: the patches of as many as there are patches kept of; None without patches.
            tiles: of an image.
        """
        names = dict(zip(images.paths, group_names(images.paths, group_by, copies), strict=True))
        few = spread_over(len(images.paths), min(MOST_HELD_OUT, max(1, MOST_TILES // tiles)))
        patches = None if kept is None else kept.patches()
        if kept is not None:
            places = {path: i for i, path in enumerate(images.paths)}
            few = np.array([places[path] for path in kept.paths], np.int64)
        features, paths = images.outputs.image[few], [images.paths[i] for i in few]
        calibration = Calibration(features, features[:0, 0], [names[path] for path in paths], paths, [])
        rule = HoldOut(ALL, group_by)
        info = CalibrationInfo(rule, images.root, len(paths), calibration.groups, images.fingerprint)
        return cls(calibration, info, patches, names)

    @classmethod
    def without(cls, folder: str, model: Model, paths: set[str]) -> HeldOut | None:
        """Those of a model but for some; None where there are none, or none is left."""
        calibration, manifest = model.calibration, model.manifest
        if calibration is None or manifest.calibration is None:
            return None
        kept = [i for i, path in enumerate(calibration.paths) if path not in paths]
        if not kept:
            return None
        patches = None
        if HELD in manifest.files:
            patches = _patches_in(verified(folder, manifest, HELD), len(calibration.paths))[kept]
        left = calibration.at(kept)
        info = replace(manifest.calibration, images=len(left.paths), groups=left.groups)
        groups = None
        if calibration.gallery is not None:
            groups = dict(zip(model.normals, calibration.gallery, strict=True))
        return cls(left, info, patches, groups)

    def beside(self, paths: Sequence[str], copied: Mapping[str, str]) -> HeldOut:
        """The same where the gallery has further normals, which do not calibrate.

        Args:
            paths: theirs.
            copied: of those that are copies of a normal of the gallery, that one's path.
        """
        if self.groups is None:
            return self
        rule, groups = self.info.rule.group_by, dict(self.groups)
        joined = {group_name(path, rule): group for path, group in groups.items()}
        for path in paths:
            name = group_name(path, rule)
            own = joined.setdefault(name, name)
            if path in copied and (other := groups[copied[path]]) != own:  # it makes one group of two
                joined = {key: other if group == own else group for key, group in joined.items()}
                groups = {key: other if group == own else group for key, group in groups.items()}
            groups[path] = joined[name]
        names = [groups[path] for path in self.calibration.paths]
        calibration = replace(self.calibration, names=names)
        info = replace(self.info, groups=calibration.groups)
        return replace(self, groups=groups, calibration=calibration, info=info)

    def why_not(
        self, scorer: Scorer, method: MethodInfo, reduction: Reduction | None, normals: Sequence[str]
    ) -> str | None:
        """Why normals of the gallery cannot calibrate, in words; None where they can, or were held out.

        Args:
            scorer: fitted, with vectors of ``normals`` in its gallery.
            method: how the network was made.
            reduction: of the gallery.
            normals: by path, for each vector.
        """
        if self.groups is None:
            return None
        if method.steps:
            return "the network was trained on them; hold some out"
        if method.settings.get("whitening"):
            return "the features were fitted to normals; 'anomscan adapt --holdout 0' makes others"
        if reduction is not None:
            return "the gallery no longer has them all; hold some out"
        if not scorer.gallery.exact:
            return "they are too many for an exact search; hold some out"
        if not scorer.compares_apart:
            if isinstance(scorer, Patched) and scorer.whole.compares_apart:
                return f"{scorer.title} cannot leave a normal out; hold some out"
            return f"the scorer {scorer.whole.info.name} does not go by neighbours alone; hold some out"
        sizes = Counter(self.groups[path] for path in normals)
        if len(normals) - max(sizes[name] for name in self.calibration.names) < scorer.info.k:
            return "they are too few, or too many of one group, to compare each with others"
        return None

    def scored(self, scorer: Scorer, normals: Sequence[str]) -> tuple[Calibration, PatchMaps | None]:
        """With scores by a fitted scorer, whose gallery has vectors of ``normals``.

        Returns:
            The calibration, and the maps of the patches of held-out normals.
        """
        k = scorer.info.k
        if self.groups is None:
            outputs = self.compared(scorer)
            return self.calibration.rescored(scorer.score(outputs, k)), outputs.maps
        calibration = replace(self.calibration, gallery=[self.groups[path] for path in normals])
        apart, features, patches = calibration.apart(normals), calibration.features, self.patches
        if patches is None:
            return calibration.rescored(scorer.apart(Outputs(features), k, apart)), None
        scores, moments = np.empty(len(features), np.float32), Moments(patches)
        for number in np.unique(apart.own):
            rows = np.flatnonzero(apart.own == number)
            one = replace(apart, own=apart.own[rows], metric=moments.metric_without(rows))
            outputs = Outputs(features[rows], patches[rows].astype(np.float32))
            scores[rows] = scorer.apart(outputs, k, one)
        return calibration.rescored(scores), None

    def compared(self, scorer: Scorer) -> Outputs:
        """What the scorer needs of these images."""
        features, patches = self.calibration.features, self.patches
        if patches is None:
            return Outputs(features)
        parts = [
            Outputs(features[block], patches[block].astype(np.float32)) for block in _blocks(len(features))
        ]
        return Outputs.joined([scorer.compared(part) for part in parts])

    def save(self, folder: Path) -> dict[str, Path]:
        """Write the patches, if there are any, into ``folder``."""
        if self.patches is None:
            return {}
        file = folder / "held.npz"
        np.savez(file, patches=self.patches)
        return {HELD: file}


def _blocks(count: int) -> list[slice]:
    return [slice(i, i + _BLOCK) for i in range(0, count, _BLOCK)]


def _patches_in(file: Path, count: int) -> np.ndarray:
    """The patches of so many normals; raises ModelDamaged where the file does not hold them."""
    patches = read_arrays(file).get("patches", np.empty(0, np.float16))
    fits = patches.dtype == np.float16 and patches.ndim == 4 and patches.size and len(patches) == count
    if not (fits and np.isfinite(patches).all()):
        raise ModelDamaged(
            f"{file.name} does not hold the patches of the normals that calibrate; adapt again"
        )
    return patches
