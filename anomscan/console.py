"""What a person sees: progress, tables and messages, on standard error. The only printer.

What a function draws with is imported there: a script that reads CSV from a pipe does not wait for rich.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from anomscan.config import CalibrationInfo, GalleryInfo, Int8Info, Manifest, Progress, ScorerInfo
    from anomscan.evaluation import Evaluation
    from anomscan.report import Row


TABLE_ROWS = 50
"""Rows of a ranking that are drawn on a terminal where no number was asked for."""
P_VALUE_BAR = 6
"""Columns of the bar for a p-value."""
WIDEST_PATH = 24
"""Columns of a terminal up to which a path stays on one line."""


def message(text: str) -> None:
    """One line to standard error."""
    print(text, file=sys.stderr)  # noqa: T201 - this is the printer


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on a terminal, nothing elsewhere; one line for every kind of work, with the time left."""
    if not sys.stderr.isatty():
        yield lambda what, done, total, remark: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[remark]}"),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, object] = {}

        def advance(what: str, done: int, total: int | None, remark: str) -> None:
            if what not in tasks:
                for task in bar.tasks:
                    bar.update(task.id, total=task.total or task.completed or 1, completed=task.total or 1)
                tasks[what] = bar.add_task(what, total=total, remark=remark)
            bar.update(tasks[what], completed=done, total=total, remark=remark)  # type: ignore[arg-type]

        yield advance


def ranking_table(rows: Iterable[Row]) -> None:
    """Draw rows for a person, on standard output."""
    from rich.table import Table
    from rich.text import Text

    from anomscan.images import printable

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    shown = list(rows)
    smallest = min((row.p_value for row in shown if row.p_value is not None), default=None)
    if smallest is not None:
        table.add_column("p-value", no_wrap=True)
    longest = max((len(printable(row.path)) for row in shown), default=0)
    table.add_column("path", overflow="fold", min_width=min(longest, WIDEST_PATH))
    table.add_column("nearest normal, or error", overflow="fold")
    for row in shown:
        nearest = printable(os.path.basename(row.nearest_normal or ""))
        note = Text(row.error, style="red") if row.error else nearest
        table.add_row(
            "" if row.rank is None else str(row.rank),
            "" if row.score is None else f"{row.score:.4f}",
            *([] if smallest is None else [_p_value(row, smallest)]),
            Text(printable(row.path)),
            note,
        )
    _print(table)


def _p_value(row: Row, smallest: float) -> Text:
    """A bar on a logarithmic scale, full for the smallest p-value, and the number; ``!`` if anomalous."""
    from rich.text import Text

    if row.p_value is None:
        return Text()
    full = math.log(row.p_value) / min(math.log(smallest), -1e-9)
    bar = "█" * round(P_VALUE_BAR * full)
    called = "!" if row.anomalous else " "
    text = Text(f"{bar:<{P_VALUE_BAR}} {row.p_value:.2g}{called}")
    text.stylize("bold red" if row.anomalous else "dim", 0, P_VALUE_BAR)
    return text


