"""What a person sees: progress, tables and messages, on standard error. The only printer.

What a function draws with is imported there: a script that reads CSV from a pipe does not wait for rich.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import typer

from anomscan.cli.options import EXIT_UNREADABLE
from anomscan.errors import OutputError

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from anomscan.fit.build import Fitted
    from anomscan.fit.enough import Enough
    from anomscan.fit.parity import Parity
    from anomscan.model.manifest import CalibrationInfo, Manifest, RejectInfo
    from anomscan.model.suspects import Suspects
    from anomscan.network.network import Int8Info
    from anomscan.report.rows import Row
    from anomscan.scoring.info import GalleryInfo
    from anomscan.screen.certify import Certificate
    from anomscan.screen.evaluate import Evaluation
    from anomscan.screen.ranking import Ranking
    from anomscan.stats.catch import Catch
    from anomscan.types import Progress

TABLE_ROWS = 50
"""Rows of a ranking that are drawn on a terminal where no number was asked for."""


P_VALUE_BAR = 6
"""Columns of the bar for a p-value."""


WIDEST_PATH = 24
"""Columns of a terminal up to which a path stays on one line."""


def message(text: str) -> None:
    """One line to standard error; where that is full or closed, nobody is told."""
    with suppress(OSError):
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


def ranking_table(ranking: Ranking, top: int | None) -> None:
    """Draw the ``top`` rows of a ranking for a person, on standard output; by default the first few."""
    from rich.table import Table
    from rich.text import Text

    from anomscan.text import printable

    rows = list(ranking.rows(top or TABLE_ROWS))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    smallest = min((row.p_value for row in rows if row.p_value is not None), default=None)
    if smallest is not None:
        table.add_column("p-value", no_wrap=True)
    longest = max((len(printable(row.path)) for row in rows), default=0)
    table.add_column("path", overflow="fold", min_width=min(longest, WIDEST_PATH))
    table.add_column("nearest normal, or error", overflow="fold")
    for row in rows:
        nearest = printable(os.path.basename(row.nearest_normal or ""))
        note = Text(row.error, style="red") if row.error else nearest
        table.add_row(
            "" if row.rank is None else str(row.rank),
            "" if row.score is None else f"{row.score:.4f}",
            *([] if smallest is None else [_p_value(row, smallest)]),
            Text(printable(row.path) + _views(row)),
            note,
        )
    _print(table)
    if top is None and ranking.ranked > TABLE_ROWS:
        message(f"the first {TABLE_ROWS} of {ranking.ranked}; --top N or -o FILE for more")


def _views(row: Row) -> str:
    """The other views of a part, where parts are judged."""
    from anomscan.text import printable

    others = [os.path.basename(view) for view in row.views or () if view != row.path]
    return f" (and {', '.join(map(printable, others))})" if others else ""


def _p_value(row: Row, smallest: float) -> Text:
    """A bar on a logarithmic scale, full for the smallest p-value, and the number.

    ``!`` behind it is anomalous, ``?`` something that a person should look at.
    """
    from rich.text import Text

    if row.p_value is None:
        return Text()
    full = math.log(row.p_value) / min(math.log(smallest), -1e-9)
    bar = "█" * round(P_VALUE_BAR * full)
    called = "!" if row.anomalous else "?" if row.review else " "
    text = Text(f"{bar:<{P_VALUE_BAR}} {row.p_value:.2g}{called}")
    text.stylize("bold red" if row.anomalous else "dim", 0, P_VALUE_BAR)
    return text


def model_table(manifest: Manifest, folder: str, suspects: Suspects | None = None) -> None:
    """Draw what a model folder holds, on standard output."""
    from rich.table import Table
    from rich.text import Text

    from anomscan.images.part import described
    from anomscan.images.tiles import described as tiles_of
    from anomscan.scoring.registry import scorer_class
    from anomscan.text import many, printable

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
            f"{preprocessing.width} x {preprocessing.height} pixels, "
            f"{described(preprocessing.reading.part)}, {preprocessing.resample}",
        ),
        *((("tiles", tiles_of(preprocessing)),) if preprocessing.tiles else ()),
        ("focus", manifest.focus.describe()),
        ("scorer", scorer_class(manifest.scorer.name).describe(manifest.scorer)),
        ("normals", f"{data.images} images of {printable(data.root)}, {data.unreadable} unreadable"),
        *((("suspects", _suspects(suspects)),) if suspects else ()),
        ("search", _search(manifest.gallery)),
        *((("patches", _search(manifest.patches.gallery)),) if manifest.patches else ()),
        ("precision", _precision(manifest.int8)),
        ("held out", _held_out(manifest.calibration)),
        *((("rejects", _rejects(manifest.rejects)),) if manifest.rejects else ()),
        *(
            (change.action, f"{many(len(change.paths), 'image', 'images')} on {change.date}")
            for change in manifest.changes
        ),
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
    if (found := evaluation.localised) is not None:
        table.add_row("pixel AUROC", f"{found.pixel_auroc:.4f}", "")
        table.add_row("PRO up to 30 % FPR", f"{found.pro:.4f}", "")
        table.add_row("hottest place in the defect", f"{found.hits:.4f}", f"of {found.images} images")
    table.add_row("normal images", str(evaluation.normal))
    table.add_row("anomalous images", str(evaluation.anomalous))
    table.add_row("unreadable files", str(evaluation.unreadable))
    _print(table)


def certificate_table(certificate: Certificate) -> None:
    """Draw from which size, and from which contrast on made defects are caught, and the share at each."""
    kinds = certificate.kinds.items()
    _print(_catch_table("size, % of the side", {name: kind.by_size for name, kind in kinds}, 100))
    _print(_catch_table("contrast, of 255", {name: kind.by_contrast for name, kind in kinds}, 1))


def _catch_table(name: str, found: dict[str, Catch], times: float) -> Table:
    """A line for each kind: where nine of ten are caught, and how many of a hundred at each step."""
    from rich.table import Table

    from anomscan.report.certificate import limit_text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(name, style="bold", no_wrap=True, min_width=20)
    table.add_column("9 of 10 caught from", no_wrap=True, min_width=28)
    for step in next(iter(found.values())).steps:
        table.add_column(f"{times * step:g}", justify="right", min_width=3)
    for kind, caught in found.items():
        limit = limit_text(caught, percent=times != 1)
        table.add_row(kind, limit, *(f"{100 * rate:.0f}" for rate in caught.rates))
    return table


def certificate_lines(certificate: Certificate, more: Enough | None) -> list[str]:
    """What a certificate says besides its table, and whether more normals would help."""
    from anomscan.report.certificate import NOT_REAL
    from anomscan.screen.certify import FIXED_CONTRAST, FIXED_SIZE
    from anomscan.stats.catch import CONFIDENCE

    lines = [
        f"at --fpr {certificate.fpr:g}: {certificate.draws} defects of each kind, size and contrast on "
        f"{certificate.images} normal images; sizes in % of the shorter side at a contrast of "
        f"{FIXED_CONTRAST:g}, contrasts in grey levels at a size of {100 * FIXED_SIZE:g} %, and the share "
        f"in % that is caught at each; the intervals hold {100 * CONFIDENCE:.0f} %",
        NOT_REAL,
    ]
    if certificate.clean:
        lines.insert(
            1, f"without any defect, {certificate.alarms} of the {certificate.clean} are called anomalous"
        )
    if more is None:
        return lines
    steps = ", ".join(
        f"{100 * step.alarms:.2g} % ({100 * step.low:.2g} to {100 * step.high:.2g}) "
        f"with {step.normals} normals"
        for step in more.steps
    )
    return [*lines, f"false alarms where {100 * more.detection:.0f} % are caught: {steps}", more.sentence()]


def _selection_table(selection: dict[str, Any]) -> Table:
    """What the features of the normals were at every checkpoint, the chosen one marked."""
    from rich.table import Table

    curve = selection["curve"]
    table = Table(box=None, pad_edge=False)
    table.add_column("features of the normals")
    for checkpoint in curve:
        mark = " *" if checkpoint["step"] == selection["chosen_step"] else ""
        table.add_column(f"step {checkpoint['step']}{mark}", justify="right")
    table.add_row("effective rank", *(f"{checkpoint['effective_rank']:.1f}" for checkpoint in curve))
    table.add_row("spread", *(f"{checkpoint['spread']:.3f}" for checkpoint in curve))
    return table


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


def _suspects(suspects: Suspects) -> str:
    """The normals that are unlike the others, the most unlike first."""
    from anomscan.text import printable

    names = ", ".join(printable(suspect.path) for suspect in suspects.suspected)
    return f"{len(suspects.suspected) or 'none'} of {suspects.normals}{': ' if names else ''}{names}"


def _held_out(info: CalibrationInfo | None) -> str:
    from anomscan.text import printable

    if info is None:
        return "none: there are no p-values"
    groups = "" if info.groups == info.images else f" in {info.groups} groups by {info.rule.group_by}"
    if info.rule.is_all:
        return f"none: {info.images} of the normals{groups} calibrate, each scored by the others"
    return f"{info.images} images of {printable(info.root)}{groups}"


def _print(table: Table) -> None:
    from rich.console import Console

    Console().print(table)


def int8_gain(info: Int8Info) -> str:
    """What 8 bits gain and cost, in one line."""
    return (
        f"8 bits: {info.speed:.1f} times as fast; of the scores of normals Spearman {info.spearman:.3f}, "
        f"their p-values off by {info.p_value_change:.3f} on average"
    )


def parity_lines(out: str, parity: Parity) -> list[str]:
    """What an exported file with the scorer was found to be, a line each."""
    from anomscan.fit.parity import TOLERANCE

    lines = [
        f"wrote {out} and its report; of {parity.images} real images ranks, but for ties, and p-values "
        "are the same"
    ]
    if parity.fpr is not None:
        lines[0] += f", and so are the {parity.anomalous} alarms at --fpr {parity.fpr:g}"
    for backend in parity.backends:
        agreement = backend.agreement
        found = f"{backend.version}: scores differ by {agreement.score:.1g} at most, relative"
        found += f"; {backend.milliseconds:.3g} ms an image, one at a time"
        lines.append("; ".join([found, *agreement.faults]))
    change = parity.change
    if change is not None:
        line = (
            f"against the scores by 'anomscan score': {change.beyond} of {parity.images} differ by more than "
            f"{TOLERANCE:g}, relative, and by {change.score:.1g} at most; Spearman {change.spearman:.4f}"
        )
        if change.decisions is not None:
            line += f", {change.decisions} images are called differently"
        lines.append(line)
    return lines


def finish(fitted: Fitted, model: str) -> None:
    """Say what was written, and exit with 3 where normals could not be read."""
    from anomscan.images.tiles import described as tiles_of
    from anomscan.text import printable

    for image in fitted.unreadable:
        message(f"skipped {printable(image.path)}: {image.reason}")
    method, data = fitted.manifest.method, fitted.manifest.data
    if method.selection is not None:
        message(f"{method.preset}: {method.selection['reason']}")
    if fitted.manifest.focus.measured or fitted.manifest.focus.reason != "asked for":
        message(fitted.manifest.focus.describe())
    if fitted.manifest.preprocessing.tiles:
        message(f"looks at {tiles_of(fitted.manifest.preprocessing)}")
    how = f"{method.preset}, {method.steps} steps" if method.steps else "pretrained features"
    message(f"wrote {model}: {how}, {data.images} normals")
    if fitted.manifest.rejects is not None:
        message(f"learns from {_rejects(fitted.manifest.rejects)}")
    if fitted.manifest.int8 is not None:
        message(int8_gain(fitted.manifest.int8))
    message(_p_values(fitted.manifest.calibration))
    for note in fitted.notes:
        message(note)
    if fitted.unreadable:
        raise typer.Exit(EXIT_UNREADABLE)


def _rejects(rejects: RejectInfo) -> str:
    from anomscan.text import many

    places = f", by {many(rejects.patches, 'patch', 'patches')}" if rejects.patches else ""
    return f"{many(rejects.images, 'missed anomaly', 'missed anomalies')}{places}"


def _p_values(calibration: CalibrationInfo | None) -> str:
    if calibration is None:
        return (
            "no normals are held out, so that scores have no p-values; see --holdout and 'anomscan calibrate'"
        )
    groups = "" if calibration.groups == calibration.images else f" in {calibration.groups} groups"
    smallest = 1 / (calibration.groups + 1)
    if calibration.rule.is_all:
        return f"none is held out, {calibration.images} calibrate{groups}: p-values from {smallest:.2g} up"
    return f"{calibration.images} more are held out{groups}: p-values from {smallest:.2g} up"


def deliver(
    ranking: Ranking, review_to: str | None, copy_to: str | None, move_to: str | None, *, rows_are_safe: bool
) -> None:
    """Copy and move images, and say what was not; none is moved whose row nobody has.

    To ``review_to`` go copies of those that a person should look at, to the others the anomalous ones.
    """
    if move_to and not rows_are_safe:
        raise OutputError("nobody reads the rows any more, so that no image was moved")
    for files, folder, move in (
        (ranking.review_files, review_to, False),
        (ranking.anomalous_files, copy_to, False),
        (ranking.anomalous_files, move_to, True),
    ):
        if folder:
            from anomscan.files.delivery import deliver as put

            for reason in put(files(), folder, move=move).left:
                message(reason)
