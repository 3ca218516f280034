"""What several verbs take: names, defaults and choices, each stated once."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from anomscan import DEFAULT_BACKBONE
from anomscan.errors import UsageError
from anomscan.scoring.registry import spellings

if TYPE_CHECKING:
    from anomscan.adapt.options import BackboneChoice
    from anomscan.fit.look import Gathering

EXIT_UNREADABLE = 3
EXIT_ANOMALOUS = 10


class Device(StrEnum):
    """Where the network runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Format(StrEnum):
    """How rows are written."""

    csv = "csv"
    jsonl = "jsonl"
    parquet = "parquet"


class LineFormat(StrEnum):
    """How rows are appended: a line each."""

    csv = "csv"
    jsonl = "jsonl"


Form = TypeVar("Form", Format, LineFormat)


class Where(StrEnum):
    """Whose cores work."""

    local = "local"
    ray = "ray"


ModelFolder = Annotated[
    str,
    typer.Option("--model", envvar="ANOMSCAN_MODEL", metavar="DIR", help="The model folder."),
]
DEFAULT_MODEL = "anomscan-model"
NormalFolder = Annotated[str, typer.Argument(metavar="NORMAL", help="Folder of normal images.")]
BackboneName = Annotated[
    str | None, typer.Option("--backbone", metavar="NAME", help=f"timm model (default: {DEFAULT_BACKBONE})")
]
WeightsFile = Annotated[
    str | None,
    typer.Option("--weights", metavar="FILE", help="Its weights (.safetensors, .pth)."),
]
ScorerName = Annotated[
    str | None,
    typer.Option("--scorer", metavar="NAME", help=f"{spellings(learnt=False)} (default: the method's)"),
]
Reduce = Annotated[
    str | None,
    typer.Option("--reduce", metavar="HOW", help="A small gallery: kmeans:K or coreset:K (default: all)"),
]
Int8 = Annotated[bool, typer.Option("--int8", help="With 8 bits: faster, if the scores stay the same.")]
Force = Annotated[bool, typer.Option("--force", help="Take --int8 even where they do not.")]
Share = Annotated[
    float | None,
    typer.Option(
        "--holdout",
        min=0,
        max=0.9,
        metavar="SHARE",
        help="Share of the normals held out for p-values; 0: none is, and all calibrate (default: 0.2)",
    ),
]
GroupBy = Annotated[
    str | None,
    typer.Option(
        "--group-by",
        metavar="RULE",
        help="Which normals are held out together: none, folder, prefix, part or REGEX (default: none)",
    ),
]
ImageSize = Annotated[
    int | None, typer.Option("--size", min=32, help="Side of the input in pixels (default: the backbone's)")
]
Neighbours = Annotated[int | None, typer.Option("--k", min=1, help="Neighbours (default: the model's, 2)")]
Wait = Annotated[
    float,
    typer.Option("--wait", min=0, metavar="SECONDS", help="How long another writer may take to finish."),
]

_FORMAT = typer.Option("--format", help="Of the output (default: as -o FILE is called, or csv)")
FormatOption = Annotated[Format | None, _FORMAT]
LineFormatOption = Annotated[LineFormat | None, _FORMAT]
Columns = Annotated[
    str | None,
    typer.Option("--columns", metavar="NAMES", help="Further columns: image_score, patch_score, regions."),
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Images worked on at a time (default: the cores)")
]
FalsePositives = Annotated[
    float | None,
    typer.Option("--fpr", min=0, max=1, metavar="A", help="Call at most this share of normals anomalous."),
]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", metavar="S", help="Call images of this score or more anomalous."),
]
FailOnAnomaly = Annotated[bool, typer.Option("--fail-on-anomaly", help="Exit with 10 if there is one.")]
MoveAnomalous = Annotated[
    str | None, typer.Option("--move-anomalous", metavar="DIR", help="Move anomalous images there.")
]
CopyAnomalous = Annotated[
    str | None, typer.Option("--copy-anomalous", metavar="DIR", help="Copy anomalous images there.")
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="GLOB", help="Names in folders to pass over; repeatable."),
]
Range = Annotated[
    str | None,
    typer.Option(
        "--range", metavar="LO:HI", help="Grey levels of more than 8 bits, or 'file' (default: the normals')"
    ),
]
MaxPixels = Annotated[
    int | None, typer.Option("--max-pixels", min=1, metavar="N", help="Refuse larger images (default: 500e6)")
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="The Ray cluster, or auto (default: this machine's, or a new one)",
    ),
]
Isolate = Annotated[bool, typer.Option("--isolate", help="Decode in processes that may crash or hang.")]
DecodeLimit = Annotated[
    float | None,
    typer.Option(
        "--decode-limit",
        min=0.1,
        metavar="SECONDS",
        help="With --isolate: for an image, at most (default: 30)",
    ),
]
_ISOLATED_SECONDS = 30.0
"""What decoding an image may take with --isolate, where no limit was given, without waiting for memory."""

