"""Let a finished model learn from what it missed: anomalies that it called normal, or ranked behind normals.

Network, gallery and spreads stay as they are. What changes are the rejects, see ``scoring.rejects``, and the
scores of the normals that calibrate, which are always those by the scorer as it is.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

import anomscan
from anomscan.errors import InputError, ModelError, NoImages, UsageError
from anomscan.files.urls import absolute
from anomscan.fit.build import Fitted, notes, rejects_info
from anomscan.fit.embed import Embedded, by, embed
from anomscan.fit.held_out import HeldOut
from anomscan.fit.normals import Normals
from anomscan.images.find import find
from anomscan.images.overlay import source_size
from anomscan.images.part import covered
from anomscan.model.folder import ModelDraft, read_manifest, verified
from anomscan.model.manifest import Change, Manifest
from anomscan.model.model import Model, read_model
from anomscan.network.network import Network
from anomscan.pipeline import available_cores
from anomscan.scoring.bank import Patches, joined
from anomscan.scoring.base import Scorer, read_arrays
from anomscan.scoring.focused import Focused
from anomscan.scoring.patches import PLACES, read_origin
from anomscan.scoring.rejects import MOST, REJECTS, Rejects, odd_places, odd_places_apart
from anomscan.stats.calibration import CALIBRATION
from anomscan.text import many, now, printable
from anomscan.types import Box, Features, Progress, Reading

_BEYOND = 2.0
"""Standard deviations above the usual peak of a normal from which on a patch is odd; chosen as the weight."""


def reject(
    paths: list[str], folder: str, progress: Progress, wait: float = 0.0, box: Box | None = None
) -> Fitted:
    """Record missed anomalies: from now on what is like them scores higher.

    An image that is a reject already is read again.

    Args:
        paths: images, or folders of them.
        folder: the model folder.
        progress: see ``types.Progress``.
        wait: seconds that another writer of ``folder`` may take to finish.
        box: where the defect is, in pixels of the one image.

    Raises:
        InputError: a path does not exist, no image can be read, one is a normal of the model, or the box lies
            elsewhere.
        UsageError: the model cannot learn from rejects, they are too many, or a box for several.
        ModelError, OutputError: the old model stays.
    """
    sources = list(find(paths))
    if not sources:
        raise NoImages("no images to reject: the folder holds no file with an image suffix")
    if box is not None and len(sources) > 1:
        raise UsageError("--box says where the defect of one image is; reject such images one at a time")
    read_manifest(folder)  # before a folder is made where there is none
    with ModelDraft.begin(folder, wait) as draft:
        model = read_model(folder, available_cores())
        if (why := model.scorer.why_no_rejects()) is not None:
            raise UsageError(f"nothing can be learned from rejects: {why}")
        if box is not None and not isinstance(model.scorer, Focused):
            raise UsageError(
                "the model looks at whole images, so that a place tells it nothing; leave --box out"
            )
        odd, rules, known = None, model.manifest.preprocessing, model.calibration
        if isinstance(model.scorer, Focused):
            apart = known.apart(model.normals).paths if known is not None and known.gallery else None
            odd = OddPatches(model.scorer, apart, box, rules.reading)
        take = [odd.add] if odd is not None else []
        images = embed("embedding", os.curdir, sources, by(model.extractor, rules), progress, take)
        _check_no_normals(model, images)
        new = Rejects(images.paths, images.outputs.image)
        if odd is not None:
            new = odd.of(new)
        before = model.scorer.rejects and model.scorer.rejects.without(set(images.paths))
        rejects = new if before is None else before.and_(new)
        if len(rejects) > MOST:
            raise UsageError(
                f"{len(rejects)} rejects are too many, {MOST} at most: of so many choose those that look "
                "unlike each other"
            )
        written = _commit(draft, model, rejects, Change(now(), "rejected", images.paths))
        return Fitted(written, images.unreadable, [*_on_oddness(new), *notes(draft)])


def unreject(paths: list[str], folder: str, wait: float = 0.0) -> Fitted:
    """Take images, or all below a folder, out of the rejects; the files need no longer exist.

    Raises:
        InputError: a path names none of them.
        ModelError, OutputError: the old model stays.
    """
    read_manifest(folder)  # before a folder is made where there is none
    with ModelDraft.begin(folder, wait) as draft:
        model = read_model(folder, available_cores())
        rejects = model.scorer.rejects
        gone: set[str] = set()
        for path in map(absolute, paths):
            own = rejects.paths if rejects is not None else []
            found = {image for image in own if (image + os.sep).startswith(path + os.sep)}
            if not found:
                raise InputError(f"{printable(path)} is not among the rejects of the model")
            gone |= found
        left = rejects and rejects.without(gone)
        written = _commit(draft, model, left, Change(now(), "unrejected", sorted(gone)))
        return Fitted(written, [], notes(draft))


def _on_oddness(rejects: Rejects) -> list[str]:
    """What the user should know of rejects of which no patch counts."""
    if rejects.patches is None:
        return []
    known = set(rejects.patches.images[rejects.owners < 0].tolist())
    if not (without := [path for i, path in enumerate(rejects.paths) if i not in known]):
        return []
    return [
        f"{many(len(without), 'reject has', 'rejects have')} no patch that stands out among normal ones, "
        f"{printable(without[0])} for one: only what is like the whole image scores higher; show where the "
        "defect is with --box X,Y,W,H"
    ]


def _commit(draft: ModelDraft, model: Model, rejects: Rejects | None, change: Change) -> Manifest:
    """Write the model with these rejects and no others, calibrated anew."""
    manifest, scorer = model.manifest, model.scorer
    scorer.reject(rejects)
    draft.keep(manifest, manifest.files.keys() - {CALIBRATION, REJECTS})
    patches, held_out = manifest.patches, HeldOut.without(draft.folder, model, set())
    if held_out is not None:
        calibration, maps = held_out.scored(scorer, model.normals)
        draft.put(calibration.save(draft.scratch))
        if isinstance(scorer, Focused) and maps is not None:
            scorer.look_normal(maps)
            patches = scorer.patch_info
    if rejects is not None:
        draft.put(rejects.save(draft.scratch))
    return draft.commit(
        replace(
            manifest,
            anomscan=anomscan.__version__,
            patches=patches,
            rejects=rejects_info(rejects),
            changes=[*manifest.changes, change],
        )
    )


def _check_no_normals(model: Model, images: Embedded) -> None:
    """Raise InputError where one of the images is a normal of the model, in the gallery or held out."""
    features, calibration = images.outputs.image, model.calibration
    known = model.scorer.known(features)
    if calibration is not None:
        known |= calibration.holds(features)
    if not known.any():
        return
    first = int(known.argmax())
    vectors = model.gallery.vectors()
    normals = model.normals[: len(vectors)]
    if calibration is not None:
        vectors, normals = np.concatenate([vectors, calibration.features]), [*normals, *calibration.paths]
    own = normals[int(np.linalg.norm(vectors - features[first], axis=1).argmin())]
    raise InputError(
        f"{printable(images.paths[first])} is a normal of the model, and what is normal cannot be a reject; "
        f"take it out first: anomscan index --remove {printable(own)}"
    )


class OddPatches:
    """Gathers those patches of rejects, image after image, that they are known by.

    Args:
        scorer: what compares patches with those of the normals.
        numbers: where all normals calibrate, the number of each by its path: they leave the gallery together.
        box: where the defect is, in pixels of the image.
        reading: what of the image is looked at.
    """

    def __init__(
        self, scorer: Focused, numbers: Mapping[str, int] | None, box: Box | None, reading: Reading
    ) -> None:
        peak = scorer.patch_info.peak
        self._normals, self._limit = scorer.patches, math.exp(peak.mean + _BEYOND * peak.deviation)
        self._box, self._reading = box, reading
        self._sets = None
        if numbers is not None:
            self._sets = np.array([numbers.get(path, -1) for path in self._normals.paths], np.int64)
        self._parts: list[Patches] = []
        self._owners: list[NDArray[np.int64]] = []
        self._images = 0

    def add(self, patches: Features, paths: list[str]) -> None:
        """Take those of n images, (n, rows, columns, C)."""
        for image, path in zip(patches, paths, strict=True):
            grid, inside = image.shape[:2], None
            if self._box is not None:
                inside = cells_under(self._box, path, self._reading, grid)
            maps = self._normals.maps(image[None])
            if self._sets is None:
                places, hidden = odd_places(maps.distances[0], self._limit, inside), np.empty(0, np.int64)
            else:
                owners = self._sets[self._normals.images[maps.nearest[0].ravel()]]
                others = self._normals.nearest_others(image, owners, self._sets).reshape(grid)
                places, hidden = odd_places_apart(maps.distances[0], others, self._limit, inside)
            nearest = self._normals.images[maps.nearest[0].ravel()[hidden]]
            self._owners += [np.full(len(places), -1, np.int64), nearest.astype(np.int64)]
            places = np.concatenate([places, hidden])
            cells = np.stack(np.unravel_index(places, grid), axis=1).astype(np.int16)
            own = np.full(len(places), self._images, np.int32)
            self._parts.append(Patches(image.reshape(-1, image.shape[-1])[places], own, cells))
            self._images += 1

    def of(self, rejects: Rejects) -> Rejects:
        """The rejects with what was gathered of them."""
        owners = np.concatenate(self._owners)
        named, numbers = np.unique(owners[owners >= 0], return_inverse=True)
        owners[owners >= 0] = numbers
        normals = [self._normals.paths[row] for row in named]
        return replace(
            rejects, patches=joined(self._parts), grid=self._normals.grid, owners=owners, normals=normals
        )


def cells_under(box: Box, path: str, reading: Reading, grid: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which cells of a grid over what is looked at lie under a box, if only in part, (rows, columns).

    Args:
        box: in pixels of the upright image.
        path: of the image.
        reading: what of it is looked at.
        grid: rows and columns.

    Raises:
        InputError: the box sticks out of the image, or lies where nothing is looked at.
    """
    size = source_size(path)
    if box[0] + box[2] > size[0] or box[1] + box[3] > size[1]:
        raise InputError(
            f"--box {','.join(map(str, box))} sticks out of {printable(path)}, which has "
            f"{size[0]} x {size[1]} pixels"
        )
    area = covered(reading, size)
    across, down = (
        _under(box[axis], box[axis] + box[axis + 2], area[axis], area[axis + 2], grid[1 - axis])
        for axis in (0, 1)
    )
    inside: NDArray[np.bool_] = down[:, None] & across
    if not inside.any():
        raise InputError(
            f"--box {','.join(map(str, box))} lies outside of what the model looks at, "
            f"{','.join(map(str, area))} of {printable(path)}"
        )
    return inside


