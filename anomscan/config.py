"""What a model is, as frozen dataclasses: they are ``model.json``, read and written whole."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

SCHEMA = 1
"""Version of the model folder's layout; a reader refuses a larger one."""

DEFAULT_K = 2
Progress = Callable[[str, int, int | None, str], None]
"""Called as work advances: what is being done, how much is done, of how much if known, a remark."""

COLUMNS = ("rank", "path", "score", "p_value", "anomalous", "nearest_normal", "error")


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Preprocessing:
    """How a decoded image becomes the graph's input; recorded, never guessed from data.

    The whole image is squashed to ``height`` x ``width`` pixels with Pillow's ``resample`` filter.
    ``mean`` and ``std`` (of RGB in [0, 1]) are applied inside the graph and stand here for the record.
    """

    height: int
    width: int
    resample: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class BackboneInfo:
    """The network before adapting: its timm name, where its weights came from, their SHA-256."""

    name: str
    weights: str
    weights_sha256: str
    dim: int


@dataclass(frozen=True)
class MethodInfo:
    """How the backbone was adapted: the preset and every number that shaped the run.

    ``selection`` holds what a label-free choice chose, why, and what it measured at every checkpoint.
    """

    preset: str
    seed: int
    steps: int = 0
    final_loss: float | None = None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    selection: dict[str, Any] | None = None


@dataclass(frozen=True)
class ScorerInfo:
    """How a feature becomes a score: see ``scorers``. ``clusters`` is K of ``kmeans``, else 0."""

    name: str = "knn"
    k: int = DEFAULT_K
    metric: Literal["cosine", "euclidean"] = "cosine"
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
class Int8Info:
    """An 8-bit extractor's speed over the float one's, and how alike the scores of normals are by the two.

    ``spearman`` is the correlation of their ranks, ``p_value_change`` the mean change of a normal's p-value
    among the others.
    """

    speed: float
    spearman: float
    p_value_change: float


@dataclass(frozen=True)
class DataInfo:
    """The normals in the gallery: where they were, how many, and a fingerprint of their pixels.

    ``fingerprint`` is the SHA-256 over the relative paths and the preprocessed pixels, in gallery order.
    """

    root: str
    images: int
    unreadable: int
    fingerprint: str


@dataclass(frozen=True)
class HoldOut:
    """Which normals are held out to calibrate with: a share of them, whole groups together.

    ``group_by`` is ``none``, ``folder`` or ``prefix``: see ``calibration.group_name``.
    """

    share: float = 0.0
    group_by: str = "none"


@dataclass(frozen=True)
class CalibrationInfo:
    """The held-out normals that p-values come from: how they were chosen, where they were, how many.

    ``fingerprint`` is made as that of ``DataInfo``.
    """

    rule: HoldOut
    root: str
    images: int
    groups: int
    fingerprint: str


@dataclass(frozen=True)
class Change:
    """Normals that were added to, or removed from, a finished index, and when."""

    date: str
    action: Literal["added", "removed"]
    paths: list[str]


@dataclass(frozen=True)
class FileInfo:
    """One file of the model folder: its name, which changes with its content, and its SHA-256."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The content of ``model.json``. ``files`` maps a role (``extractor``, ``index`` ...) to a file."""

    anomscan: str
    created: str
    backbone: BackboneInfo
    preprocessing: Preprocessing
    method: MethodInfo
    scorer: ScorerInfo
    data: DataInfo
    versions: dict[str, str]
    files: dict[str, FileInfo]
    schema: int = SCHEMA
    gallery: GalleryInfo = GalleryInfo()
    int8: Int8Info | None = None
    calibration: CalibrationInfo | None = None
    changes: list[Change] = dataclasses.field(default_factory=list)

    @property
    def id(self) -> str:
        """Names this very model: what it was made of and every file in it."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain dictionaries and lists."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Manifest:
        """Rebuild a manifest; raises KeyError or TypeError where ``data`` is not one."""
        preprocessing, calibration = data["preprocessing"], data.get("calibration")
        return cls(
            anomscan=data["anomscan"],
            created=data["created"],
            backbone=BackboneInfo(**data["backbone"]),
            preprocessing=Preprocessing(
                **{**preprocessing, "mean": tuple(preprocessing["mean"]), "std": tuple(preprocessing["std"])}
            ),
            method=MethodInfo(**data["method"]),
            scorer=ScorerInfo(**data["scorer"]),
            data=DataInfo(**data["data"]),
            versions=data["versions"],
            files={role: FileInfo(**file) for role, file in data["files"].items()},
            schema=data["schema"],
            gallery=GalleryInfo(**data.get("gallery", {})),
            int8=Int8Info(**data["int8"]) if data.get("int8") else None,
            calibration=calibration
            and CalibrationInfo(**{**calibration, "rule": HoldOut(**calibration["rule"])}),
            changes=[Change(**change) for change in data.get("changes", [])],
        )
