"""Whether more normals would help: the same comparison with a quarter, a half and all of them.

Made defects and held-out normals are scored by galleries of fewer normals. At each, the limit is set where it
catches the same share of the defects, and what counts is how many normals lie above it. That share falls, if
at all, about as a power of the number of normals, and the power says how many more would halve it. With few
held-out normals a share is coarse, so that every score counts as a small bell around itself.

The network stays as it is, and what it learnt from all normals with it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomscan.errors import InputError, UnreadableImage, UsageError
from anomscan.fit.embed import by, embed
from anomscan.fit.held_out import Kept, spread
from anomscan.images.defects import DEFECTS, places, whole_image, with_defect, write_image
from anomscan.images.find import Found, Source
from anomscan.model.model import Model
from anomscan.model.whereabouts import Whereabouts
from anomscan.scoring.base import Scorer
from anomscan.scoring.registry import patched_class, scorer_class
from anomscan.scoring.tiled import tiled
from anomscan.stats.calibration import Floats
from anomscan.types import Features, Outputs, Progress

SHARES, DRAWS = (0.25, 0.5, 1.0), (3, 2, 1)
"""Shares of the normals, and how often each is drawn."""
SIZES, CONTRAST, EACH = (0.04, 0.08), 80.0, 8
"""Of the defects: shares of the side, grey levels, and how many of each kind and size."""
FEWEST = 16
"""Normals of which a quarter is a gallery."""
FEWEST_HELD_OUT = 5
CONFIDENCE, RESAMPLES = 0.9, 300
_FEWEST_ALARMS = 1e-3
_FARTHEST = 10
"""More than so many times as many normals are not extrapolated to."""


@dataclass(frozen=True)
class Step:
    """So many normals, and the share of false alarms with them, from ``low`` to ``high``."""

    normals: int
    alarms: float
    low: float
    high: float


@dataclass(frozen=True)
class Enough:
    """How false alarms fall with the number of normals, at the same detection.

    ``power`` is how fast: the share of false alarms goes as the number of normals to minus that.
    """

    detection: float
    steps: list[Step]
    power: float
    low: float
    high: float

    def sentence(self) -> str:
        """What that means, with its uncertainty."""
        normals = self.steps[-1].normals
        if self.low > 0:
            most = self._more(self.low)
            upper = f"{most}" if most is not None else f"over {_FARTHEST * normals}"
            middle, least = self._more(self.power), self._more(self.high)
            if middle is not None:
                return (
                    f"about {middle} more normals ({least} to {upper}) would halve the false alarms at the "
                    "same detection"
                )
        if self.power > 0 and (middle := self._more(self.power)) is not None:
            return (
                f"whether more normals help cannot be told: {middle} more may halve the false alarms, or "
                "bring nothing"
            )
        return "more normals of this kind bring nothing that can be measured"

    def _more(self, power: float) -> int | None:
        """How many more normals halve the false alarms; None where that is too far away to say."""
        normals = self.steps[-1].normals
        times = 2 ** (1 / power) if power > 0.01 else math.inf
        return max(1, round(normals * (times - 1))) if times <= _FARTHEST + 1 else None


def enough(model: Model, fpr: float, scratch: str, progress: Progress, seed: int = 0) -> Enough:
    """Compare with a quarter, a half and all of the normals.

    Args:
        model: whose normals, held out or not, are still on this disk.
        fpr: the share of false alarms with all of them, about.
        scratch: a folder for made images.
        progress: see ``types.Progress``.
        seed: of what is drawn.

    Raises:
        UsageError: the gallery is a reduced one.
        InputError: the normals cannot be read any more, or are too few.
    """
    if model.manifest.gallery.reduced:
        raise UsageError("the gallery no longer has every normal, so that a part of it says nothing")
    if model.calibration is not None and model.calibration.gallery is not None:
        raise InputError(
            "whether more normals would help is told by held-out ones, and of this model all calibrate and "
            "none is held out; index again with --holdout 0.2"
        )
    info, held = model.manifest.calibration, model.calibration.paths if model.calibration else []
    places = Whereabouts(model.manifest.data.root).sources(model.normals)
    held_places = Whereabouts(info.root if info else "").sources(held)
    _check(len(places), len(held_places), "where the model has them")
    normals = _Images.of(model, "embedding the normals", places, progress)
    clean = _Images.of(model, "embedding held-out normals", held_places, progress)
    _check(len(normals.outputs), len(clean.outputs), "readable")
    generator = np.random.default_rng(seed)
    files, sources = _made(model, clean.paths, scratch, generator)
    defects = _Images.of(model, "embedding made defects", list(map(Source, files)), progress)
    sources = [sources[files.index(path)] for path in defects.paths]
    drawn: list[list[tuple[Floats, Floats]]] = []
    for share, draws in zip(SHARES, DRAWS, strict=True):
        count = round(share * len(normals.outputs))
        chosen = [np.sort(generator.permutation(len(normals.outputs))[:count]) for _ in range(draws)]
        progress("comparing with fewer normals", len(drawn), len(SHARES), "")
        drawn.append([_scores(_scorer(model, normals, rows), clean, defects) for rows in chosen])
    counts = [round(share * len(normals.outputs)) for share in SHARES]
    return measure(counts, drawn, np.array(sources), fpr, generator)


def _check(normals: int, held_out: int, what: str) -> None:
    if normals < FEWEST or held_out < FEWEST_HELD_OUT:
        raise InputError(
            f"{normals} normals and {held_out} held-out ones are {what}, too few to tell whether more would "
            f"help: {FEWEST} and {FEWEST_HELD_OUT} are needed"
        )


def measure(
    counts: Sequence[int],
    drawn: Sequence[Sequence[tuple[Floats, Floats]]],
    sources: np.ndarray,
    fpr: float,
    generator: np.random.Generator,
) -> Enough:
    """From scores to what more normals bring.

    Args:
        counts: how many normals each gallery had, ascending.
        drawn: for each, by every draw of them, the scores of held-out normals and of made defects.
        sources: the held-out normal that each defect was made on.
        fpr: the share of false alarms with the most normals, about.
        generator: of the resampling.
    """
    clean, defects = drawn[-1][0]
    detection = float(np.clip((defects >= np.quantile(clean, 1 - fpr)).mean(), 0.2, 0.95))
    logs = np.log(np.array(counts, np.float64))

    def falling(alarms: Floats) -> float:
        return float(-np.polyfit(logs, np.log(alarms), 1)[0])

    everything = np.arange(len(clean)), np.arange(len(defects))
    shares = np.array(
        [
            math.exp(np.mean([math.log(_alarms(scores, *everything, detection)) for scores in draws]))
            for draws in drawn
        ]
    )
    resampled = []
    for _ in range(RESAMPLES):
        images = generator.integers(len(clean), size=len(clean))
        made = np.concatenate([np.flatnonzero(sources == image) for image in images])
        if not len(made):
            continue
        draws = [one[int(generator.integers(len(one)))] for one in drawn]
        resampled.append([_alarms(scores, images, made, detection) for scores in draws])
    tail = (1 - CONFIDENCE) / 2
    lows, highs = np.quantile(resampled, (tail, 1 - tail), axis=0)
    low, high = np.quantile([falling(np.array(alarms)) for alarms in resampled], (tail, 1 - tail))
    steps = [
        Step(*values) for values in zip(counts, shares.tolist(), lows.tolist(), highs.tolist(), strict=True)
    ]
    return Enough(detection, steps, falling(shares), float(low), float(high))


def _alarms(scores: tuple[Floats, Floats], images: np.ndarray, made: np.ndarray, detection: float) -> float:
    """The share of normals above the limit that catches ``detection`` of the defects."""
    clean, defects = scores[0][images], scores[1][made]
    limit = float(np.quantile(defects, 1 - detection))
    quarters = np.quantile(clean, (0.25, 0.75))
    width = min(float(clean.std()), float(quarters[1] - quarters[0]) / 1.34)  # Silverman's rule
    width = max(0.9 * width * len(clean) ** -0.2, 1e-6)
    above = [0.5 * math.erfc((limit - score) / width / math.sqrt(2)) for score in clean]
    return max(float(np.mean(above)), _FEWEST_ALARMS)


@dataclass(frozen=True)
class _Images:
    paths: list[str]
    outputs: Outputs
    patches: np.ndarray | None

    @classmethod
    def of(cls, model: Model, what: str, wanted: list[Found], progress: Progress) -> _Images:
        """Embed images; those that have gone are left out. Raises InputError where all have."""
        kept = Kept()
        take = [kept.add] if model.patches is not None else []
        rules = model.manifest.preprocessing
        few = spread(wanted, rules.tile_count, with_patches=bool(take))
        found = embed(what, os.curdir, few, by(model.extractor, rules), progress, take)
        return cls(found.paths, found.outputs, kept.patches())


def _made(
    model: Model, paths: Sequence[str], scratch: str, generator: np.random.Generator
) -> tuple[list[str], list[int]]:
    """Files of made defects, and the number of the image that each is made on."""
    reading = model.manifest.preprocessing.reading
    files: list[str] = []
    sources: list[int] = []
    for defect in DEFECTS.values():
        for size in SIZES:
            for number in generator.integers(len(paths), size=EACH):
                try:
                    pixels = whole_image(paths[number], reading)
                except UnreadableImage:
                    continue
                where = places(pixels, reading)
                changed, _ = with_defect(pixels, where, defect, size, CONTRAST, generator, reading)
                files.append(f"{scratch}/{len(files)}.png")
                write_image(changed, Path(files[-1]))
                sources.append(int(number))
    return files, sources


def _scorer(model: Model, normals: _Images, rows: np.ndarray) -> Scorer:
    """The model's scorer, fitted on some of the normals."""
    manifest, whole, rules = model.manifest, model.scorer.whole, model.manifest.preprocessing
    scorer: Scorer = scorer_class(manifest.scorer.name)(whole.info, whole.arrays)
    info = manifest.patches
    if normals.patches is not None and info is not None:
        kind = patched_class(manifest.focus.procedure)
        bank = kind.banks(info.most, manifest.method.seed, rules.tile_count)
        bank.add(normals.patches[rows].astype(np.float32), [normals.paths[i] for i in rows])
        scorer = kind.of(scorer, info.looks, bank, manifest.method.seed, info.weight)
    scorer = tiled(scorer, rules.tiles)
    scorer.fit(Outputs(normals.outputs.image[rows]), manifest.method.seed)
    scorer.reject(model.scorer.rejects)
    return scorer


def _scores(scorer: Scorer, clean: _Images, defects: _Images) -> tuple[Floats, Floats]:
    """Of held-out normals and of defects, as logarithms where that can be."""
    both = [_score(scorer, images) for images in (clean, defects)]
    if min(scores.min() for scores in both) > 0:
        both = [np.log(scores) for scores in both]
    return both[0], both[1]


def _score(scorer: Scorer, images: _Images) -> Floats:
    features, patches = images.outputs.image, images.patches
    if patches is None:
        return scorer.score(Outputs(features), scorer.info.k).astype(np.float64)
    parts: list[Features] = []
    for i in range(0, len(features), 16):
        outputs = Outputs(features[i : i + 16], patches[i : i + 16].astype(np.float32))
        parts.append(scorer.score(scorer.compared(outputs), scorer.info.k))
    return np.concatenate(parts).astype(np.float64)
