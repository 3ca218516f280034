"""Change a finished model by what its user says: other normals to calibrate with, normals to add, to remove.

The network stays, and so does everything else but what follows from the change: the gallery, what the scorer
learns from it, and the scores of the held-out normals, which are always those by the gallery as it is.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace

import numpy as np

from anomscan.errors import InputError, NoImages, UsageError
from anomscan.files.urls import absolute
from anomscan.fit.build import Fitted, Material, build, check_not_rejected, notes
from anomscan.fit.embed import Embedded, by, embed
from anomscan.fit.held_out import HELD, HeldOut, Kept, spread
from anomscan.fit.index import of_model
from anomscan.fit.look import Gathering
from anomscan.fit.normals import Normals
from anomscan.images.find import find
from anomscan.model.folder import ModelDraft, read_manifest, verified
from anomscan.model.manifest import Change, GroupRule, HoldOut, Manifest
from anomscan.model.model import Model, read_model
from anomscan.model.suspects import SUSPECTS, Suspects
from anomscan.pipeline import available_cores
from anomscan.scoring.bank import Bank
from anomscan.scoring.registry import patched_class
from anomscan.stats.calibration import CALIBRATION
from anomscan.text import now, printable
from anomscan.types import Features, Outputs, Progress


def calibrate(
    root: str,
    folder: str,
    group_by: GroupRule,
    progress: Progress,
    wait: float = 0.0,
    exclude: tuple[str, ...] = (),
) -> Fitted:
    """Let the images below ``root`` be the held-out normals; index and weights stay as they are.

    The images must not be among the normals of the gallery: those score too low to compare with.

    Raises:
        InputError: ``root`` does not exist, holds no readable image, or shares images with the gallery or
            with the rejects.
        ModelError, OutputError: the old model stays.
    """
    reading = read_manifest(folder).preprocessing.reading
    normals = Normals.find(root, Gathering(exclude), progress, reading.levels)
    with ModelDraft.begin(folder, wait) as draft:
        model = read_model(folder, available_cores())
        manifest = model.manifest
        kept = Kept() if manifest.patches else None
        take, tiles = [kept.add] if kept is not None else [], manifest.preprocessing.tile_count
        few = spread(normals.sources, tiles, with_patches=kept is not None)
        images = embed("calibrating", root, few, by(model.extractor, manifest.preprocessing), progress, take)
        known = model.scorer.known(images.outputs.image)
        check_not_rejected(model.scorer.rejects, images)
        if known.any():
            first = printable(images.paths[int(known.argmax())])
            raise InputError(
                f"{int(known.sum())} of the {len(known)} images, {first} for one, are among the normals that "
                "the model compares with; calibrate with others"
            )
        rule, copies = HoldOut(group_by=group_by), normals.look.by_absolute_path()
        held_out = HeldOut.of(images, rule, copies, kept.patches() if kept is not None else None)
        draft.keep(manifest, manifest.files.keys() - {CALIBRATION, HELD})
        scores = model.scorer.score(held_out.compared(model.scorer), manifest.scorer.k)
        draft.put(held_out.calibration.rescored(scores).save(draft.scratch)).put(held_out.save(draft.scratch))
        written = draft.commit(replace(manifest, calibration=held_out.info))
        return Fitted(written, images.unreadable, [*normals.look.notes, *notes(draft)])


def add(
    paths: list[str], folder: str, progress: Progress, wait: float = 0.0, isolate: float | None = None
) -> Fitted:
    """Accept images as normal: they go to the gallery, so that they and their like no longer stand out.

    None of them is held out. False alarms are chosen by their scores, and those of one day are often nearly
    copies of each other: among the held-out normals they would bias the p-values. Without them those stay a
    random sample, and their scores by the larger gallery are as valid as before. A path that the model has
    already is read again; one that was held out is no longer. ``isolate`` see ``Gathering``.

    Raises:
        InputError: a path does not exist, no image can be read, or one is a reject.
        UsageError: the gallery is a reduced one.
        ModelError, OutputError: the old model stays.
    """
    sources = list(find(paths))
    if not sources:
        raise NoImages("no images to add: the folder holds no file with an image suffix")
    reading = read_manifest(folder).preprocessing.reading  # before a folder is made where there is none
    sources = Gathering(max_pixels=reading.max_pixels, isolate=isolate).sift(sources, progress)
    with ModelDraft.begin(folder, wait) as draft:
        model = _whole(folder)
        preprocessing, bank = model.manifest.preprocessing, _bank(model)
        take = [bank.add] if bank is not None else []
        images = embed("embedding", os.curdir, sources, by(model.extractor, preprocessing), progress, take)
        check_not_rejected(model.scorer.rejects, images)
        kept = _positions_without(model, set(images.paths))
        features, paths = _features_of(model, kept)
        vectors = np.concatenate([features, images.outputs.image])
        normals = [*paths, *images.paths]
        change = Change(now(), "added", images.paths)
        if bank is not None:
            bank.forget(set(images.paths), before=len(bank.paths) - len(images.paths))
        fitted = _changed(draft, model, vectors, normals, change, images, bank)
        return replace(fitted, unreadable=images.unreadable)


def remove(paths: list[str], folder: str, wait: float = 0.0) -> Fitted:
    """Take images, or all below a folder, out of the normals; the files need no longer exist.

    Raises:
        InputError: a path names none of the normals, or no normal would be left.
        UsageError: as ``add``.
        ModelError, OutputError: the old model stays.
    """
    read_manifest(folder)  # before a folder is made where there is none
    with ModelDraft.begin(folder, wait) as draft:
        model = _whole(folder)
        held_out = model.calibration.paths if model.calibration else []
        gone: set[str] = set()
        for path in map(absolute, paths):
            found = {
                normal
                for normal in (*model.normals, *held_out)
                if (normal + os.sep).startswith(path + os.sep)
            }
            if not found:
                raise InputError(f"{printable(path)} is not among the normals of the model")
            gone |= found
        kept = _positions_without(model, gone)
        if not kept:
            raise InputError(
                "no normal would be left; build the index of others with 'anomscan index NORMAL'"
            )
        vectors, normals = _features_of(model, kept)
        bank, change = _bank(model), Change(now(), "removed", sorted(gone))
        if bank is not None:
            bank.forget(gone, before=len(bank.paths))
            if not len(bank.patches()):
                raise InputError("no patch of the normals would be left; index the others again")
        return _changed(draft, model, vectors, normals, change, None, bank)


def _whole(folder: str) -> Model:
    model = read_model(folder, available_cores())
    if model.manifest.gallery.reduced:
        raise UsageError("the gallery no longer has every normal; build the index of all normals again")
    return model


def _positions_without(model: Model, paths: set[str]) -> list[int]:
    return [i for i, path in enumerate(model.normals) if path not in paths]


def _features_of(model: Model, positions: list[int]) -> tuple[Features, list[str]]:
    """Features and paths of the images that vectors of the gallery are of; all of their tiles are there."""
    tiles = model.manifest.preprocessing.tile_count
    features = Outputs(model.gallery.vectors()[positions]).folded(tiles).image
    return features, [model.normals[i] for i in positions[::tiles]]


def _bank(model: Model) -> Bank | None:
    """The patches of the model's normals, as many as its gallery kept."""
    patches, info, focus = model.patches, model.manifest.patches, model.manifest.focus
    if patches is None or info is None:
        return None
    seed, tiles = model.manifest.method.seed, model.manifest.preprocessing.tile_count
    banks = patched_class(focus.procedure).banks
    return banks.of(patches.held(), patches.paths, patches.grid, info.most, seed, tiles)


