"""From an extractor and normal images to a model folder: embed, build the gallery, commit."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import anomscan
from anomscan.bundle import (
    EXTRACTOR,
    INDEX,
    NORMALS,
    SCORER,
    WEIGHTS,
    commit,
    read_manifest,
    verified,
    write_normals,
)
from anomscan.config import (
    BackboneInfo,
    DataInfo,
    GalleryInfo,
    Int8Info,
    Manifest,
    MethodInfo,
    Preprocessing,
    Progress,
    available_cores,
)
from anomscan.errors import InputError, NoImages, UsageError
from anomscan.extractor import Extractor
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
    files = {}
    for role in (EXTRACTOR, WEIGHTS):
        source = verified(folder, manifest, role)
        files[role] = stage / source.name
        shutil.copyfile(source, files[role])
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


def build(
    root: str,
    sources: list[Source],
    folder: Path,
    stage: Path,
    extraction: Extraction,
    progress: Progress,
    reduction: Reduction | None = None,
) -> Fitted:
    """Embed the normals with the staged graph, build the gallery and commit everything."""
    extractor = Extractor(extraction.files[EXTRACTOR], available_cores())
    images = counted(
        "embedding the normals", decoded(sources, extraction.preprocessing), len(sources), progress
    )
    vectors = np.empty((0, 0), np.float32)
    normals: list[str] = []
    unreadable: list[Decoded] = []
    fingerprint = hashlib.sha256()
    for batch, embedded in extractor.embed(images):
        if batch[0].pixels is None:
            unreadable.extend(batch)
            continue
        if not normals:  # one array from the start: a million features do not fit twice
            vectors = np.empty((len(sources), embedded.shape[1]), np.float32)
        vectors[len(normals) : len(normals) + len(batch)] = embedded
        for image in batch:
            normals.append(os.path.abspath(image.path))
            fingerprint.update(os.fsencode(os.path.relpath(image.path, root)))
            fingerprint.update(image.pixels.tobytes() if image.pixels is not None else b"")
    if not normals:
        raise InputError(f"none of the {len(sources)} normal images can be read")
    scorer, vectors, seed = extraction.scorer, vectors[: len(normals)], extraction.method.seed
    scorer.fit(vectors, seed)
    searched, images_of = vectors, normals
    if reduction is not None:
        searched, rows = reduction.apply(vectors, scorer.info.metric, seed)
        images_of = [normals[row] for row in rows]
    progress("building the gallery", 0, None, "")
    gallery, recall = Gallery.build_fast(searched, scorer.info.metric, seed)
    scorer.score(vectors[:1], gallery, scorer.info.k)
    index_file, normals_file, scorer_file = stage / "index", stage / "normals", stage / "scorer.npz"
    gallery.save(index_file)
    write_normals(normals_file, images_of)
    scorer.save(scorer_file)
    manifest = Manifest(
        anomscan=anomscan.__version__,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        backbone=extraction.backbone,
        preprocessing=extraction.preprocessing,
        method=extraction.method,
        scorer=scorer.info,
        data=DataInfo(os.path.abspath(root), len(normals), len(unreadable), fingerprint.hexdigest()),
        versions=_versions(),
        files={},
        gallery=GalleryInfo(gallery.kind, recall, str(reduction) if reduction else None, len(gallery)),
        int8=extraction.int8,
    )
    staged = {**extraction.files, INDEX: index_file, NORMALS: normals_file, SCORER: scorer_file}
    return Fitted(commit(folder, staged, manifest), unreadable)


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
