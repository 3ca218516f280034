"""A page of tables with pictures: no script, no network, no other file, every name as text."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

STYLE = """
:root { color-scheme: light dark; --ink: #1d1f21; --page: #fbfbf9; --quiet: #6b7075; --line: #e2e2dd;
  --alarm: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e2; --page: #17191b; --quiet: #9a9fa4; --line: #303437; --alarm: #f2867d; }
}
body { margin: 0 auto; max-width: 70rem; padding: 2rem 1.5rem 4rem;
  background: var(--page); color: var(--ink);
  font: 0.9375rem/1.5 system-ui, "Segoe UI", Arial, sans-serif; font-variant-numeric: tabular-nums; }
h1 { font-size: 1.5rem; font-weight: 600; } h2 { margin-top: 2.5rem; font-size: 1.0625rem; font-weight: 600; }
p { margin: 0.25rem 0; } code { overflow-wrap: anywhere; }
table { width: 100%; border-collapse: collapse; }
th { text-align: left; font-weight: 500; color: var(--quiet); }
th, td { padding: 0.4rem 0.75rem 0.4rem 0; border-top: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
tr.marked td:first-child { box-shadow: inset 3px 0 var(--alarm); padding-left: 0.6rem; }
figure { margin: 0; } img, .gone { display: block; max-width: 14rem; border-radius: 4px; }
figcaption, .gone { font-size: 0.8125rem; color: var(--quiet); }
""".strip()


@dataclass(frozen=True)
class Figure:
    """A picture as a data URL, or None where it cannot be drawn, and what stands below it."""

    url: str | None
    caption: str


@dataclass(frozen=True)
class Table:
    """Rows of texts and pictures; those in ``marked``, by their number, catch the eye."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Figure]]
    marked: frozenset[int] = field(default_factory=frozenset)


def write_page(file: Path, title: str, about: Sequence[str], tables: Sequence[Table]) -> None:
    """Write a page with sentences and tables to ``file``."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'"
    body = "\n".join(
        [
            f"<h1>{escape(title)}</h1>",
            *(f"<p>{escape(sentence)}</p>" for sentence in about),
            *map(_table, tables),
        ]
    )
    file.write_text(
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n",
        encoding="utf-8",
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = "\n".join(
        ('<tr class="marked">' if i in table.marked else "<tr>")
        + "".join(f"<td>{_cell(cell)}</td>" for cell in row)
        + "</tr>"
        for i, row in enumerate(table.rows)
    )
    title = f"<h2>{escape(table.title)}</h2>\n" if table.title else ""
    return f"{title}<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>"


def _cell(cell: str | Figure) -> str:
    if isinstance(cell, str):
        return escape(cell)
    caption = escape(cell.caption)
    shown = f'<img src="{cell.url}" alt="{caption}">' if cell.url else '<span class="gone">not shown</span>'
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"