def _changed(
    draft: ModelDraft,
    model: Model,
    vectors: Features,
    normals: list[str],
    change: Change,
    new: Embedded | None,
    bank: Bank | None,
) -> Fitted:
    """Build the model again with another gallery; ``new`` are those that it had not, if there are any."""
    manifest, scorer = model.manifest, model.scorer.whole
    held_out = HeldOut.without(draft.folder, model, set(change.paths))
    if held_out is not None and new is not None:
        held_out = held_out.beside(new.paths, _copied(model, new))
    pixels = "" if new is None else new.fingerprint
    text = "\0".join((manifest.data.fingerprint, change.action, *change.paths, pixels))
    data = replace(
        manifest.data, images=len(normals), fingerprint=hashlib.sha256(os.fsencode(text)).hexdigest()
    )
    network = of_model(draft.folder, manifest, draft.scratch, scorer.arrays)
    changes = [*manifest.changes, change]
    known, rejects = manifest.patches, model.scorer.rejects
    material = Material(Outputs(vectors), normals, held_out, data, changes, bank, known, rejects)
    suspects = _suspects(draft.folder, manifest)
    left = None if suspects is None else suspects.without(set(change.paths))
    built = build(draft, network, scorer, material, lambda *_: None, suspect=lambda _: left)
    return replace(built, notes=[*built.notes, *notes(draft)])


def _copied(model: Model, images: Embedded) -> dict[str, str]:
    """The normal that each image is a copy of, by path, of those that are one."""
    features, tiles = images.outputs.image, model.manifest.preprocessing.tile_count
    known = model.scorer.known(features)
    nearest = model.gallery.search(Outputs(features).unfolded(tiles).image[::tiles], 1)[1][:, 0]
    return {images.paths[i]: model.normals[nearest[i]] for i in np.flatnonzero(known)}


def _suspects(folder: str, manifest: Manifest) -> Suspects | None:
    """Those that were found when the normals were embedded; with other normals only those are left."""
    return Suspects.load(verified(folder, manifest, SUSPECTS)) if SUSPECTS in manifest.files else None
