"""The normals that calibrate: embedded, in groups, and scored by what was fitted without them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from anomscan.fit.embed import Embedded
from anomscan.fit.normals import group_names
from anomscan.images.find import Found
from anomscan.model.folder import verified
from anomscan.model.manifest import CalibrationInfo, HoldOut, Manifest
from anomscan.scoring.base import Scorer, read_arrays
from anomscan.stats.calibration import Calibration
from anomscan.types import Features, Outputs

HELD = "held"
"""Role of the file with their patches: scores are made of them again when normals are added or removed."""
MOST_WITH_PATCHES = 1000
"""Held-out normals whose patches are kept, 130 kB each; more are left aside."""
MOST_TILES, MOST_TILES_WITH_PATCHES = 20_000, 4000
"""The same where images are looked at in tiles, and counted in those."""
_BLOCK = 16


def spread(held_out: list[Found], tiles: int, *, with_patches: bool) -> list[Found]:
    """As many of them as are kept, evenly spread, of images that are looked at in so many ``tiles``."""
    most = MOST_WITH_PATCHES if with_patches else len(held_out)
    if tiles > 1:
        most = min(most, max(1, (MOST_TILES_WITH_PATCHES if with_patches else MOST_TILES) // tiles))
    places = np.linspace(0, len(held_out) - 1, min(most, len(held_out))).astype(int)
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


@dataclass(frozen=True)
class HeldOut:
    """Normals that calibrate, with scores still to be made, and what is recorded of them.

    ``patches`` is (n, rows, columns, C) float16, or None where only whole images are looked at.
    """

    calibration: Calibration
    info: CalibrationInfo
    patches: np.ndarray | None = None

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
    def without(
        cls, folder: str, manifest: Manifest, calibration: Calibration | None, paths: set[str]
    ) -> HeldOut | None:
        """Those of a model but for some; None where there are none, or none is left."""
        if calibration is None or manifest.calibration is None:
            return None
        kept = [i for i, path in enumerate(calibration.paths) if path not in paths]
        if not kept:
            return None
        patches = None
        if HELD in manifest.files:
            patches = read_arrays(verified(folder, manifest, HELD))["patches"][kept]
        left = calibration.at(kept)
        info = replace(manifest.calibration, images=len(left.paths), groups=left.groups)
        return cls(left, info, patches)

    def compared(self, scorer: Scorer) -> Outputs:
        """What the scorer needs of these images."""
        features, patches = self.calibration.features, self.patches
        if patches is None:
            return Outputs(features)
        blocks = [slice(i, i + _BLOCK) for i in range(0, len(features), _BLOCK)]
        parts = [Outputs(features[block], patches[block].astype(np.float32)) for block in blocks]
        return Outputs.joined([scorer.compared(part) for part in parts])

    def save(self, folder: Path) -> dict[str, Path]:
        """Write the patches, if there are any, into ``folder``."""
        if self.patches is None:
            return {}
        file = folder / "held.npz"
        np.savez(file, patches=self.patches)
        return {HELD: file}
