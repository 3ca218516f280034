"""What the manifest records of a scorer and of its gallery; light, so that reading it loads no library."""

from __future__ import annotations

from dataclasses import dataclass

from anomscan.types import Metric

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
