"""``anomscan info``."""

from __future__ import annotations

from typing import Annotated

import typer

from anomscan.cli.options import DEFAULT_MODEL, ModelFolder, Normals
from anomscan.errors import InputError, UsageError


def info(
    model: ModelFolder = DEFAULT_MODEL,
    json: Annotated[bool, typer.Option("--json", help="Print model.json instead of a table.")] = False,
    report: Annotated[
        str | None,
        typer.Option(metavar="FILE.html", help="Write a page of the normals, the most unlike first."),
    ] = None,
    normals: Normals = None,
) -> None:
    """Show what a model folder holds, after verifying its checksums."""
    from json import dumps

    from anomscan.cli.console import message, model_table, progress_bar
    from anomscan.files.atomic import whole_file
    from anomscan.model.folder import read_manifest, verified
    from anomscan.model.suspects import SUSPECTS, Suspects
    from anomscan.model.whereabouts import Whereabouts
    from anomscan.report.normals import write_normals_page

    if normals and not report:
        raise UsageError("--normals says where a report finds the normals; give --report, too")
    manifest = read_manifest(model)
    files = {role: verified(model, manifest, role) for role in manifest.files}
    suspects = Suspects.load(files[SUSPECTS]) if SUSPECTS in files else None
    if report is not None:
        if suspects is None:
            raise InputError(
                "the model does not say which of its normals are unlike the others: they were fewer than "
                "20, or indexed by an older anomscan; index or adapt again"
            )
        with whole_file(report) as page, progress_bar() as progress:
            where = Whereabouts(manifest.data.root, normals or ())
            remark = write_normals_page(page, manifest, suspects, where, progress)
        if remark:
            message(remark)
    if json:
        typer.echo(dumps(manifest.to_json(), indent=2))
    else:
        model_table(manifest, model, suspects)
