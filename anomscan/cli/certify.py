"""``anomscan certify``."""

from __future__ import annotations

from typing import Annotated

import typer

from anomscan.cli.options import DEFAULT_MODEL, Exclude, ModelFolder


def certify(
    normal: Annotated[
        str | None,
        typer.Argument(
            metavar="NORMAL", help="Folder of normal images that the model has not seen (default: held out)"
        ),
    ] = None,
    model: ModelFolder = DEFAULT_MODEL,
    fpr: Annotated[
        float, typer.Option(min=0, max=1, metavar="A", help="At most this share of normals is anomalous.")
    ] = 0.05,
    draws: Annotated[
        int, typer.Option(min=5, metavar="N", help="Defects of each kind, size and contrast.")
    ] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of the places and shapes of defects.")] = 0,
    enough: Annotated[
        bool, typer.Option("--enough", help="Also with a quarter and half of the normals: do more help?")
    ] = False,
    report: Annotated[
        str | None, typer.Option(metavar="FILE.html", help="Write a page with a picture of each.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    exclude: Exclude = None,
) -> None:
    """Before go-live: how small and how weak a made defect the model still catches, nine times of ten."""
    from contextlib import ExitStack
    from dataclasses import asdict
    from json import dumps
    from tempfile import TemporaryDirectory

    from anomscan.cli import console
    from anomscan.files.atomic import whole_file
    from anomscan.fit.enough import enough as compare
    from anomscan.images.find import Search, Source, find_images
    from anomscan.model.model import read_model
    from anomscan.pipeline import available_cores
    from anomscan.report.certificate import write_certificate
    from anomscan.screen.certify import certify as make
    from anomscan.screen.certify import held_out_images

    with ExitStack() as outputs:
        page = report and outputs.enter_context(whole_file(report))
        loaded = read_model(model, available_cores())
        if normal is None:
            normals = held_out_images(loaded)
        else:
            found = find_images(normal, Search(exclude=exclude or ()))
            normals = [source.name for source in found if isinstance(source, Source)]
        with console.progress_bar() as progress:
            certificate = make(loaded, normals, fpr, progress, draws, seed)
            more = None
            if enough:
                with TemporaryDirectory(prefix="anomscan-") as scratch:
                    more = compare(loaded, fpr, scratch, progress, seed)
        about = console.certificate_lines(certificate, more)
        if page:
            write_certificate(page, f"What the model catches at --fpr {fpr:g}", about, certificate.kinds)
    if json:
        data = asdict(certificate)
        for kind in data["kinds"].values():
            del kind["example"]
        typer.echo(dumps({**data, "enough": more and asdict(more)}, indent=2))
    else:
        console.certificate_table(certificate)
        for line in about:
            console.message(line)