def _under(start: int, end: int, first: int, length: int, cells: int) -> NDArray[np.bool_]:
    """Which of so many cells over a length from ``first`` on share something with that from start to end."""
    edges = first + np.arange(cells + 1) * length / cells
    return np.asarray((edges[:-1] < end) & (edges[1:] > start))


def carried(
    folder: str, manifest: Manifest, network: Network, scorer: Scorer, normals: Normals
) -> Rejects | None:
    """The rejects of a model whose index is built anew of ``normals``, if it has any.

    Raises:
        UsageError: the new model looks at images in another way, or cannot learn from rejects, or normals
            calibrate by which the odd patches of the rejects were chosen.
        ModelDamaged: they cannot be read.
    """
    if manifest.rejects is None:
        return None
    old, new = manifest.preprocessing, network.preprocessing
    reading = replace(new.reading, constant_tail=old.reading.constant_tail, max_pixels=old.reading.max_pixels)
    alike = (replace(new, reading=reading), network.int8, network.focus.looks) == (
        old,
        manifest.int8,
        manifest.focus.looks,
    )
    why = scorer.why_no_rejects()
    if why is None and not alike:
        why = "they were embedded by a network that looks at images in another way"
    if why is None and _chosen_by(folder, manifest, normals):
        why = "their odd patches were chosen by normals that would calibrate now, and p-values would not hold"
    if why is not None:
        raise UsageError(
            f"the model has {many(manifest.rejects.images, 'reject', 'rejects')}, and the new index cannot "
            f"keep them: {why}; take them out with 'anomscan index --unreject', or name another --model"
        )
    return Rejects.load(verified(folder, manifest, REJECTS))


def _chosen_by(folder: str, manifest: Manifest, normals: Normals) -> bool:
    """Whether some that calibrate now had patches in the gallery by which those of rejects were chosen.

    Where all normals calibrated and all do again, each is compared with what was chosen without it.
    """
    calibration, everyone, root = manifest.calibration, normals.rule.is_all, absolute(normals.root)
    apart = everyone and calibration is not None and calibration.rule.is_all and root == manifest.data.root
    if manifest.patches is None or apart:
        return False
    file = verified(folder, manifest, PLACES)
    known, _ = read_origin(read_arrays(file), file.name)
    before = {os.path.relpath(path, manifest.data.root) for path in known}
    calibrating = normals.sources if everyone else normals.held_out
    return any(os.path.relpath(absolute(source.path), root) in before for source in calibrating)


def left_behind(folder: str) -> list[str]:
    """What the user should know of rejects that a model made anew does not have."""
    with suppress(ModelError):
        rejects = read_manifest(folder).rejects
        if rejects is not None:
            return [
                f"the model that was here had {many(rejects.images, 'reject', 'rejects')} of another "
                "network, and this one has none; name the images again with 'anomscan index --reject'"
            ]
    return []
