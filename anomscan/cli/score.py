"""``anomscan score``."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from anomscan.cli.options import (
    DEFAULT_MODEL,
    EXIT_ANOMALOUS,
    EXIT_UNREADABLE,
    Address,
    Columns,
    CopyAnomalous,
    DecodeLimit,
    Device,
    Exclude,
    FailOnAnomaly,
    FalsePositives,
    Format,
    FormatOption,
    Isolate,
    MaxPixels,
    ModelFolder,
    MoveAnomalous,
    Neighbours,
    Normals,
    Threads,
    Threshold,
    Where,
    check_address,
    isolated,
    named_format,
)
from anomscan.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from anomscan.images.workpiece import PartRule
    from anomscan.report.summary import Summary
    from anomscan.screen.journal import Journal
    from anomscan.screen.run import Engine, Outcome, ScoreJob
    from anomscan.types import Progress

REPORT_ROWS = 200
"""Images in a report where no number was asked for."""


class Pages(StrEnum):
    """Which pages of a file are looked at."""

    first = "first"
    all = "all"


@dataclass(frozen=True)
class _Written:
    """What is written of a run, and where; ``columns`` are those behind the usual ones."""

    output: str | None
    form: Format
    top: int | None
    columns: tuple[str, ...]
    report: str | None
    heatmaps: str | None
    summary: str | None

    @property
    def shown(self) -> int:
        """Images in the report."""
        return self.top or REPORT_ROWS

    @property
    def keep(self) -> int:
        """Images whose features and maps are kept for pictures."""
        from anomscan.screen.run import MOST_HEATMAPS

        heatmaps = self.top or MOST_HEATMAPS if self.heatmaps else 0
        return max(self.shown if self.report else 0, heatmaps)


def score(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Images or folders; - reads paths from stdin.")
    ],
    model: ModelFolder = DEFAULT_MODEL,
    top: Annotated[int | None, typer.Option(min=1, help="Only the N most anomalous (default: all)")] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", metavar="FILE", help="Write here.")] = None,
    format_: FormatOption = None,
    k: Neighbours = None,
    null: Annotated[
        bool, typer.Option("--null", "-0", help="Paths on stdin end with NUL, not newline.")
    ] = False,
    threads: Threads = None,
    device: Annotated[Device, typer.Option(help="Where the network runs.")] = Device.auto,
    fpr: FalsePositives = None,
    review: Annotated[
        str | None,
        typer.Option(metavar="R", help="Beside --fpr: up to this share, or N/day, a person should look."),
    ] = None,
    per_day: Annotated[
        float | None,
        typer.Option(min=1, metavar="N", help="Images or parts a day, for --review (default: the run's)"),
    ] = None,
    part_by: Annotated[
        str | None,
        typer.Option(metavar="RULE", help="One row a part, of several views: prefix, folder or REGEX."),
    ] = None,
    fdr: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, metavar="A", help="At most this share of those called anomalous are normal."
        ),
    ] = None,
    threshold: Threshold = None,
    report: Annotated[str | None, typer.Option(metavar="FILE.html", help="Write a page to look at.")] = None,
    heatmaps: Annotated[
        str | None, typer.Option(metavar="DIR", help="Write pictures that show where images are odd.")
    ] = None,
    columns: Columns = None,
    summary: Annotated[
        str | None, typer.Option(metavar="FILE.json", help="Write counts, quantiles, drift.")
    ] = None,
    fail_on_anomaly: FailOnAnomaly = False,
    move_anomalous: MoveAnomalous = None,
    copy_anomalous: CopyAnomalous = None,
    copy_review: Annotated[
        str | None, typer.Option(metavar="DIR", help="Copy what a person should look at there.")
    ] = None,
    exclude: Exclude = None,
    min_age: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Leave younger files for the next run.")
    ] = 0.0,
    pages: Annotated[Pages, typer.Option(help="Of files that have several.")] = Pages.first,
    max_pixels: MaxPixels = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run of -o FILE that was cut off.")
    ] = False,
    normals: Normals = None,
    engine: Annotated[
        Where, typer.Option(help="Score here, or on the machines of a Ray cluster.")
    ] = Where.local,
    address: Address = None,
    isolate: Isolate = False,
    decode_limit: DecodeLimit = None,
) -> None:
    """Rank images, most anomalous first. Unreadable files come last, with the reason, whatever --top."""
    from anomscan.cli import console
    from anomscan.files.streams import text_output
    from anomscan.files.urls import check_local
    from anomscan.images.decode import every_page
    from anomscan.images.find import Search
    from anomscan.model.model import read_model
    from anomscan.pipeline import available_cores
    from anomscan.report.rows import OF_PARTS, REVIEW, check_format, further_columns
    from anomscan.screen.run import ScoreJob, run
    from anomscan.stats.decision import UNDECIDED, Decision, Review

    if review is None and (copy_review or per_day):
        raise UsageError("what should a person look at? say so with --review")
    decision = Decision(fpr, fdr, threshold, Review.parse(review, per_day) if review else None)
    parts = _part_rule(part_by) if part_by else None
    if decision == UNDECIDED and (fail_on_anomaly or move_anomalous or copy_anomalous):
        raise UsageError("what is anomalous? say so with --fpr, --fdr or --threshold")
    further = (*(REVIEW if review else ()), *(OF_PARTS if parts else ()), *further_columns(columns))
    form = named_format(format_, output, Format)
    written = _Written(output, form, top, further, report, heatmaps, summary)
    folders = [folder for folder in (move_anomalous, copy_anomalous, copy_review, heatmaps) if folder]
    check_local("--heatmaps", heatmaps)
    for option, folder in (
        ("--move-anomalous", move_anomalous),
        ("--copy-anomalous", copy_anomalous),
        ("--copy-review", copy_review),
    ):
        if folder:
            check_local(option, folder, *paths)
    if resume:
        check_local("--resume", output)
    check_address(address, engine)
    search, asked, threads = Search(exclude or (), folders, min_age), threads, threads or available_cores()
    if normals and not report:
        raise UsageError("--normals says where a report finds the normals; give --report, too")
    apart = isolated(isolate, decode_limit)
    if form is Format.parquet and output is None and sys.stdout.isatty():
        raise UsageError("Parquet is not for a terminal: name a file with -o FILE")
    check_format(form.value)
    with ExitStack() as running:
        with ExitStack() as outputs:
            file = outputs.enter_context(text_output(output))
            loaded = read_model(model, threads, device.value)
            if heatmaps and not loaded.patches:
                console.message("no heat maps: the model looks at whole images; see --focus of adapt")
            found = search.given(paths, null=null)
            wanted = every_page(found) if pages is Pages.all else found
            job = ScoreJob(
                wanted,
                loaded,
                decision,
                k,
                threads,
                written.keep,
                search,
                max_pixels,
                parts,
                normals=normals or (),
                isolate=apart,
                engine=_cluster(model, address, asked, device.value) if engine is Where.ray else None,
            )
            journal = running.enter_context(_journal(job, output, resume=resume))
            with console.progress_bar() as progress:
                pictures = None if journal.written else _Pictures.begin(written, outputs)
                outcome = running.enter_context(run(job, progress, journal))
                summed = outcome.summary()
                if pictures is not None:
                    pictures.write(outcome, written, summed, progress)
            read = _write_rows(outcome, written, file)
        journal.outputs_are_written()
        places = (copy_review, copy_anomalous, move_anomalous)
        console.deliver(outcome.ranking, *places, rows_are_safe=read)
    for line in summed.messages():
        console.message(line)
    if fail_on_anomaly and summed.anomalous:
        raise typer.Exit(EXIT_ANOMALOUS)
    if summed.unreadable:
        raise typer.Exit(EXIT_UNREADABLE)


def _part_rule(part_by: str) -> PartRule:
    from anomscan.images.workpiece import PartRule

    return PartRule.parse(part_by, "--part-by")


def _cluster(model: str, address: str | None, cores: int | None, device: str) -> Engine:
    from anomscan.screen.ray import RayEngine

    return RayEngine(model, address, cores, device)


def _journal(job: ScoreJob, output: str | None, *, resume: bool) -> Journal:
    """What the run is kept in, so that another can go on with it; says what became of the one before."""
    from anomscan.cli import console
    from anomscan.screen.journal import Journal, can_be_kept

    if output is None or not can_be_kept(output):
        if resume:
            raise UsageError("--resume goes on with a file: name the one that was to be written with -o FILE")
        return Journal.temporary()
    journal = Journal.beside(output, job.settings, resume=resume)
    if journal.remark:
        console.message(journal.remark)
    return journal


@dataclass(frozen=True)
class _Pictures:
    """The files that show a run, beside its rows; they appear whole when ``outputs`` ends."""

    page: Path | None
    numbers: Path | None

    @classmethod
    def begin(cls, written: _Written, outputs: ExitStack) -> _Pictures:
        """Raises OutputError, before any work, where one cannot be written."""
        from anomscan.files.atomic import whole_file

        page, numbers = (
            outputs.enter_context(whole_file(path)) if path else None
            for path in (written.report, written.summary)
        )
        return cls(page, numbers)

    def write(self, outcome: Outcome, written: _Written, summed: Summary, progress: Progress) -> None:
        """Write them, and the heat maps."""
        from anomscan.cli import console

        if self.page:
            from anomscan.report.html import write_report

            if remark := write_report(self.page, outcome.evidence(written.shown, summed), progress):
                console.message(remark)
        if written.heatmaps:
            outcome.write_heatmaps(written.heatmaps, written.keep, progress)
        if self.numbers:
            self.numbers.write_text(summed.to_json(), encoding="ascii")


def _write_rows(outcome: Outcome, written: _Written, file: TextIO) -> bool:
    """Write the rows, on a terminal as a table; whether somebody has them."""
    from anomscan.cli import console
    from anomscan.report.rows import REGIONS, write_rows

    if written.output is None and sys.stdout.isatty() and written.form is Format.csv:
        console.ranking_table(outcome.ranking, written.top)
        return True
    columns = written.columns
    if written.form is Format.jsonl and outcome.job.model.patches:
        columns = tuple(dict.fromkeys((*columns, REGIONS)))
    return write_rows(outcome.ranking.rows(written.top), written.form.value, file, columns)
