"""From a model folder to an ONNX file for other programs."""

from __future__ import annotations

import shutil
from itertools import islice
from pathlib import Path

import numpy as np

from anomscan.atomic import whole_file
from anomscan.bundle import EXTRACTOR, Model, read_model, verified
from anomscan.config import Int8Info, Progress, available_cores
from anomscan.errors import NoImages, ParityError, UsageError
from anomscan.extractor import Extractor, Features
from anomscan.images import Decoded, Source, decode_all, find
from anomscan.int8 import make_int8

EXPORT_IMAGES = 64
EXPORT_TOLERANCE = 1e-4
"""Largest difference of a score between an exported file and its model; relative to scores above 1."""


def export_int8(folder: Path, out: Path, images: list[str], *, force: bool) -> Int8Info:
    """Write an 8-bit version of the extractor of ``folder`` to ``out``.

    Args:
        folder: the model folder.
        out: the ONNX file to write.
        images: normal images or folders to calibrate with; with none, the normals still on this disk.
        force: write it whatever it does to the scores.

    Returns:
        What it gains and costs.

    Raises:
        Int8Differs: it ranks normal images differently; ``out`` was not written.
        UsageError: the extractor has 8 bits already.
        NoImages, ModelError, OutputError: as ``export``.
    """
    model = read_model(folder, available_cores())
    if model.manifest.int8 is not None:
        raise UsageError("the model's extractor has 8 bits already; leave --int8 out")
    normals = list(find(images)) if images else [Source(path) for path in model.normals]
    graph, metric = verified(folder, model.manifest, EXTRACTOR), model.manifest.scorer.metric
    with whole_file(out) as partial:
        return make_int8(graph, partial, normals, model.manifest.preprocessing, metric, force=force)


def export(folder: Path, out: Path, images: list[str], progress: Progress) -> float:
    """Write the extractor of ``folder`` to ``out``, after re-scoring real images with the written file.

    Args:
        folder: the model folder.
        out: the ONNX file to write.
        images: images or folders to check with, against the model's own extractor; with none, the
            normals still on this disk are checked against the features in the index.
        progress: see ``config.Progress``.

    Returns:
        The largest difference of a score that was seen, at most ``EXPORT_TOLERANCE``.

    Raises:
        ParityError: a score differs, ``out`` was not written.
        NoImages: there is nothing to check with.
        ModelError, OutputError: the model cannot be used, ``out`` cannot be written.
    """
    threads = available_cores()
    model = read_model(folder, threads)
    decoded, expected = _given_images(model, images) if images else _gallery_images(model)
    if not decoded:
        raise NoImages(
            "no image to check the exported file with: the normals are no longer where they were; "
            "name a few images or their folder with --images"
        )
    with whole_file(out) as partial:
        shutil.copyfile(verified(folder, model.manifest, EXTRACTOR), partial)
        exported = Extractor(partial, threads)
        progress("re-scoring with the exported file", 0, len(decoded), "")
        features = np.concatenate([features for _, features in exported.embed(decoded)])
        scores = _scores(model, expected)
        difference = float((np.abs(_scores(model, features) - scores) / np.maximum(1, np.abs(scores))).max())
        if not difference <= EXPORT_TOLERANCE:
            raise ParityError(
                f"the exported file scores real images differently, by up to {difference:.2g}, so it was not "
                "written; if the normals have changed since the index was built, run 'anomscan index' again"
            )
    return difference


def _scores(model: Model, features: Features) -> Features:
    return model.scorer.score(features, model.gallery, model.manifest.scorer.k)


def _given_images(model: Model, images: list[str]) -> tuple[list[Decoded], Features]:
    images_there = decode_all(find(images), model.manifest.preprocessing, available_cores())
    decoded = list(islice((image for image in images_there if image.pixels is not None), EXPORT_IMAGES))
    return decoded, _embedded(model, decoded)


def _gallery_images(model: Model) -> tuple[list[Decoded], Features]:
    """Normals that are still on this disk, spread over the gallery, and their features there.

    A gallery of rounded features or of centroids does not hold those; the model's extractor gives them again.
    """
    spread = np.linspace(0, len(model.normals) - 1, min(EXPORT_IMAGES, len(model.normals))).astype(int)
    sources = [Source(model.normals[i]) for i in spread]
    decoded = list(decode_all(sources, model.manifest.preprocessing, available_cores()))
    readable = [i for i, image in enumerate(decoded) if image.pixels is not None]
    there = [decoded[i] for i in readable]
    if not model.gallery.exact or (model.manifest.gallery.reduced or "").startswith("kmeans"):
        return there, _embedded(model, there)
    return there, model.gallery.vectors()[spread[readable]]


def _embedded(model: Model, decoded: list[Decoded]) -> Features:
    if not decoded:
        return np.empty((0, model.gallery.dim), np.float32)
    return np.concatenate([features for _, features in model.extractor.embed(decoded)])
