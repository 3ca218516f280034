"""What a model is, as frozen dataclasses: they are ``model.json``, read and written whole."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec

from anomscan.errors import ModelDamaged, ModelTooNew
from anomscan.images.part import check
from anomscan.images.tiles import check as check_tiles
from anomscan.network.network import BackboneInfo, FocusInfo, Int8Info, MethodInfo
from anomscan.scoring.info import GalleryInfo, PatchInfo, ScorerInfo
from anomscan.types import Preprocessing

SCHEMA = 3
"""Version of the model folder's layout; a reader refuses a larger one.

A model says 2 where a reader of version 0.2.0, which knows 1, would pass something over that changes what it
finds, or take normals of the gallery for held-out ones, and 3 where it has rejects, or had some, which
readers of 2 do not know: see ``Manifest.least_schema``.
"""
FILE_NAME = r"^[a-z]+-[0-9a-f]{16}\.[a-z0-9]+\Z"
"""What the files beside ``model.json`` are called: a kind, a piece of the SHA-256, a suffix; never a path."""

RESAMPLES = ("nearest", "bilinear", "bicubic", "lanczos")
"""Names of the filters of ``images.decode``."""

Count = Annotated[int, msgspec.Meta(ge=0)]
GroupRule = Annotated[str, msgspec.Meta(pattern=r"^(none|folder|prefix|part)\Z|\(")]


@dataclass(frozen=True)
class DataInfo:
    """The normals in the gallery: where they were, how many, and a fingerprint of their pixels.

    ``fingerprint`` is the SHA-256 over the relative path of each, and the SHA-256 of its preprocessed pixels,
    in gallery order.
    """

    root: str
    images: Count
    unreadable: Count
    fingerprint: str


ALL = 1.0


@dataclass(frozen=True)
class HoldOut:
    """Which normals calibrate: a share of them that is held out, whole groups together, or all of them.

    With a share of ``ALL`` none is held out and every normal calibrates, scored by the others.

    ``group_by`` is a name or a regular expression with a group: see ``fit.normals.group_name``.
    """

    share: float = 0.0
    group_by: GroupRule = "none"

    @property
    def is_all(self) -> bool:
        """Whether all normals calibrate and none is held out."""
        return self.share >= ALL


def check_group_rule(rule: GroupRule) -> None:
    """Raise ValueError where it is neither a name nor a regular expression with a group."""
    if rule in ("none", "folder", "prefix", "part"):
        return
    from anomscan.images.workpiece import is_rule

    if not is_rule(rule):
        raise ValueError(f"{rule!r} does not say what is held out together")


@dataclass(frozen=True)
class CalibrationInfo:
    """The normals that p-values come from: how they were chosen, where they were, how many.

    ``fingerprint`` is made as that of ``DataInfo``.
    """

    rule: HoldOut
    root: str
    images: Count
    groups: Count
    fingerprint: str


@dataclass(frozen=True)
class Change:
    """Normals that were added to, or removed from, a finished index, and when; or missed anomalies."""

    date: str
    action: Literal["added", "removed", "rejected", "unrejected"]
    paths: list[str]


@dataclass(frozen=True)
class RejectInfo:
    """Missed anomalies whose like score higher: how many, and how many of their patches are compared with."""

    images: Count
    patches: Count = 0


@dataclass(frozen=True)
class FileInfo:
    """One file of the model folder: its name, which changes with its content, and its SHA-256."""

    name: Annotated[str, msgspec.Meta(pattern=FILE_NAME)]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


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
    schema: int = 1
    gallery: GalleryInfo = field(default_factory=GalleryInfo)
    int8: Int8Info | None = None
    calibration: CalibrationInfo | None = None
    changes: list[Change] = field(default_factory=list)
    focus: FocusInfo = field(default_factory=FocusInfo)
    patches: PatchInfo | None = None
    rejects: RejectInfo | None = None

    def __post_init__(self) -> None:
        size = (self.preprocessing.height, self.preprocessing.width)
        if min(*size, self.backbone.dim, self.scorer.k) < 1 or max(size) > 1 << 14:
            raise ValueError("a size, a number of features or of neighbours makes no sense")
        if self.calibration is not None:
            check_group_rule(self.calibration.rule.group_by)
        if self.preprocessing.tiles is not None:
            check_tiles(self.preprocessing.tiles)
        reading, levels = self.preprocessing.reading, self.preprocessing.reading.levels
        if reading.max_pixels < 1 or (levels is not None and not levels.low < levels.high):
            raise ValueError("the limit of pixels, or the range of their values, makes no sense")
        if self.preprocessing.resample not in RESAMPLES:
            raise ValueError(f"there is no filter called {self.preprocessing.resample!r}")
        if reading.part is not None:
            check(reading.part)
        patches = self.patches
        if patches is not None and not all(
            spread.deviation > 0 for spread in (patches.image, patches.peak, patches.average)
        ):
            raise ValueError("the spreads of scores make no sense")
        if self.focus.procedure is not None and patches is None:
            raise ValueError("patches are compared by a procedure, and there are none")

    @property
    def least_schema(self) -> int:
        """The smallest schema whose readers understand this model; a field new since 0.2.0 asks for more."""
        if self.rejects is not None or any("reject" in change.action for change in self.changes):
            return 3
        rules = self.preprocessing
        is_new = rules.reading.part is not None or rules.tiles is not None or self.patches is not None
        is_new |= self.calibration is not None and self.calibration.rule.is_all
        return 2 if is_new else 1

    @property
    def id(self) -> str:
        """Names this very model: what it was made of and every file in it."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain dictionaries and lists; without rejects they are not spoken of."""
        data = dataclasses.asdict(self)
        if self.rejects is None:
            del data["rejects"]
        return data


@dataclass(frozen=True)
class _Header:
    schema: int
    anomscan: str = "of unknown version"


def parse_manifest(text: bytes, folder: str) -> Manifest:
    """The manifest of ``folder``, strictly: wrong types, no numbers and paths as file names are refused.

    Raises:
        ModelTooNew: its schema is newer than this version knows.
        ModelDamaged: it is not a manifest; the message says where.
    """
    try:
        data = json.loads(text, parse_float=_finite, parse_constant=_finite)  # msgspec's own reader
        header = msgspec.convert(data, type=_Header)  # refuses what names that are not UTF-8 are written as
        if header.schema > SCHEMA:
            raise ModelTooNew(
                f"{folder} was written by a newer anomscan ({header.anomscan}); "
                "upgrade anomscan or adapt again"
            )
        return msgspec.convert(data, type=Manifest)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ModelDamaged(f"{folder}/model.json is not a manifest of anomscan: {error}") from error


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a number")
    return number
