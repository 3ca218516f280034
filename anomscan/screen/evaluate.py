"""Evaluate a model on labelled images: two folders, or a CSV file that lists them."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from anomscan.errors import InputError, UnreadableImage, UsageError
from anomscan.files.streams import ENCODING
from anomscan.images.decode import source_named
from anomscan.images.find import Found, Search, Source, find_images
from anomscan.images.masks import read_mask
from anomscan.images.overlay import source_size
from anomscan.images.part import covered
from anomscan.model.model import Model
from anomscan.report.rows import Row
from anomscan.screen.run import ScoreJob, run
from anomscan.stats.localisation import Localisation, Localised
from anomscan.stats.measures import (
    CONFIDENCE,
    RESAMPLES,
    auroc_of,
    average_precision_of,
    bootstrap_intervals,
    count_by_score,
    fpr_at_target_of,
)
from anomscan.stats.regions import Mask
from anomscan.text import printable
from anomscan.types import PatchMaps, Progress, Reading

_ALL = 1 << 40
"""More images than are evaluated."""
COLUMNS = ("path", "anomalous")
"""What the first line of a labels file names, among others that are ignored."""


@dataclass(frozen=True)
class Labelled:
    """Images whose kind is known, each kind in a stable order."""

    normal: Sequence[Found]
    anomalous: Sequence[Found]


@dataclass(frozen=True)
class Estimate:
    """A measure of the images at hand, and its bootstrap interval of ``CONFIDENCE``; all in [0, 1]."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Evaluation:
    """How well a model separates labelled images.

    ``normal`` and ``anomalous`` count the images in the figures, ``unreadable`` those left out of them;
    ``localised`` is how well the maps point at the defects, where masks were given.
    """

    auroc: Estimate
    average_precision: Estimate
    fpr_at_95_tpr: Estimate
    normal: int
    anomalous: int
    unreadable: int
    confidence: float
    resamples: int
    seed: int
    localised: Localised | None = None


def labelled(normal: str, anomalous: str | None, exclude: Sequence[str] = ()) -> Labelled:
    """The images of two folders, or, without ``anomalous``, those that the labels file ``normal`` lists.

    Raises:
        UsageError: one folder alone, a file where a folder belongs, or one folder inside the other.
        InputError: a path that does not exist, or a labels file that ``read_labels`` refuses.
        NoImages: a folder without images.
    """
    if anomalous is None:
        if os.path.isdir(normal):
            raise UsageError(
                f"{printable(normal)} is a folder: name the folder of anomalous images after it, "
                "or a CSV file with the columns path,anomalous instead"
            )
        return read_labels(normal)
    for folder in (normal, anomalous):
        if os.path.isfile(folder):
            raise UsageError(f"{printable(folder)} is a file: name two folders, or one labels file alone")
    real = [os.path.realpath(normal), os.path.realpath(anomalous)]
    if os.path.commonpath(real) in real:
        raise UsageError(
            f"{printable(normal)} and {printable(anomalous)} share images: one folder lies in the other"
        )
    return Labelled(*(find_images(folder, Search(exclude)) for folder in (normal, anomalous)))


def read_labels(file: str) -> Labelled:
    """The images that a CSV file lists, with the columns ``path`` and ``anomalous`` (0 or 1).

    UTF-8, with or without a byte order mark; a name that is not UTF-8 keeps its bytes, as in the CSV that
    ``score`` writes. A relative path starts at the folder of ``file``. Whether an image exists is found out
    when it is read.

    Raises:
        InputError: ``file`` cannot be read, lacks a column, has an empty path, a path twice or another
            label than 0 and 1, or lists one kind only.
    """
    folder, name = os.path.dirname(file), printable(file)
    paths: dict[str, list[str]] = {"0": [], "1": []}
    seen: set[str] = set()
    try:
        with open(file, **{**ENCODING, "encoding": "utf-8-sig"}) as lines:  # type: ignore[call-overload]
            reader = csv.DictReader(lines)
            if not set(COLUMNS) <= set(reader.fieldnames or ()):
                raise InputError(f"{name}: the first line must name the columns path,anomalous")
            for row in reader:
                path, label = row["path"], row["anomalous"] or ""
                where = f"{name}, line {reader.line_num}"
                if not path:
                    raise InputError(f"{where}: the path is empty")
                if label not in paths:
                    raise InputError(f"{where}: anomalous must be 0 or 1, not '{printable(label)}'")
                if path in seen:
                    raise InputError(f"{where}: {printable(path)} is listed twice")
                seen.add(path)
                paths[label].append(os.path.join(folder, path))
    except OSError as error:
        raise InputError(f"{name}: {error.strerror}") from error
    except csv.Error as error:
        raise InputError(f"{name}, line {reader.line_num + 1}: not CSV ({error})") from error
    for label, kind in (("0", "normal"), ("1", "anomalous")):
        if not paths[label]:
            raise InputError(f"{name} lists no {kind} image: an evaluation needs both kinds")
    return Labelled(*([Source(path) for path in paths[label]] for label in "01"))


