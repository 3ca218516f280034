"""From a model folder to an ONNX file for other programs."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from itertools import islice

import numpy as np

from anomscan.errors import NoImages, ParityError, UsageError
from anomscan.files.atomic import whole_file
from anomscan.fit.int8 import make_int8
from anomscan.images.decode import Decoded, decode_all
from anomscan.images.find import Found, Unreadable, find
from anomscan.model.folder import verified
from anomscan.model.model import Model, read_model
from anomscan.model.whereabouts import Whereabouts
from anomscan.network.extractor import Extractor
from anomscan.network.network import EXTRACTOR, Int8Info
from anomscan.pipeline import available_cores
from anomscan.scoring.reduction import Reduction
from anomscan.spread import spread_over
from anomscan.types import Outputs, Progress

EXPORT_IMAGES = 64
EXPORT_TOLERANCE = 1e-4
"""Largest difference of a score between an exported file and its model; relative to scores above 1."""


def export_int8(
    folder: str, out: str, images: list[str], normals: Sequence[str] = (), *, force: bool
) -> Int8Info:
    """Write an 8-bit version of the extractor of ``folder`` to ``out``.

    Args:
        folder: the model folder.
        out: the ONNX file to write.
        images: normal images or folders to calibrate with; with none, the normals still on this disk.
        normals: folders in which those may be looked for, too.
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
    where = Whereabouts(model.manifest.data.root, normals)
    used: list[Found] = list(find(images)) if images else where.sources(dict.fromkeys(model.normals))
    if not used:
        raise nothing_to_check_with(where)
    graph, metric = verified(folder, model.manifest, EXTRACTOR), model.manifest.scorer.metric
    with whole_file(out) as partial:
        return make_int8(graph, partial, used, model.manifest.preprocessing, metric, force=force)


def export(
    folder: str, out: str, images: list[str], progress: Progress, normals: Sequence[str] = ()
) -> float:
    """Write the extractor of ``folder`` to ``out``, after re-scoring real images with the written file.

    Args:
        folder: the model folder.
        out: the ONNX file to write.
        images: images or folders to check with, against the model's own extractor; with none, the
            normals still on this disk are checked against the features in the index.
        progress: see ``types.Progress``.
        normals: folders in which those may be looked for, too.

    Returns:
        The largest difference of a score that was seen, at most ``EXPORT_TOLERANCE``.

    Raises:
        ParityError: a score differs, ``out`` was not written.
        NoImages: there is nothing to check with.
        ModelError, OutputError: the model cannot be used, ``out`` cannot be written.
    """
    threads = available_cores()
    model = read_model(folder, threads)
    where = Whereabouts(model.manifest.data.root, normals)
    decoded, expected = _given_images(model, images) if images else _gallery_images(model, where)
    if expected is None:
        raise nothing_to_check_with(where)
    with whole_file(out) as partial:
        shutil.copyfile(verified(folder, model.manifest, EXTRACTOR), partial)
        progress("re-scoring with the exported file", 0, len(decoded), "")
        difference = _difference(model, expected, _embedded(Extractor(partial, threads), decoded))
        if not difference <= EXPORT_TOLERANCE:
            raise ParityError(
                f"the exported file scores real images differently, by up to {difference:.2g}, so it was not "
                "written; if the normals have changed since the index was built, run 'anomscan index' again"
            )
    return difference


def _difference(model: Model, expected: Outputs, found: Outputs) -> float:
    """The largest difference of a score; relative to scores above 1."""
    k = model.manifest.scorer.k
    before, after = model.scorer.score(expected, k), model.scorer.score(found, k)
    return float((np.abs(after - before) / np.maximum(1, np.abs(before))).max())


def _most(model: Model) -> int:
    """Images to check with; fewer where each has several tiles."""
    return max(1, EXPORT_IMAGES // model.manifest.preprocessing.tile_count)


def _given_images(model: Model, images: list[str]) -> tuple[list[Decoded], Outputs | None]:
    found = decode_all(find(images), model.manifest.preprocessing, available_cores())
    readable = (image for image in found if isinstance(image, Decoded))
    decoded = list(islice(readable, _most(model)))
    return decoded, _embedded(model.extractor, decoded) if decoded else None


def nothing_to_check_with(where: Whereabouts) -> NoImages:
    """The error where no normal may be opened."""
    why = where.remark() or "the normals cannot be read"
    return NoImages(f"no image to check the exported file with: {why}, or name a few images with --images")


def _gallery_images(model: Model, where: Whereabouts) -> tuple[list[Decoded], Outputs | None]:
    """Normals that are still on this disk, spread over the gallery, and their features there.

    A gallery of rounded features, of centroids, of tiles or of a few patches does not hold those; the model's
    extractor gives them again.
    """
    count = len(model.normals)
    spread = spread_over(count, _most(model))
    spread = np.array([i for i in spread if where.of(model.normals[i]) is not None], int)
    sources = where.sources(model.normals[i] for i in spread)
    decoded = list(decode_all(sources, model.manifest.preprocessing, available_cores()))
    readable = [i for i, image in enumerate(decoded) if isinstance(image, Decoded)]
    there = [image for image in decoded if isinstance(image, Decoded)]
    if not there:
        return [], None
    reduced = model.manifest.gallery.reduced
    tiles = model.manifest.preprocessing.tiles
    rounded = not model.gallery.exact or (reduced and not Reduction.parse(reduced).keeps_normals)
    if model.patches or tiles or rounded:
        return there, _embedded(model.extractor, there)
    return there, Outputs(model.gallery.vectors()[spread[readable]])


def _embedded(extractor: Extractor, decoded: list[Decoded]) -> Outputs:
    batches = extractor.embed(decoded)
    return Outputs.joined([batch.outputs for batch in batches if not isinstance(batch, Unreadable)])
