"""The command line: every file beside this one that is named like the function in it is a verb."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Annotated

import typer

import anomscan

_ORDER = ("adapt", "index", "calibrate", "certify", "score", "watch", "evaluate", "export", "info")
"""As a user meets them; further verbs come last."""

app = typer.Typer(
    name="anomscan",
    help="Rank the images of a folder by how anomalous they are, after looking at a folder of normal ones.",
    epilog="Exit codes: 0 done, 1 failed, 2 bad usage, 3 done but some files could not be read, "
    "10 anomalies found (only with --fail-on-anomaly).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # drawing the help with rich takes four times as long as printing it
)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    """Rank the images of a folder by how anomalous they are, after looking at a folder of normal ones."""
    if version:
        typer.echo(f"anomscan {anomscan.__version__}")
        raise typer.Exit


def _verbs() -> list[str]:
    """The verbs: modules here that hold a function of their own name; just the one that is asked for."""
    names = {name.removesuffix(".py") for folder in __path__ for name in os.listdir(folder)}
    there = {name for name in names if name.isidentifier()} - {
        "__init__",
        "__pycache__",
        "console",
        "options",
    }
    if sys.argv[1:2] and sys.argv[1] in there:
        return [sys.argv[1]]
    return [*(name for name in _ORDER if name in there), *sorted(there.difference(_ORDER))]


if "_ANOMSCAN_COMPLETE" in os.environ:  # a shell asks, see docs/on-the-line.md
    from typer.completion import completion_init  # type: ignore[attr-defined]

    completion_init()

for _verb in _verbs():
    app.command()(getattr(import_module(f"anomscan.cli.{_verb}"), _verb))
