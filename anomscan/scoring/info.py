"""What the manifest records of a scorer and of its gallery; light, so that reading it loads no library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from anomscan.types import Metric

Looks = Literal["image", "patch", "both"]
"""What a score looks at: the image as a whole, its patches, or both."""

DEFAULT_K = 2


@dataclass(frozen=True)
class ScorerInfo:
    """How a feature becomes a score: a name of ``registry``. ``clusters`` is K of ``kmeans``, else 0."""

    name: str = "knn"
    k: int = DEFAULT_K
    metric: Metric = "cosine"
    clusters: int = 0


@dataclass(frozen=True)
class GalleryInfo:
    """What is searched: see ``gallery``. ``vectors`` is their number; 0 is not recorded, by older versions.

    ``recall_at_2`` is the share of the two nearest that the search found when it was built, 1 if exact;
    ``query_ms`` what a query took on one core, measured where it is not exact.
    """

    index: str = "exact"
    recall_at_2: float = 1.0
    reduced: str | None = None
    vectors: int = 0
    query_ms: float | None = None


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of the logarithms of the normals' scores, each without itself."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class PatchInfo:
    """How patches are scored: see ``focused``. ``looks`` is at patches or at both.

    ``gallery`` is that of patches; ``image``, ``peak`` and ``average`` are the spreads by which what they
    come to is compared and added up, the image's with ``weight``. Distances up to ``dark`` are those of
    normal patches; from ``bright`` on none is hotter in a picture. ``most`` is how many patches the gallery
    may hold.
    """

    looks: Literal["patch", "both"]
    gallery: GalleryInfo
    image: Spread
    peak: Spread
    average: Spread
    dark: float
    bright: float
    weight: float = 1.0
    most: int = 10_000
