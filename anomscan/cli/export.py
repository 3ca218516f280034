"""``anomscan export``."""

from __future__ import annotations

from typing import Annotated

import typer

from anomscan.cli.options import DEFAULT_MODEL, Force, Int8, ModelFolder, Normals, check_force


def export(
    out: Annotated[str, typer.Argument(metavar="OUT.onnx", help="The ONNX file to write.")],
    model: ModelFolder = DEFAULT_MODEL,
    images: Annotated[
        list[str] | None,
        typer.Option("--images", metavar="PATH", help="Images to check with (default: the normals)"),
    ] = None,
    normals: Normals = None,
    int8: Int8 = False,
    force: Force = False,
) -> None:
    """Write the extractor as ONNX, after re-scoring real images with the written file."""
    from anomscan.cli.console import int8_gain, message, progress_bar
    from anomscan.fit.export import export as write
    from anomscan.fit.export import export_int8

    check_force(int8, force)
    if int8:
        message(
            f"wrote {out}; {int8_gain(export_int8(model, out, images or [], normals or [], force=force))}"
        )
        return
    with progress_bar() as progress:
        difference = write(model, out, images or [], progress, normals or [])
    message(f"wrote {out}; scores of real images differ by {difference:.1g} at most")