def model_table(manifest: Manifest, folder: str) -> None:
    """Draw what a model folder holds, on standard output."""
    from rich.table import Table
    from rich.text import Text

    from anomscan.images import printable

    preprocessing, method, data = manifest.preprocessing, manifest.method, manifest.data
    settings = ", ".join(f"{name} {value}" for name, value in method.settings.items() if name != "steps")
    loss = "" if method.final_loss is None else f", last loss {method.final_loss:.4g}"
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in (
        ("model", folder),
        ("created", f"{manifest.created} by anomscan {manifest.anomscan}"),
        (
            "backbone",
            f"{manifest.backbone.name} ({manifest.backbone.weights}), {manifest.backbone.dim} features",
        ),
        ("method", f"{method.preset}, {method.steps} steps, seed {method.seed}{loss}"),
        ("settings", settings or "none"),
        ("choice", (method.selection or {}).get("reason", "none")),
        (
            "input",
            f"{preprocessing.width} x {preprocessing.height} pixels, whole image, {preprocessing.resample}",
        ),
        ("scorer", _scorer(manifest.scorer)),
        ("normals", f"{data.images} images of {printable(data.root)}, {data.unreadable} unreadable"),
        ("search", _search(manifest.gallery)),
        ("precision", _precision(manifest.int8)),
        ("held out", _held_out(manifest.calibration)),
        *((change.action, f"{len(change.paths)} images on {change.date}") for change in manifest.changes),
        ("fingerprint", data.fingerprint),
        ("model id", manifest.id),
        ("versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())),
        ("files", ", ".join(file.name for file in manifest.files.values())),
    ):
        table.add_row(name, Text(value))
    _print(table)
    if method.selection is not None and "curve" in method.selection:
        _print(_selection_table(method.selection))


def evaluation_table(evaluation: Evaluation) -> None:
    """Draw figures with their intervals, on standard output."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", style="bold", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column(f"{100 * evaluation.confidence:.0f} % interval", justify="right")
    for name, estimate in (
        ("AUROC", evaluation.auroc),
        ("average precision", evaluation.average_precision),
        ("FPR at 95 % TPR", evaluation.fpr_at_95_tpr),
    ):
        table.add_row(name, f"{estimate.value:.4f}", f"{estimate.low:.4f} to {estimate.high:.4f}")
    table.add_row("normal images", str(evaluation.normal))
    table.add_row("anomalous images", str(evaluation.anomalous))
    table.add_row("unreadable files", str(evaluation.unreadable))
    _print(table)


def _selection_table(selection: dict[str, Any]) -> Table:
    """The label-free criterion at every checkpoint, the chosen one marked."""
    from rich.table import Table

    curve = selection["curve"]
    table = Table(box=None, pad_edge=False)
    table.add_column("held-out normals against")
    for checkpoint in curve:
        mark = " *" if checkpoint["step"] == selection["chosen_step"] else ""
        table.add_column(f"step {checkpoint['step']}{mark}", justify="right")
    for kind in curve[0]["made"]:
        table.add_row(f"made: {kind}", *(f"{checkpoint['made'][kind]:.1f}" for checkpoint in curve))
    for name, key in (
        ("a left-out cluster", "left_out_cluster"),
        ("mean AUROC, %", "separation"),
        ("effective rank", "effective_rank"),
    ):
        table.add_row(name, *(f"{checkpoint[key]:.1f}" for checkpoint in curve))
    table.add_row("spread", *(f"{checkpoint['spread']:.3f}" for checkpoint in curve))
    return table


def _scorer(info: ScorerInfo) -> str:
    name = f"kmeans, {info.clusters} centroids" if info.name == "kmeans" else info.name
    neighbours = f", k = {info.k}" if info.name in ("knn", "kmeans", "samplewise") else ""
    return f"{name}{neighbours}, {info.metric} distance"


def _precision(info: Int8Info | None) -> str:
    if info is None:
        return "32-bit float"
    return (
        f"8 bits: {info.speed:.1f} times as fast, Spearman {info.spearman:.3f}, p-values of normals off by "
        f"{info.p_value_change:.3f}"
    )


def _search(info: GalleryInfo) -> str:
    reduced = f", reduced by {info.reduced}" if info.reduced else ""
    recall = "" if info.index == "exact" else f", recall@2 {info.recall_at_2:.3f} when built"
    if info.query_ms is not None:
        recall += f", {info.query_ms:.2f} ms a query on one core"
    return f"{info.index}{reduced}{recall}"


def _held_out(info: CalibrationInfo | None) -> str:
    from anomscan.images import printable

    if info is None:
        return "none: there are no p-values"
    groups = "" if info.groups == info.images else f" in {info.groups} groups by {info.rule.group_by}"
    return f"{info.images} images of {printable(info.root)}{groups}"


def _print(table: Table) -> None:
    from rich.console import Console

    Console().print(table)
