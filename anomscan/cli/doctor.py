"""``anomscan doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from anomscan.cli.options import DEFAULT_MODEL, ModelFolder


def doctor(
    folder: Annotated[str, typer.Argument(metavar="[DIR]", help="Where the work will be done.")] = ".",
    model: ModelFolder = DEFAULT_MODEL,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of lines.")] = False,
) -> None:
    """Say whether this machine can do the work, offline, and what to do where it can not."""
    from dataclasses import asdict
    from json import dumps

    from anomscan.screen.doctor import examine

    findings = list(examine(model, folder))
    if json:
        typer.echo(dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            remedy = "" if finding.good else f"; {finding.remedy}"
            typer.echo(f"{'ok ' if finding.good else 'BAD'} {finding.what}: {finding.found}{remedy}")
    if not all(finding.good for finding in findings):
        raise typer.Exit(1)
