"""From a model folder to one ONNX file that scores by itself: image in, score and p-value out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np

from anomscan.errors import CalibrationTooSmall, NoImages, UsageError
from anomscan.files.atomic import whole_file
from anomscan.fit.export import nothing_to_check_with
from anomscan.fit.held_out import HeldOut
from anomscan.fit.int8 import make_int8
from anomscan.fit.parity import Parity, compare
from anomscan.fit.scored_graph import ScoredGraph, embedded
from anomscan.images.decode import Decoded, decode_all
from anomscan.images.find import Found, Unreadable, find
from anomscan.model.model import Model, read_model
from anomscan.model.whereabouts import Whereabouts
from anomscan.network.backends import backends
from anomscan.network.extractor import Extractor
from anomscan.network.graph import Graph
from anomscan.pipeline import available_cores
from anomscan.scoring.base import Scorer
from anomscan.spread import spread_over
from anomscan.stats.calibration import Calibration
from anomscan.types import Outputs, Progress

NAMED_IMAGES = 1000
"""Of the images of ``--images`` that a file is checked with, at most."""
OF_A_KIND = 32
"""Normals of the gallery, and held-out ones, that it is checked with where none are named."""
DEFAULT_FPR = 0.05


@dataclass(frozen=True)
class ScoredOptions:
    """How a file with the scorer is made and checked.

    ``images`` to check with, none for the normals, which may have moved to the folders ``normals``; ``fpr``
    is the rate that decisions are compared at, None for ``DEFAULT_FPR`` or the smallest that there is;
    ``int8`` and ``fp16`` are how the network's weights are kept; ``force`` takes 8 bits whatever they do to
    the ranks.
    """

    images: tuple[str, ...] = ()
    fpr: float | None = None
    int8: bool = False
    fp16: bool = False
    force: bool = False
    normals: tuple[str, ...] = ()


def export_scored(folder: str, out: str, options: ScoredOptions, progress: Progress) -> Parity:
    """Write the model of ``folder`` as one ONNX file, image in and score out, and a report of its parity.

    The report is ``out`` with ``.parity.json`` in the place of its suffix. Where weights are rounded, the
    held-out normals are scored anew by what is in the file.

    Returns:
        What was compared, and how it came out.

    Raises:
        ParityError: the file says something else of real images than the model; nothing was written.
        Int8Differs: see ``make_int8``.
        NoImages: there is nothing to check with, or the held-out normals are gone that must be read again.
        CalibrationTooSmall: the model cannot decide at ``fpr``.
        UsageError: the scorer cannot be written as ONNX, or the extractor has 8 bits already.
        ModelError, OutputError: the model cannot be used, ``out`` cannot be written.
    """
    threads = available_cores()
    model = read_model(folder, threads)
    fpr = _rate(model.calibration, options.fpr)
    where = Whereabouts(model.manifest.data.root, options.normals)
    images = _to_check_with(model, list(options.images), where)
    report = f"{os.path.splitext(out)[0]}.parity.json"
    with whole_file(out) as partial, whole_file(report) as record, tempfile.TemporaryDirectory() as scratch:
        own = ScoredGraph.of(folder, model)
        scored = _in_the_file(model, own, options, Path(scratch))
        scored.write(partial)
        progress("scoring with the exported file", 0, len(images), "")
        other = None if scored is own else own.results(images)
        strict = not options.int8 and model.manifest.int8 is None
        loaded = backends(partial, threads)
        parity = compare(scored, loaded, images, other, model.normals, fpr, threads, strict=strict)
        parity.save(record, {"model": model.manifest.id, "file": os.path.basename(out)})
    return parity


def _rate(calibration: Calibration | None, fpr: float | None) -> float | None:
    """The rate of false alarms to decide by; None without p-values."""
    if calibration is None:
        if fpr is not None:
            raise CalibrationTooSmall(
                "--fpr needs held-out normals and the model has none; run 'anomscan calibrate' with others"
            )
        return None
    if fpr is None:
        return max(DEFAULT_FPR, 1 / (calibration.groups + 1))
    calibration.require(fpr, "--fpr")
    return fpr


def _to_check_with(model: Model, named: list[str], where: Whereabouts) -> list[Decoded]:
    """Images to score, at most ``NAMED_IMAGES``.

    With none named these are normals of the gallery, held-out ones, and both mirrored: a normal itself is
    known and has a p-value of 1 whatever its score.
    """
    threads, preprocessing = available_cores(), model.manifest.preprocessing
    if named:
        found = decode_all(find(named), preprocessing, threads)
        images = list(islice((image for image in found if isinstance(image, Decoded)), NAMED_IMAGES))
    else:
        calibration = model.calibration
        held_out = calibration.paths if calibration and calibration.gallery is None else []
        sources = where.sources(chain(_some(model.normals), _some(held_out)))
        there = [image for image in decode_all(sources, preprocessing, threads) if isinstance(image, Decoded)]
        images = [*there, *map(_mirrored, there)]
    if not images:
        raise nothing_to_check_with(where)
    return images


def _some(paths: list[str]) -> Iterator[str]:
    """At most ``OF_A_KIND`` of them, evenly spread."""
    return (paths[i] for i in spread_over(len(paths), OF_A_KIND))


def _mirrored(image: Decoded) -> Decoded:
    return replace(image, path=f"{image.path} (mirrored)", pixels=np.ascontiguousarray(image.pixels[:, ::-1]))


def _in_the_file(model: Model, own: ScoredGraph, options: ScoredOptions, scratch: Path) -> ScoredGraph:
    """What goes into the file: the weights as asked for, p-values by those."""
    graph = _rounded(model, own.graph, options, scratch)
    if graph == own.graph:
        return own
    extractor = Extractor(graph, available_cores())
    calibration = _read_again(model, extractor, own.scorer, options.normals)
    return replace(own, graph=graph, extractor=extractor, calibration=calibration)


def _rounded(model: Model, graph: Path, options: ScoredOptions, scratch: Path) -> Path:
    """The extractor's file with 8-bit weights, or with 16-bit ones, or as it is."""
    manifest = model.manifest
    if options.int8:
        if manifest.int8 is not None:
            raise UsageError("the model's extractor has 8 bits already; leave --int8 out")
        where = Whereabouts(manifest.data.root, options.normals)
        found: Iterable[Found] = (
            find(list(options.images)) if options.images else where.sources(model.normals)
        )
        out, metric = scratch / "int8.onnx", manifest.scorer.metric
        make_int8(graph, out, list(found), manifest.preprocessing, metric, force=options.force)
        graph = out
    if options.fp16:
        rounded = Graph(graph)
        rounded.round()
        graph = scratch / "fp16.onnx"
        rounded.save(graph, {})
    return graph


