"""Change a finished model by what its user says: other normals to calibrate with, normals to add, to remove.

The network stays, and so does everything else but what follows from the change: the gallery, what the scorer
learns from it, and the scores of the held-out normals, which are always those by the gallery as it is.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from anomscan.bundle import CALIBRATION, EXTRACTOR, WEIGHTS, Model, commit, linked, read_model, staging
from anomscan.config import Change, HoldOut, Manifest, Progress, available_cores
from anomscan.errors import InputError, NoImages, UsageError
from anomscan.extractor import Features
from anomscan.gallery import Gallery
from anomscan.images import find, printable
from anomscan.indexing import Fitted, embed, find_normals, now, stage_calibration, stage_index


def calibrate(root: str, folder: Path, group_by: str, progress: Progress) -> Fitted:
    """Let the images below ``root`` be the held-out normals; index and weights stay as they are.

    The images must not be among the normals of the gallery: those score too low to compare with.

    Raises:
        InputError: ``root`` does not exist, holds no readable image, or shares images with the gallery.
        ModelError, OutputError: the old model stays.
    """
    sources = find_normals(root)
    model = read_model(folder, available_cores())
    manifest = model.manifest
    images = embed("calibrating", root, sources, model.extractor, manifest.preprocessing, progress)
    known = model.gallery.holds(images.features, model.gallery.search(images.features, 1)[1][:, 0])
    if known.any():
        first = printable(images.paths[int(known.argmax())])
        raise InputError(
            f"{int(known.sum())} of the {len(known)} images, {first} for one, are among the normals that the "
            "model compares with; calibrate with others"
        )
    with staging(folder) as stage:
        staged = linked(folder, manifest, manifest.files.keys() - {CALIBRATION}, stage)
        staged[CALIBRATION], info = stage_calibration(
            stage, images, model.gallery, model.scorer, HoldOut(group_by=group_by)
        )
        return Fitted(commit(folder, staged, replace(manifest, calibration=info)), images.unreadable)


def add(paths: list[str], folder: Path, progress: Progress) -> Fitted:
    """Accept images as normal: they go to the gallery, so that they and their like no longer stand out.

    None of them is held out. False alarms are chosen by their scores, and those of one day are often nearly
    copies of each other: among the held-out normals they would bias the p-values. Without them those stay a
    random sample, and their scores by the larger gallery are as valid as before. A path that the model has
    already is read again; one that was held out is no longer.

    Raises:
        InputError: a path does not exist, or no image can be read.
        UsageError: the gallery is a reduced one.
        ModelError, OutputError: the old model stays.
    """
    sources = list(find(paths))
    if not sources:
        raise NoImages("no images to add: the folder holds no file with an image suffix")
    model = read_model(folder, available_cores())
    _check_whole(model)
    preprocessing = model.manifest.preprocessing
    images = embed("embedding", os.curdir, sources, model.extractor, preprocessing, progress)
    there = set(images.paths)
    kept = [i for i, path in enumerate(model.normals) if path not in there]
    vectors = np.concatenate([model.gallery.vectors()[kept], images.features])
    normals = [*(model.normals[i] for i in kept), *images.paths]
    change = Change(now(), "added", images.paths)
    manifest = _rewritten(model, folder, vectors, normals, change, images.fingerprint)
    return Fitted(manifest, images.unreadable)


def remove(paths: list[str], folder: Path) -> Fitted:
    """Take images, or all below a folder, out of the normals; the files need no longer exist.

    Raises:
        InputError: a path names none of the normals, or no normal would be left.
        UsageError: as ``add``.
        ModelError, OutputError: the old model stays.
    """
    model = read_model(folder, available_cores())
    _check_whole(model)
    held_out = model.calibration.paths if model.calibration else []
    gone: set[str] = set()
    for path in map(os.path.abspath, paths):
        found = {
            normal for normal in (*model.normals, *held_out) if (normal + os.sep).startswith(path + os.sep)
        }
        if not found:
            raise InputError(f"{printable(path)} is not among the normals of the model")
        gone |= found
    kept = [i for i, path in enumerate(model.normals) if path not in gone]
    if not kept:
        raise InputError("no normal would be left; build the index of others with 'anomscan index NORMAL'")
    vectors, normals = model.gallery.vectors()[kept], [model.normals[i] for i in kept]
    return Fitted(_rewritten(model, folder, vectors, normals, Change(now(), "removed", sorted(gone)), ""), [])


def _check_whole(model: Model) -> None:
    if model.manifest.gallery.reduced:
        raise UsageError("the gallery no longer has every normal; build the index of all normals again")


def _rewritten(
    model: Model, folder: Path, vectors: Features, normals: list[str], change: Change, pixels: str
) -> Manifest:
    """Commit the model with another gallery; the held-out normals are scored by it."""
    manifest, scorer = model.manifest, model.scorer
    gallery, gallery_info = Gallery.build_fast(vectors, scorer.info.metric, manifest.method.seed)
    scorer.fit(vectors, manifest.method.seed)
    scorer.score(vectors[:1], gallery, scorer.info.k)
    calibration, info = model.calibration, manifest.calibration
    if calibration is not None and info is not None:
        calibration = calibration.without(set(change.paths))
        info = (
            replace(info, images=len(calibration.paths), groups=calibration.groups) if calibration else None
        )
    text = "\0".join((manifest.data.fingerprint, change.action, *change.paths, pixels))
    data = replace(
        manifest.data, images=len(normals), fingerprint=hashlib.sha256(os.fsencode(text)).hexdigest()
    )
    with staging(folder) as stage:
        staged = linked(folder, manifest, (EXTRACTOR, WEIGHTS), stage)
        staged |= stage_index(stage, gallery, normals, scorer)
        if calibration is not None:
            staged[CALIBRATION] = stage / "calibration.npz"
            scores = scorer.score(calibration.features, gallery, scorer.info.k)
            calibration.rescored(scores).save(staged[CALIBRATION])
        changes = [*manifest.changes, change]
        return commit(
            folder,
            staged,
            replace(
                manifest,
                data=data,
                calibration=info,
                changes=changes,
                gallery=gallery_info,
            ),
        )
