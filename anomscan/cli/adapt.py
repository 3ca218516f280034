"""``anomscan adapt``."""

from __future__ import annotations

from typing import Annotated

import typer

from anomscan.cli.options import (
    DEFAULT_MODEL,
    BackboneName,
    Budget,
    DecodeLimit,
    DefectSize,
    Device,
    Exclude,
    Focus,
    GroupBy,
    ImageSize,
    Isolate,
    Mask,
    MaxPixels,
    ModelFolder,
    NormalFolder,
    PatchCount,
    Range,
    Reduce,
    Region,
    ScorerName,
    Share,
    TileGrid,
    Wait,
    WeightsFile,
    backbone_choice,
    gathering,
    isolated,
)


def adapt(
    normal: NormalFolder,
    model: ModelFolder = DEFAULT_MODEL,
    method: Annotated[str, typer.Option("--method", metavar="PRESET", help="See docs/methods.md.")] = "auto",
    backbone: BackboneName = None,
    weights: WeightsFile = None,
    size: ImageSize = None,
    outliers: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Images unlike the normals, for panda-oe, hsc, adib, adib-ewc, adra."
        ),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="DIR", help="Class folders of other images, for joint, panda-ewc.")
    ] = None,
    scorer: ScorerName = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Gradient steps (default: the method's)")] = None,
    time_budget: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="Stop training after this long.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same machine: same scores.")] = 0,
    device: Annotated[Device, typer.Option(help="Where to train.")] = Device.auto,
    memory: Annotated[
        float, typer.Option(min=0, metavar="GB", help="Activations above this go to a temporary file.")
    ] = 2.0,
    focus: Focus = None,
    budget: Budget = None,
    patches: PatchCount = None,
    reduce: Reduce = None,
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
) -> None:
    """Fine-tune the backbone on normal images, export it and build the index."""
    from anomscan.adapt.options import AdaptOptions, FocusChoice
    from anomscan.cli.console import finish, message, progress_bar
    from anomscan.fit.adapt import adapt as fit
    from anomscan.fit.normals import hold_out_rule
    from anomscan.images.tiling import TileChoice

    options = AdaptOptions(
        method=method,
        backbone=backbone_choice(backbone, weights, size),
        outliers=outliers,
        reference=reference,
        scorer=scorer,
        steps=steps,
        time_budget=time_budget,
        seed=seed,
        device=device.value,
        memory=memory * 1e9,
        focus=FocusChoice(focus, budget, patches),
        tiles=TileChoice(tiles, defect),
    )
    apart = isolated(isolate, decode_limit)
    files = gathering(exclude, range_, max_pixels, region, mask, apart)
    rule = hold_out_rule(None, holdout, group_by)
    with progress_bar() as progress:
        fitted = fit(normal, model, options, progress, rule, reduce, wait, files, message)
    finish(fitted, model)
