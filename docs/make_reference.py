"""Write ``reference.md`` and the manual page ``anomscan.1`` from the command line itself.

``python docs/make_reference.py`` writes them beside this file, with every command and option; ``--check``
says whether they are up to date.
"""

from __future__ import annotations

import enum
import inspect
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REFERENCE, MANUAL = HERE / "reference.md", HERE / "anomscan.1"

HEAD = """\
# Reference

Every command and every option. `docs/make_reference.py` wrote this page from the command line itself;
`anomscan COMMAND --help` says the same. An option without a default is off where it is left out."""
STATED_DEFAULT = re.compile(r" *\(default: (.+)\)$")
"""The end of a help text that says in words what holds without the option."""


def reference() -> str:
    """The whole page."""
    import typer

    from anomscan.cli import app

    group: Any = typer.main.get_command(app)
    links = [
        f"- [`anomscan {name}`](#anomscan-{name}): {prose(c.help)}" for name, c in group.commands.items()
    ]
    sections = [section(f"anomscan {name}", command) for name, command in group.commands.items()]
    general = [prose(group.help), table("option", options(group)), prose(group.epilog)]
    return "\n\n".join([HEAD, "\n".join(links), "## anomscan", *general, *sections]) + "\n"


def manual() -> str:
    """The same as a manual page, in the man macros of roff."""
    import typer

    from anomscan.cli import app

    group: Any = typer.main.get_command(app)
    lines = [
        '.TH ANOMSCAN 1 "" anomscan "User Commands"',
        ".SH NAME",
        f"anomscan \\- {roff(prose(group.help)).removesuffix('.')}",
        ".SH SYNOPSIS",
        ".B anomscan",
        r"\fICOMMAND\fR [\fIOPTIONS\fR] ...",
        ".SH OPTIONS",
        *entries(options(group)),
        ".SH COMMANDS",
    ]
    for name, command in group.commands.items():
        given = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
        usage = " ".join([name, *map(argument, given), "[OPTIONS]"])
        rows = [(f"`{argument(parameter)}`", meaning(parameter), "") for parameter in given]
        lines += [
            f".SS anomscan {roff(usage)}",
            roff(prose(command.help)),
            *entries([*rows, *options(command)]),
        ]
    return "\n".join([*lines, ".SH EXIT STATUS", roff(prose(group.epilog))]) + "\n"


def entries(rows: list[tuple[str, str, str]]) -> list[str]:
    """Options, each with its meaning indented below it."""
    return [
        line
        for name, meant, otherwise in rows
        for line in (
            ".TP",
            ".B " + roff(name.replace("`", "")),
            roff(f"{meant} Default: {otherwise}.".replace("`", "") if otherwise else meant),
        )
    ]


def roff(text: str) -> str:
    """Text in which nothing is a command of roff."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return "\\&" + escaped if escaped.startswith((".", "'")) else escaped


def section(name: str, command: Any) -> str:
    """One command: its help, how to call it, its arguments and options."""
    given = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    usage = " ".join([name, *map(argument, given), "[OPTIONS]"])
    rows = [(f"`{argument(parameter)}`", meaning(parameter), "") for parameter in given]
    return "\n\n".join(
        [
            f"## {name}",
            prose(command.help),
            f"    {usage}",
            table("argument or option", [*rows, *options(command)]),
        ]
    )


def options(command: Any) -> list[tuple[str, str, str]]:
    """A row for each option: how it is written, what it means, its default."""
    return [
        (option(parameter), meaning(parameter), default(parameter))
        for parameter in command.params
        if parameter.param_type_name == "option"
    ]


def table(first: str, rows: list[tuple[str, str, str]]) -> str:
    """Rows as Markdown."""
    lines = [(first, "meaning", "default"), ("---", "---", "---"), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines)


def argument(parameter: Any) -> str:
    """``PATH...``, in brackets where it may be left out."""
    name = (parameter.metavar or parameter.name.upper()).removesuffix("...")
    name += "..." if parameter.nargs == -1 else ""
    return name if parameter.required else f"[{name}]"


def option(parameter: Any) -> str:
    """``-o``, ``--output FILE``: all its names, the longest with what follows it."""
    *short, long = sorted([*parameter.opts, *parameter.secondary_opts], key=len)
    return ", ".join(
        f"`{name}`" for name in [*short, long if parameter.is_flag else f"{long} {value(parameter)}"]
    )


def value(parameter: Any) -> str:
    """What is written after an option."""
    choices = getattr(parameter.type, "choices", None)
    if parameter.metavar or not choices:
        return parameter.metavar or "N"
    return "|".join(str(plain(choice)) for choice in choices)


def meaning(parameter: Any) -> str:
    """The help, the range of a number, and the variable of the environment that stands in for it."""
    text = STATED_DEFAULT.sub("", prose(parameter.help))
    low, high = (getattr(parameter.type, name, None) for name in ("min", "max"))
    extras = []
    if low is not None and high is not None:
        extras.append(f"From {low} to {high}.")
    elif low is not None:
        extras.append(f"At least {low}.")
    if parameter.multiple:
        extras.append("May be given more than once.")
    return " ".join([text.removesuffix(".") + ".", *extras])


def default(parameter: Any) -> str:
    """What holds where the option is left out, if that is not nothing."""
    value, stated = plain(parameter.default), STATED_DEFAULT.search(prose(parameter.help))
    shown = "" if value is None or isinstance(value, bool) else f"`{value}`"
    shown = stated[1] if stated and not shown else shown
    return f"`${parameter.envvar}`, else {shown}" if parameter.envvar else shown


def plain(value: Any) -> Any:
    """The value of an enumeration's member."""
    return value.value if isinstance(value, enum.Enum) else value


def prose(text: str | None) -> str:
    """Text on one line, whatever its indentation was."""
    return " ".join(inspect.cleandoc(text or "").split())


def main(arguments: list[str]) -> int:
    """Write the pages, or with ``--check`` compare; the exit code."""
    if arguments not in ([], ["--check"]):
        print("usage: python docs/make_reference.py [--check]", file=sys.stderr)
        return 2
    for path, page in ((REFERENCE, reference()), (MANUAL, manual())):
        if not arguments:
            path.write_text(page, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != page:
            print(
                f"docs/{path.name} is not what the command line says; run docs/make_reference.py",
                file=sys.stderr,
            )
            return 1
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))  # the command line of this checkout, not of an older installation
    sys.exit(main(sys.argv[1:]))