def _read_again(
    model: Model, extractor: Extractor, scorer: Scorer, normals: tuple[str, ...]
) -> Calibration | None:
    """The normals that calibrate by another extractor; raises NoImages where one of them is gone."""
    known, info = model.calibration, model.manifest.calibration
    if known is None or info is None:
        return None
    sources = Whereabouts(info.root, normals).sources(known.paths)
    images = decode_all(sources, model.manifest.preprocessing, available_cores())
    there = [image for image in images if isinstance(image, Decoded)]
    if gone := len(known.paths) - len(there):
        raise NoImages(
            f"{gone} of the {len(known.paths)} {known.noun} can no longer be read, and "
            "p-values come from their scores by rounded weights; run 'anomscan calibrate' with others"
        )
    if known.gallery is None:
        outputs = embedded(extractor, scorer, there)
        return replace(known, features=outputs.image, scores=scorer.score(outputs, scorer.info.k))
    batches = [batch for batch in extractor.embed(there) if not isinstance(batch, Unreadable)]
    outputs = Outputs.joined([batch.outputs for batch in batches])
    groups = dict(zip(model.normals, known.gallery, strict=True))
    among = HeldOut(replace(known, features=outputs.image), info, outputs.patches, groups)
    return among.scored(scorer, model.normals)[0]
