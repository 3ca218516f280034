"""``anomscan export``."""

from __future__ import annotations

from typing import Annotated

import typer

from anomscan.cli.options import DEFAULT_MODEL, Force, Int8, ModelFolder, Normals, check_force
from anomscan.errors import UsageError


def export(
    out: Annotated[str, typer.Argument(metavar="OUT.onnx", help="The ONNX file to write.")],
    model: ModelFolder = DEFAULT_MODEL,
    images: Annotated[
        list[str] | None,
        typer.Option("--images", metavar="PATH", help="Images to check with (default: the normals)"),
    ] = None,
    normals: Normals = None,
    with_scorer: Annotated[
        bool, typer.Option("--with-scorer", help="The whole model: image in, score and p-value out.")
    ] = False,
    fpr: Annotated[
        float | None,
        typer.Option(min=0, max=1, metavar="A", help="Alarm rate to compare decisions at (default: 0.05)"),
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Keep the network's weights in 16 bits.")] = False,
    int8: Int8 = False,
    force: Force = False,
) -> None:
    """Write the extractor, or the model, as ONNX, after re-scoring real images with the written file."""
    from anomscan.cli.console import int8_gain, message, parity_lines, progress_bar
    from anomscan.fit.export import export as write
    from anomscan.fit.export import export_int8
    from anomscan.fit.export_scored import ScoredOptions, export_scored

    check_force(int8, force)
    if with_scorer:
        options = ScoredOptions(tuple(images or ()), fpr, int8, fp16, force, tuple(normals or ()))
        with progress_bar() as progress:
            parity = export_scored(model, out, options, progress)
        for line in parity_lines(out, parity):
            message(line)
        return
    if fp16 or fpr is not None:
        raise UsageError(f"{'--fp16' if fp16 else '--fpr'} goes with --with-scorer only")
    if int8:
        message(
            f"wrote {out}; {int8_gain(export_int8(model, out, images or [], normals or [], force=force))}"
        )
        return
    with progress_bar() as progress:
        difference = write(model, out, images or [], progress, normals or [])
    message(f"wrote {out}; scores of real images differ by {difference:.1g} at most")