Normals = Annotated[
    list[str] | None,
    typer.Option(
        "--normals", metavar="DIR", help="Where the normals are now, to show them (default: where they were)"
    ),
]
Region = Annotated[
    str | None,
    typer.Option(
        "--region", metavar="X,Y,W,H", help="Look here only, in pixels (default: the model's, or everywhere)"
    ),
]
Mask = Annotated[
    str | None,
    typer.Option("--mask", metavar="FILE", help="Look only where this picture, of their size, is white."),
]

TileGrid = Annotated[
    str | None,
    typer.Option(
        "--tiles",
        metavar="RxC",
        help="Look at images in so many rows and columns of tiles (default: the model's, or 1x1)",
    ),
]
DefectSize = Annotated[
    str | None,
    typer.Option(
        "--defect", metavar="PX", help="Look at them in as many tiles as defects of that size take, 12px say."
    ),
]

Focus = Annotated[
    str | None,
    typer.Option(
        "--focus", metavar="WHAT", help="auto, image, patch or both (default: auto, or the method's)"
    ),
]
Budget = Annotated[
    float | None,
    typer.Option(min=0, metavar="MS", help="Milliseconds of a core that patches of an image may take."),
]
PatchCount = Annotated[
    int | None,
    typer.Option(
        "--patches",
        min=100,
        metavar="K",
        help="Patches of normals kept, at most (default: 10000; spade, padim 2000000)",
    ),
]


def gathering(
    exclude: list[str] | None,
    range_: str | None,
    max_pixels: int | None,
    region: str | None,
    mask: str | None,
    isolate: float | None,
) -> Gathering:
    """Which files are normals, and how they are read."""
    from anomscan.fit.look import Gathering
    from anomscan.types import MAX_PIXELS

    most = max_pixels or MAX_PIXELS
    return Gathering(tuple(exclude or ()), range_, most, region, mask, isolate=isolate)


def isolated(isolate: bool, decode_limit: float | None) -> float | None:
    """Seconds that an image may take in a process of its own; None where it is decoded in this one."""
    if decode_limit and not isolate:
        raise UsageError("--decode-limit goes with --isolate only")
    return (decode_limit or _ISOLATED_SECONDS) if isolate else None


def check_address(address: str | None, engine: Where) -> None:
    """Refuse ``--address`` where there is no cluster."""
    if address and engine is not Where.ray:
        raise UsageError("--address goes with --engine ray only")


def backbone_choice(name: str | None, weights: str | None, size: int | None) -> BackboneChoice:
    """The backbone that was asked for, or the default."""
    from anomscan.adapt.options import BackboneChoice

    return BackboneChoice(name or DEFAULT_BACKBONE, weights, size)


def check_force(int8: bool, force: bool) -> None:
    """Refuse ``--force`` where it forces nothing."""
    if force and not int8:
        raise UsageError("--force goes with --int8 only")


def named_format(asked: Form | None, output: str | None, forms: type[Form]) -> Form:
    """The format asked for, or that of which the name of ``output`` has the suffix; else CSV.

    Raises:
        UsageError: the name asks for a format that is not one of ``forms``.
    """
    if asked is not None:
        return asked
    suffix = os.path.splitext(output or "")[1][1:].lower()
    if suffix in Format.__members__ and suffix not in forms.__members__:
        raise UsageError(f"rows cannot be appended to a file of {suffix}; name another, or give --format")
    return forms(suffix if suffix in forms.__members__ else "csv")
