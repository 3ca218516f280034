"""``anomscan evaluate``."""

from __future__ import annotations

from typing import Annotated

import typer

from anomscan.cli.options import DEFAULT_MODEL, EXIT_UNREADABLE, Exclude, ModelFolder, Neighbours


def evaluate(
    normal: Annotated[
        str,
        typer.Argument(
            metavar="NORMAL_DIR",
            help="Folder of normal images; or, alone, a CSV file: path,anomalous (0, 1).",
        ),
    ],
    anomalous: Annotated[
        str | None, typer.Argument(metavar="ANOMALOUS_DIR", help="Folder of anomalous images.")
    ] = None,
    model: ModelFolder = DEFAULT_MODEL,
    k: Neighbours = None,
    masks: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where the defects are: NAME.png for an image, white is defect."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    exclude: Exclude = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the confidence intervals.")] = 0,
) -> None:
    """Measure how well the model separates labelled images: AUROC, average precision, FPR at 95 % TPR."""
    from dataclasses import asdict
    from json import dumps

    from anomscan.cli import console
    from anomscan.files.urls import check_local
    from anomscan.model.model import read_model
    from anomscan.pipeline import available_cores
    from anomscan.screen.evaluate import evaluate as measure
    from anomscan.screen.evaluate import labelled
    from anomscan.text import printable

    check_local("evaluate", normal, anomalous, masks)
    images = labelled(normal, anomalous, exclude or ())
    loaded = read_model(model, available_cores())
    with console.progress_bar() as progress:
        result = measure(
            images,
            loaded,
            k,
            seed,
            progress,
            lambda row: console.message(f"left out {printable(row.path)}: {row.error}"),
            masks,
        )
    if json:
        typer.echo(dumps(asdict(result), indent=2))
    else:
        console.evaluation_table(result)
    if result.unreadable:
        raise typer.Exit(EXIT_UNREADABLE)
