"""A first look at the normals, before anything is learnt: their range, copies among them, what is odd."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from anomscan.errors import InputError
from anomscan.files.urls import absolute
from anomscan.fit.part import decide_part
from anomscan.fit.sets import Sets
from anomscan.images.find import Found, Search, Unreadable
from anomscan.images.glance import DETAIL, LEAST_DIFFERENCE, PARTS, Glance, detail_of, glance_at, span_of
from anomscan.images.isolate import sifted
from anomscan.images.levels import decide, parse_range
from anomscan.pipeline import available_cores, in_order
from anomscan.scoring.gallery import Gallery
from anomscan.text import many, printable
from anomscan.types import MAX_PIXELS, Features, Levels, Part, Progress, Reading

FEWEST_LEVELS = 64
"""Grey levels below which an image is said to use few."""
COPY, COPY_OF_ANY = 0.2, 0.03
"""Distance of two small pictures up to which one is a copy of the other: as a share of the distance to the
eighth nearest, in the middle of the normals, or of that of any two, whichever is more."""
SAME_DETAIL = 0.35
"""Correlation of fine detail above which near pictures are copies, where they have little noise."""
NOISE, DETAIL_AND_NOISE, SAME_NOISE = 2.0, 0.2, 0.15
"""Where the middle detail of both is this much, they are copies above both of these correlations: of the
detail, and of it without its edges. Other shots of a part in the same place share the edges alone."""
_NEIGHBOURS = 8
_DETAILS_KEPT = 64
_NAMED = 3


@dataclass(frozen=True)
class Look:
    """What a look at the normals showed.

    ``reading`` is how these images, and incoming ones, are read; ``copies`` gives every image that has
    copies the number of its set; ``notes`` are sentences for the user.
    """

    reading: Reading
    copies: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def by_absolute_path(self) -> dict[str, int]:
        """``copies``, by the paths that a model records."""
        return {absolute(path): number for path, number in self.copies.items()}


@dataclass(frozen=True)
class Gathering:
    """Which files are normals, and how they are read.

    ``exclude`` are globs of names to pass over; ``range`` is ``LO:HI`` or ``file``, as on the command line:
    by default the normals decide; ``max_pixels`` see ``Reading``. ``region``, ``mask`` and ``part`` say what
    of them is looked at, see ``decide_part``. With ``isolate`` all are first decoded in processes of their
    own, each in at most so many seconds, see ``sifted``.
    """

    exclude: tuple[str, ...] = ()
    range: str | None = None
    max_pixels: int = MAX_PIXELS
    region: str | None = None
    mask: str | None = None
    part: Part | None = None
    isolate: float | None = None

    def search(self) -> Search:
        """What finds them."""
        return Search(exclude=self.exclude)

    def sift(self, sources: list[Found], progress: Progress) -> list[Found]:
        """The sources, those unreadable that are not to be decoded here."""
        if self.isolate is None:
            return sources
        return sifted(sources, self.isolate, self.max_pixels, progress)

    def look(self, sources: list[Found], progress: Progress, levels: Levels | None = None) -> Look:
        """Look at every normal, small.

        Args:
            sources: the normals.
            progress: see ``types.Progress``.
            levels: the range that the network was trained with, if it was.

        Raises:
            InputError: the normals are all but identical.
            UsageError: a range, a region or a mask that makes no sense.
        """
        if self.range:
            levels = parse_range(self.range)
        part = decide_part(sources, self.region, self.mask, self.part)
        reading = Reading(levels, beyond_16_bits=True, max_pixels=self.max_pixels, part=part)
        if levels is None:
            spans = in_order(lambda source: span_of(source, reading), sources, available_cores(), 8)
            levels = decide((span for span in spans if span is not None), by_file=self.range == "file")
            reading = replace(reading, levels=levels)
        glances = list(_glances(sources, reading, progress))
        if not glances:
            return Look(reading)
        pictures = np.stack([glance.picture for glance in glances]).astype(np.float32) / np.float32(PARTS)
        _check_not_alike(pictures, glances)
        copies = _copies(glances, pictures, reading)
        notes = [*_on_copies(copies, len(glances)), *_on_levels(glances), *_on_pages(glances)]
        reading = replace(reading, constant_tail=any(glance.constant_tail for glance in glances))
        return Look(reading, copies, notes)


EVERYTHING = Gathering()


def _glances(sources: list[Found], reading: Reading, progress: Progress) -> Iterator[Glance]:
    def look(source: Found) -> Glance | None:
        return None if isinstance(source, Unreadable) else glance_at(source, reading)

    found = in_order(look, sources, available_cores(), 64)
    for done, glance in enumerate(found, start=1):
        progress("looking at the normals", done, len(sources), "")
        if glance is not None:
            yield glance


def _check_not_alike(pictures: Features, glances: list[Glance]) -> None:
    """Refuse normals that show nothing: a lens cap, a camera that is stuck, a range gone wrong."""
    if len(pictures) < 2:
        return
    middle = np.median(pictures, axis=0)
    differences = np.sqrt(np.square(pictures - middle).mean(axis=(1, 2)))
    if np.median(differences) < LEAST_DIFFERENCE:
        names = ", ".join(printable(glance.path) for glance in glances[:_NAMED])
        raise InputError(
            f"the {len(glances)} normal images are all but identical ({names} ...): is the lens capped, the "
            "camera stuck, or their range of grey levels another (--range)?"
        )


def _copies(glances: list[Glance], pictures: Features, reading: Reading) -> dict[str, int]:
    """The number of the set of copies that an image belongs to, by its path, of those that have copies."""
    details, sets = _Details(reading), Sets(range(len(glances)))
    for i, j in _near(pictures):
        if sets.of(i) != sets.of(j) and details.agree(glances[i], glances[j]):
            sets.join(i, j)
    numbers = [sets.of(i) for i in range(len(glances))]
    sizes = Counter(numbers)
    return {glance.path: i for glance, i in zip(glances, numbers, strict=True) if sizes[i] > 1}


def _near(pictures: Features) -> Iterator[tuple[int, int]]:
    """Pairs of images that may be copies, by their small pictures."""
    count = len(pictures)
    flat = pictures.reshape(count, -1)
    gallery, _ = Gallery.build_fast(flat, "euclidean", seed=0)
    distances, neighbours = gallery.search(flat, min(_NEIGHBOURS + 1, count))
    pairs = np.random.default_rng(0).integers(0, count, (2, 2000))
    any_two = np.linalg.norm(flat[pairs[0]] - flat[pairs[1]], axis=1)[pairs[0] != pairs[1]]
    typical = float(np.median(any_two)) if len(any_two) else 0.0
    tolerance = max(COPY * float(np.median(distances[:, -1])), COPY_OF_ANY * typical)
    for i, column in zip(*np.nonzero(distances <= tolerance), strict=True):
        j = int(neighbours[i, column])
        if i != j:
            yield int(i), j


class _Details:
    """Compares images in fine detail: shots of the same scene share edges, copies share the noise too.

    It separates copies down to a JPEG quality of 60 from other shots if noise survives; without noise a part
    that stands in the same place, to a tenth of a pixel, is taken for a copy.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._read = lru_cache(_DETAILS_KEPT)(self._detail)

    def _detail(self, path: str, size: tuple[int, int] | None) -> Features:
        return detail_of(path, self._reading, size)

    def agree(self, one: Glance, other: Glance) -> bool:
        """Whether one is a copy of the other; without any detail they are, if their small pictures are."""
        size = None if one.size == other.size else (DETAIL, DETAIL)
        a, b = (self._read(glance.path, size) for glance in (one, other))
        if not len(a) or len(a) != len(b):
            return False
        if not (a.any() or b.any()):
            return True
        noise = [float(np.median(np.abs(detail))) for detail in (a, b)]
        if min(noise) < NOISE:
            return _correlation(a, b) > SAME_DETAIL
        without_edges = (detail.clip(-level, level) for detail, level in zip((a, b), noise, strict=True))
        return _correlation(a, b) > DETAIL_AND_NOISE and _correlation(*without_edges) > SAME_NOISE


def _correlation(a: Features, b: Features) -> float:
    a, b = a - a.mean(), b - b.mean()
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms else 0.0


def _on_copies(copies: dict[str, int], total: int) -> list[str]:
    extra = len(copies) - len(set(copies.values()))
    if not extra:
        return []
    return [
        f"{extra} of {total} normals {'is a copy' if extra == 1 else 'are copies'}, or nearly, of others: "
        "a set of copies counts once, and is held out together"
    ]


def _on_levels(glances: Iterable[Glance]) -> list[str]:
    poor = [glance for glance in glances if glance.levels < FEWEST_LEVELS]
    if not poor:
        return []
    names = ", ".join(f"{printable(glance.path)} {glance.levels}" for glance in poor[:_NAMED])
    more = f" and {len(poor) - _NAMED} more" if len(poor) > _NAMED else ""
    return [
        f"fewer than {FEWEST_LEVELS} grey levels are used by {names}{more}: is the range right? see --range"
    ]


def _on_pages(glances: Iterable[Glance]) -> list[str]:
    several = sum(glance.pages > 0 for glance in glances)
    files = many(several, "file has", "files have")
    return [f"{files} further pages or frames that were not looked at"] if several else []
