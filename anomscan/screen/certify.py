"""What a model catches, before any real defect is there: made defects of graded size and contrast.

They are made onto normal images that the model has not learnt from, written as files, and scored as incoming
images are. Made defects are not real ones: what is not caught here will hardly be caught there, and what is
caught here may still be missed there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from anomscan.errors import CalibrationTooSmall, InputError, UnreadableImage
from anomscan.images.decode import decode_all, source_named
from anomscan.images.defects import DEFECTS, Defect, places, whole_image, with_defect, write_image
from anomscan.images.find import Found, Source, Unreadable
from anomscan.model.model import Model
from anomscan.model.whereabouts import Whereabouts
from anomscan.pipeline import available_cores, in_order
from anomscan.screen.decide import check
from anomscan.screen.screener import Screener
from anomscan.stats.catch import Catch, catch
from anomscan.stats.decision import Decision
from anomscan.types import Box, Pixels, Progress, Reading

SIZES = (0.01, 0.02, 0.04, 0.08, 0.16)
"""Shares of the shorter side of what is looked at."""
CONTRASTS = (10.0, 20.0, 40.0, 80.0, 160.0)
"""Grey levels of 255."""
FIXED_SIZE, FIXED_CONTRAST = 0.08, 80.0
"""At which contrasts, and sizes, are graded."""
DRAWS = 20
"""Defects of a kind, a size and a contrast, where no other number was asked for."""
FEWEST = 5
"""Normal images that defects are made onto, at least."""


@dataclass(frozen=True)
class Trial:
    """One made defect: its kind, or None for none at all, and the number of the image that it is made on."""

    kind: str | None
    size: float
    contrast: float
    source: int
    seed: int


@dataclass(frozen=True)
class Example:
    """A made defect to look at: the image, where the defect is, and its p-value."""

    pixels: Pixels
    box: Box
    size: float
    contrast: float


@dataclass(frozen=True)
class Graded:
    """How a kind of defect is caught, by its size and by its contrast, and what it looks like."""

    by_size: Catch
    by_contrast: Catch
    example: Example


@dataclass(frozen=True)
class Certificate:
    """What a model catches at a rate of false alarms.

    ``kinds`` are those of made defects; ``alarms`` of ``clean`` images without one were called anomalous,
    where they are none of the held-out normals, which were said to be normal; ``images`` is how many normals
    defects were made onto, ``draws`` how many of each kind and grade.
    """

    fpr: float
    images: int
    draws: int
    clean: int
    alarms: int
    kinds: dict[str, Graded] = field(default_factory=dict)


def certify(
    model: Model,
    normals: Sequence[str],
    fpr: float,
    progress: Progress,
    draws: int = DRAWS,
    seed: int = 0,
    defects: Mapping[str, Defect] = DEFECTS,
    contrasts: Sequence[float] = CONTRASTS,
) -> Certificate:
    """Make defects onto normal images and score them.

    Args:
        model: with held-out normals.
        normals: paths of normal images, none of them in the gallery.
        fpr: at most that share of normals is called anomalous.
        progress: see ``types.Progress``.
        draws: defects of a kind, a size and a contrast.
        seed: of places, shapes and resampling.
        defects: what to make.
        contrasts: of them, at ``FIXED_SIZE``; those of every size have ``FIXED_CONTRAST``.

    Raises:
        CalibrationTooSmall: ``fpr`` is out of the model's reach.
        InputError: fewer than ``FEWEST`` normals can be read, or the model learnt from one of them.
    """
    check(Decision(fpr=fpr), model.calibration)
    reading = model.manifest.preprocessing.reading
    sources = _readable(model, normals, reading)
    held = _held_out(model)
    trials = [Trial(None, 0.0, 0.0, i, 0) for i, path in enumerate(sources) if path not in held]
    trials += _trials(len(sources), draws, seed, list(defects), contrasts)
    p_values = np.array(list(_scored(model, sources, trials, defects, progress)))
    caught = p_values <= fpr
    clean = np.array([trial.kind is None for trial in trials])
    found = {
        kind: Graded(
            _by_size(trials, caught, kind, seed),
            _by_contrast(trials, caught, kind, seed, contrasts),
            _example(sources, trials, caught, kind, defects, reading),
        )
        for kind in defects
    }
    return Certificate(fpr, len(sources), draws, int(clean.sum()), int((clean & caught).sum()), found)


def held_out_images(model: Model) -> list[str]:
    """Paths of the held-out normals of a model that may be opened, see ``Whereabouts``.

    Raises:
        CalibrationTooSmall: it has none.
        InputError: all of its normals calibrate and none is held out.
    """
    info = model.manifest.calibration
    if model.calibration is None or info is None:
        raise CalibrationTooSmall(
            "certify needs held-out normals and the model has none; index or adapt again, with --holdout "
            "above 0, or run 'anomscan calibrate' with other normals"
        )
    if model.calibration.gallery is not None:
        raise InputError(
            "certify makes defects onto normals that the model does not compare with, and of this model all "
            "calibrate and none is held out; name a folder of others, or index again with --holdout 0.2"
        )
    return list(_held_out(model))


def _held_out(model: Model) -> dict[str, str]:
    """Where the held-out normals are that may be opened, and as what the calibration knows each."""
    calibration, info = model.calibration, model.manifest.calibration
    if calibration is None or calibration.gallery is not None or info is None:
        return {}
    where = Whereabouts(info.root)
    return {place: path for path in calibration.paths if (place := where.of(path)) is not None}


def made(sources: Sequence[str], trial: Trial, defects: Mapping[str, Defect], reading: Reading) -> Example:
    """The image of a trial; raises UnreadableImage."""
    pixels = whole_image(sources[trial.source], reading)
    if trial.kind is None:
        return Example(pixels, (0, 0, pixels.shape[1], pixels.shape[0]), 0.0, 0.0)
    generator = np.random.default_rng((trial.seed, trial.source))
    where = places(pixels, reading)
    changed, (row, column) = with_defect(
        pixels, where, defects[trial.kind], trial.size, trial.contrast, generator, reading
    )
    reach = max(24, int(1.5 * trial.size * min(pixels.shape[:2])))
    top, left = max(0, row - reach), max(0, column - reach)
    bottom, right = min(pixels.shape[0], row + reach), min(pixels.shape[1], column + reach)
    return Example(changed, (left, top, right - left, bottom - top), trial.size, trial.contrast)


def _readable(model: Model, normals: Sequence[str], reading: Reading) -> list[str]:
    """The normals that can be read; none of them may be in the gallery."""
    screener, kept = Screener(model), []
    wanted: list[Found] = [source_named(path) for path in normals]
    held = _held_out(model)
    for scored in screener.stream(decode_all(wanted, model.manifest.preprocessing, available_cores())):
        if isinstance(scored, Unreadable):
            continue
        neighbours = model.gallery.search(scored.outputs.image, 1)[1][:, 0]
        learnt = model.gallery.holds(scored.outputs.image, neighbours)
        for image, known in zip(scored.images, learnt, strict=True):
            if known and image.path not in held:
                raise InputError(
                    f"{image.path} is among the normals that the model compares with; certify with others"
                )
            kept.append(image.path)
    if len(kept) < FEWEST:
        raise InputError(
            f"{len(kept)} of the {len(normals)} held-out normals can be read, and {FEWEST} are needed: name "
            "a folder of normal images that the model has not seen"
        )
    return kept


def _trials(
    images: int, draws: int, seed: int, kinds: Sequence[str], contrasts: Sequence[float]
) -> Iterator[Trial]:
    """Every kind at every size and contrast, on images in turn."""
    generator = np.random.default_rng(seed)
    grades = [(size, FIXED_CONTRAST) for size in SIZES]
    grades += [(FIXED_SIZE, contrast) for contrast in contrasts if contrast != FIXED_CONTRAST]
    for kind in kinds:
        for size, contrast in grades:
            order = np.concatenate([generator.permutation(images) for _ in range(-(-draws // images))])
            for source in order[:draws]:
                yield Trial(kind, size, contrast, int(source), int(generator.integers(1 << 31)))


def _scored(
    model: Model,
    sources: Sequence[str],
    trials: Sequence[Trial],
    defects: Mapping[str, Defect],
    progress: Progress,
) -> Iterator[float]:
    """The p-value of every trial, in order; 1 for one whose image has gone meanwhile."""
    screener, threads, done = Screener(model), available_cores(), 0
    calibration, held = screener.calibration, _held_out(model)
    assert calibration is not None  # noqa: S101 - it was checked
    with tempfile.TemporaryDirectory(prefix="anomscan-") as folder:
        make = _maker(Path(folder), sources, trials, defects, model.manifest.preprocessing.reading)
        files = in_order(make, range(len(trials)), threads, 4 * threads)
        found: dict[int, float] = {}
        for scored in screener.stream(decode_all(files, model.manifest.preprocessing, threads)):
            if isinstance(scored, Unreadable):
                found[int(Path(scored.path).stem)] = 1.0
                continue
            numbers = [int(Path(image.path).stem) for image in scored.images]
            normals = [held.get(sources[trials[number].source]) for number in numbers]
            p_values = calibration.p_values_of_changed(scored.scores, normals)
            found |= zip(numbers, np.where(scored.known, 1.0, p_values).tolist(), strict=True)
            for image in scored.images:
                Path(image.path).unlink()
            done += len(numbers)
            progress("scoring made defects", done, len(trials), "")
        yield from (found[i] for i in range(len(trials)))


def _maker(
    folder: Path,
    sources: Sequence[str],
    trials: Sequence[Trial],
    defects: Mapping[str, Defect],
    reading: Reading,
) -> Callable[[int], Found]:
    def make(number: int) -> Found:
        file = folder / f"{number}.png"
        try:
            write_image(made(sources, trials[number], defects, reading).pixels, file)
        except UnreadableImage as error:
            return Unreadable(str(file), str(error))
        return Source(str(file))

    return make


def _by_size(trials: Sequence[Trial], caught: np.ndarray, kind: str, seed: int) -> Catch:
    rows = [i for i, trial in enumerate(trials) if (trial.kind, trial.contrast) == (kind, FIXED_CONTRAST)]
    return _graded(SIZES, [trials[i].size for i in rows], rows, trials, caught, seed)


def _by_contrast(
    trials: Sequence[Trial], caught: np.ndarray, kind: str, seed: int, contrasts: Sequence[float]
) -> Catch:
    rows = [i for i, trial in enumerate(trials) if (trial.kind, trial.size) == (kind, FIXED_SIZE)]
    return _graded(contrasts, [trials[i].contrast for i in rows], rows, trials, caught, seed)


def _graded(
    steps: Sequence[float],
    grades: Sequence[float],
    rows: list[int],
    trials: Sequence[Trial],
    caught: np.ndarray,
    seed: int,
) -> Catch:
    """The curve through some of the trials, each of one of the ``steps``."""
    numbers = np.array([steps.index(grade) for grade in grades], np.int64)
    sources = np.array([trials[i].source for i in rows], np.int64)
    return catch(np.array(steps, np.float64), numbers, caught[rows], sources, seed)


def _example(
    sources: Sequence[str],
    trials: Sequence[Trial],
    caught: np.ndarray,
    kind: str,
    defects: Mapping[str, Defect],
    reading: Reading,
) -> Example:
    """The smallest defect that was caught; where none was, the largest."""
    own = [i for i, trial in enumerate(trials) if trial.kind == kind]
    hits = [i for i in own if caught[i]]
    best = min(hits, key=lambda i: (trials[i].size, -trials[i].contrast), default=None)
    shown = best if best is not None else max(own, key=lambda i: (trials[i].size, trials[i].contrast))
    return made(sources, trials[shown], defects, reading)
