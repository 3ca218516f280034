"""From an extractor and normal images to a model folder: embed, build the gallery, commit."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import anomscan
from anomscan.bundle import (
    CALIBRATION,
    EXTRACTOR,
    INDEX,
    NORMALS,
    SCORER,
    WEIGHTS,
    commit,
    linked,
    read_manifest,
    verified,
    write_normals,
)
from anomscan.calibration import Calibration, group_name
from anomscan.config import (
    BackboneInfo,
    CalibrationInfo,
    DataInfo,
    HoldOut,
    Int8Info,
    Manifest,
    MethodInfo,
    Preprocessing,
    Progress,
    available_cores,
)
from anomscan.errors import InputError, NoImages, UsageError
from anomscan.extractor import Extractor, Features
from anomscan.gallery import Gallery, Reduction
from anomscan.images import Decoded, Source, decode_all, find, printable
from anomscan.int8 import make_int8
from anomscan.scorers import Scorer, load_scorer, make_scorer, parse_scorer


@dataclass(frozen=True)
class Extraction:
    """An extractor staged for commit, and what is known of it."""

    files: dict[str, Path]
    backbone: BackboneInfo
    preprocessing: Preprocessing
    method: MethodInfo
    scorer: Scorer
    int8: Int8Info | None = None


@dataclass(frozen=True)
class Fitted:
    """What was written, and the normals that could not be read."""

    manifest: Manifest
    unreadable: list[Decoded]


def find_normals(root: str) -> list[Source]:
    """The images below ``root``; raises InputError where there is none."""
    sources = list(find([root]))
    if not sources:
        raise NoImages(f"no images in {printable(root)}: it holds no file with an image suffix")
    return sources


def existing(folder: Path, stage: Path, scorer: str | None) -> Extraction:
    """The extractor that ``folder`` has already, with its scorer or another that goes with it."""
    manifest = read_manifest(folder)
    learned = load_scorer(manifest.scorer, verified(folder, manifest, SCORER))
    if scorer is not None:
        asked = parse_scorer(scorer)
        if asked.metric != manifest.scorer.metric or "samplewise" in (asked.name, manifest.scorer.name):
            raise UsageError(
                f"the extractor in {folder} was not exported for the scorer {scorer}; adapt again with it"
            )
        learned = make_scorer(asked, learned.state)
    files = linked(folder, manifest, (EXTRACTOR, WEIGHTS), stage)
    return Extraction(
        files, manifest.backbone, manifest.preprocessing, manifest.method, learned, manifest.int8
    )


def in_int8(extraction: Extraction, sources: list[Source], stage: Path, *, force: bool) -> Extraction:
    """The same with an 8-bit extractor; raises Int8Differs and NoImages, see ``int8.make_int8``."""
    if extraction.int8 is not None:
        raise UsageError("the model's extractor has 8 bits already; leave --int8 out")
    out = stage / "extractor-int8.onnx"
    graph, metric = extraction.files[EXTRACTOR], extraction.scorer.info.metric
    info = make_int8(graph, out, sources, extraction.preprocessing, metric, force=force)
    return replace(extraction, files={**extraction.files, EXTRACTOR: out}, int8=info)


@dataclass(frozen=True)
class Embedded:
    """Images below ``root`` and their features, (n, D) float32; the unreadable ones apart.

    ``fingerprint`` is the SHA-256 over the relative paths and the preprocessed pixels.
    """

    root: str
    paths: list[str]
    features: Features
    unreadable: list[Decoded]
    fingerprint: str


def embed(
    what: str,
    root: str,
    sources: list[Source],
    extractor: Extractor,
    preprocessing: Preprocessing,
    progress: Progress,
) -> Embedded:
    """Embed ``sources``, images below ``root``; ``what`` is what ``progress`` calls it.

    Raises:
        InputError: none of them can be read.
    """
    images = counted(what, decoded(sources, preprocessing), len(sources), progress)
    features = np.empty((0, 0), np.float32)
    paths: list[str] = []
    unreadable: list[Decoded] = []
    fingerprint = hashlib.sha256()
    for batch, embedded in extractor.embed(images):
        if batch[0].pixels is None:
            unreadable.extend(batch)
            continue
        if not paths:  # one array from the start: a million features do not fit twice
            features = np.empty((len(sources), embedded.shape[1]), np.float32)
        features[len(paths) : len(paths) + len(batch)] = embedded
        for image in batch:
            paths.append(os.path.abspath(image.path))
            fingerprint.update(os.fsencode(os.path.relpath(image.path, root)))
            fingerprint.update(image.pixels.tobytes() if image.pixels is not None else b"")
    if not paths:
        raise InputError(f"none of the {len(sources)} normal images can be read")
    return Embedded(os.path.abspath(root), paths, features[: len(paths)], unreadable, fingerprint.hexdigest())


def build(
    root: str,
    sources: list[Source],
    held_out: list[Source],
    rule: HoldOut,
    folder: Path,
    stage: Path,
    extraction: Extraction,
    progress: Progress,
    reduction: Reduction | None = None,
) -> Fitted:
    """Embed the normals with the staged graph, build the gallery, calibrate and commit everything."""
    extractor = Extractor(extraction.files[EXTRACTOR], available_cores())
    preprocessing = extraction.preprocessing
    normals = embed("embedding the normals", root, sources, extractor, preprocessing, progress)
    calibrating = None
    if held_out:
        calibrating = embed("calibrating", root, held_out, extractor, preprocessing, progress)
    scorer, seed = extraction.scorer, extraction.method.seed
    scorer.fit(normals.features, seed)
    searched, images_of = normals.features, normals.paths
    if reduction is not None:
        searched, rows = reduction.apply(normals.features, scorer.info.metric, seed)
        images_of = [normals.paths[row] for row in rows]
    progress("building the gallery", 0, None, "")
    gallery, gallery_info = Gallery.build_fast(searched, scorer.info.metric, seed)
    scorer.score(normals.features[:1], gallery, scorer.info.k)
    staged = {**extraction.files, **stage_index(stage, gallery, images_of, scorer)}
    info = None
    if calibrating is not None:
        staged[CALIBRATION], info = stage_calibration(stage, calibrating, gallery, scorer, rule)
    unreadable = [*normals.unreadable, *(calibrating.unreadable if calibrating else [])]
    manifest = Manifest(
        anomscan=anomscan.__version__,
        created=now(),
        backbone=extraction.backbone,
        preprocessing=preprocessing,
        method=extraction.method,
        scorer=scorer.info,
        data=DataInfo(normals.root, len(normals.paths), len(unreadable), normals.fingerprint),
        versions=_versions(),
        files={},
        gallery=replace(gallery_info, reduced=str(reduction) if reduction else None),
        int8=extraction.int8,
        calibration=info,
    )
    return Fitted(commit(folder, staged, manifest), unreadable)


def stage_index(stage: Path, gallery: Gallery, normals: list[str], scorer: Scorer) -> dict[str, Path]:
    """Write what scoring compares with into ``stage``."""
    files = {INDEX: stage / "index", NORMALS: stage / "normals", SCORER: stage / "scorer.npz"}
    gallery.save(files[INDEX])
    write_normals(files[NORMALS], normals)
    scorer.save(files[SCORER])
    return files


def stage_calibration(
    stage: Path, held_out: Embedded, gallery: Gallery, scorer: Scorer, rule: HoldOut
) -> tuple[Path, CalibrationInfo]:
    """Score held-out normals as ``score`` would and write them into ``stage``."""
    scores = scorer.score(held_out.features, gallery, scorer.info.k)
    names = [group_name(path, rule.group_by) for path in held_out.paths]
    calibration = Calibration(held_out.features, scores, names, held_out.paths)
    file = stage / "calibration.npz"
    calibration.save(file)
    images = len(calibration.paths)
    return file, CalibrationInfo(rule, held_out.root, images, calibration.groups, held_out.fingerprint)


def now() -> str:
    """The time of day, for the record."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def decoded(sources: Iterable[Source], preprocessing: Preprocessing) -> Iterator[Decoded]:
    """The images, decoded side by side, in order."""
    return decode_all(sources, preprocessing, available_cores())


def counted(what: str, images: Iterable[Decoded], total: int, progress: Progress) -> Iterator[Decoded]:
    """The same images; each is reported to ``progress`` once it was used."""
    for done, image in enumerate(images, start=1):
        yield image
        progress(what, done, total, "")


def _versions() -> dict[str, str]:
    packages = ("numpy", "pillow", "onnxruntime", "faiss-cpu", "torch", "timm")
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
