"""``anomscan index``."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from anomscan.cli.options import (
    DEFAULT_MODEL,
    Address,
    BackboneName,
    Budget,
    DecodeLimit,
    DefectSize,
    Exclude,
    Focus,
    Force,
    GroupBy,
    ImageSize,
    Int8,
    Isolate,
    Mask,
    MaxPixels,
    ModelFolder,
    PatchCount,
    Range,
    Reduce,
    Region,
    ScorerName,
    Share,
    TileGrid,
    Wait,
    WeightsFile,
    Where,
    backbone_choice,
    check_address,
    check_force,
    gathering,
    isolated,
)
from anomscan.errors import UsageError

if TYPE_CHECKING:
    from anomscan.fit.embed import Engine


def index(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="NORMAL", help="Folder of normal images; with --add, --reject ... files."),
    ],
    model: ModelFolder = DEFAULT_MODEL,
    add: Annotated[bool, typer.Option("--add", help="Accept these images as normal, too.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Take these images out of the normals.")] = False,
    reject: Annotated[
        bool, typer.Option("--reject", help="Record these missed anomalies: what is like them scores higher.")
    ] = False,
    unreject: Annotated[
        bool, typer.Option("--unreject", help="Take these images out of the rejects.")
    ] = False,
    box: Annotated[
        str | None,
        typer.Option("--box", metavar="X,Y,W,H", help="Where the defect of a reject is, in its pixels."),
    ] = None,
    backbone: BackboneName = None,
    weights: WeightsFile = None,
    size: ImageSize = None,
    scorer: ScorerName = None,
    focus: Focus = None,
    budget: Budget = None,
    patches: PatchCount = None,
    reduce: Reduce = None,
    int8: Int8 = False,
    force: Force = False,
    holdout: Share = None,
    group_by: GroupBy = None,
    exclude: Exclude = None,
    range_: Range = None,
    max_pixels: MaxPixels = None,
    region: Region = None,
    mask: Mask = None,
    tiles: TileGrid = None,
    defect: DefectSize = None,
    isolate: Isolate = False,
    decode_limit: DecodeLimit = None,
    wait: Wait = 0.0,
    engine: Annotated[
        Where, typer.Option(help="Embed here, or on the machines of a Ray cluster.")
    ] = Where.local,
    address: Address = None,
) -> None:
    """Build the index only, with the model's extractor if there is one, else with the pretrained backbone."""
    from anomscan.adapt.options import FocusChoice
    from anomscan.cli.console import finish, progress_bar
    from anomscan.fit import feedback, rejects
    from anomscan.fit.index import IndexOptions
    from anomscan.fit.index import index as fit
    from anomscan.fit.normals import hold_out_rule
    from anomscan.images.part import parse_box
    from anomscan.images.tiling import TileChoice

    check_force(int8, force)
    started = any(option is not None for option in (backbone, weights, size))
    looked_at = (exclude or None, range_, max_pixels, region, mask, tiles, defect)
    asked = (scorer, holdout, group_by, reduce, focus, budget, patches, *looked_at)
    building = started or int8 or any(option is not None for option in asked)
    if add + remove + reject + unreject + building > 1:
        raise UsageError(
            "--add, --remove, --reject and --unreject change a finished index; leave each other and all else "
            "out"
        )
    if box is not None and not reject:
        raise UsageError("--box says where the defect of a reject is; it goes with --reject only")
    where = None if box is None else parse_box(box, "--box")
    if not (add or remove or reject or unreject) and len(paths) > 1:
        raise UsageError("name one folder of normal images, or accept further images with --add")
    apart = isolated(isolate, decode_limit)
    if apart and (remove or reject or unreject):
        raise UsageError("--isolate goes with building an index, and with --add; leave it out")
    check_address(address, engine)
    if engine is Where.ray and (add or remove or reject or unreject):
        raise UsageError("--engine ray goes with building an index only; leave it out")
    with progress_bar() as progress, _engine(engine, address) as embedding:
        if add:
            fitted = feedback.add(paths, model, progress, wait, apart)
        elif remove:
            fitted = feedback.remove(paths, model, wait)
        elif reject:
            fitted = rejects.reject(paths, model, progress, wait, where)
        elif unreject:
            fitted = rejects.unreject(paths, model, wait)
        else:
            choice = backbone_choice(backbone, weights, size) if started else None
            looks, parts = FocusChoice(focus, budget, patches), TileChoice(tiles, defect)
            options = IndexOptions(choice, scorer, reduce, int8, force, looks, parts)
            rule = hold_out_rule(model, holdout, group_by)
            files = gathering(exclude, range_, max_pixels, region, mask, apart)
            fitted = fit(paths[0], model, options, progress, rule, wait, files, embedding)
    finish(fitted, model)


def _engine(where: Where, address: str | None) -> AbstractContextManager[Engine]:
    """What embeds the normals; a cluster is connected to before any work."""
    if where is Where.ray:
        from anomscan.fit.ray import on_cluster

        return on_cluster(address)
    from anomscan.fit.embed import here

    return nullcontext(here)
