"""``anomscan info``."""

from __future__ import annotations

from typing import Annotated

import typer

from anomscan.cli.options import DEFAULT_MODEL, ModelFolder


def info(
    model: ModelFolder = DEFAULT_MODEL,
    json: Annotated[bool, typer.Option("--json", help="Print model.json instead of a table.")] = False,
) -> None:
    """Show what a model folder holds, after verifying its checksums."""
    from json import dumps

    from anomscan.cli.console import model_table
    from anomscan.model.folder import read_manifest, verified

    manifest = read_manifest(model)
    for role in manifest.files:
        verified(model, manifest, role)
    if json:
        typer.echo(dumps(manifest.to_json(), indent=2))
    else:
        model_table(manifest, model)