def evaluate(
    images: Labelled,
    model: Model,
    k: int | None,
    seed: int,
    progress: Progress,
    left_out: Callable[[Row], None],
    masks: str | None = None,
) -> Evaluation:
    """Score labelled images and measure how well that tells the kinds apart.

    Args:
        images: of both kinds.
        model: scores them.
        k: neighbours; None takes the model's.
        seed: of the bootstrap.
        progress: see ``types.Progress``.
        left_out: is told of every file that could not be read, also where that ends the evaluation.
        masks: a folder with a picture for anomalous images, of its name and ``.png``: white is the defect.

    Raises:
        InputError: of one kind, not a single image could be read; or no mask.
        GalleryTooSmall, UsageError: see ``Screener``.
    """
    if masks is not None and not model.patches:
        raise UsageError("the model looks at whole images and has no maps to compare with --masks")
    keep = 0 if masks is None else _ALL
    with (
        run(ScoreJob(images.normal, model, k=k, keep=keep), progress) as normal,
        run(ScoreJob(images.anomalous, model, k=k, keep=keep), progress) as anomalous,
    ):
        for row in (*normal.ranking.rows(0), *anomalous.ranking.rows(0)):
            left_out(row)
        result = measure(normal.ranking.rows(), anomalous.ranking.rows(), seed)
        if masks is None:
            return result
        reading = model.manifest.preprocessing.reading
        found = _localised(normal.sample.maps(), anomalous.sample.maps(), masks, reading)
        return replace(result, localised=found)


def _localised(
    normal: dict[str, PatchMaps], anomalous: dict[str, PatchMaps], masks: str, reading: Reading
) -> Localised:
    """How well maps point at the defects, where they look; anomalous images without a mask are left out."""
    localisation = Localisation()
    for path, maps in normal.items():
        localisation.add(maps.distances[0], None, covered(reading, source_size(path))[2:])
    for path, maps in anomalous.items():
        mask = Path(masks, Path(source_named(path).path).stem + ".png")
        if mask.exists():
            defect = _mask(mask)
            x, y, width, height = covered(reading, (defect.shape[1], defect.shape[0]))
            seen = defect[y : y + height, x : x + width]
            localisation.add(maps.distances[0], seen, (width, height))
    found = localisation.measured()
    if found is None:
        raise InputError(f"{printable(masks)} has no mask for any of the anomalous images")
    return found


def _mask(path: Path) -> Mask:
    try:
        return read_mask(str(path))
    except UnreadableImage as error:
        raise InputError(f"the mask {printable(str(path))} cannot be read: {error}") from error


def measure(normal: Iterable[Row], anomalous: Iterable[Row], seed: int) -> Evaluation:
    """Every measure, with its interval, of the rows that have a score.

    Args:
        normal: the normal images, scored; in any order.
        anomalous: the anomalous ones.
        seed: of the bootstrap.

    Raises:
        InputError: of one kind, not a single image could be read.
    """
    kinds, unreadable = [], 0
    for rows, kind in ((normal, "normal"), (anomalous, "anomalous")):
        values = np.fromiter((np.nan if row.score is None else row.score for row in rows), np.float64)
        kinds.append(values[~np.isnan(values)])
        unreadable += len(values) - len(kinds[-1])
        if not len(kinds[-1]):
            raise InputError(f"not one of the {len(values)} {kind} images could be read")
    scores, labels = np.concatenate(kinds), np.repeat([False, True], [len(kinds[0]), len(kinds[1])])
    measures = (auroc_of, average_precision_of, fpr_at_target_of)
    intervals = bootstrap_intervals(scores, labels, measures, seed)
    counts = count_by_score(scores, labels)
    area, precision, alarms = (
        Estimate(float(measure(*counts)), float(low), float(high))
        for measure, (low, high) in zip(measures, intervals, strict=True)
    )
    return Evaluation(
        area, precision, alarms, len(kinds[0]), len(kinds[1]), unreadable, CONFIDENCE, RESAMPLES, seed
    )
