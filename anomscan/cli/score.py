"""``anomscan score``."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from anomscan.cli.options import (
    DEFAULT_MODEL,
    EXIT_ANOMALOUS,
    EXIT_UNREADABLE,
    Device,
    Exclude,
    MaxPixels,
    ModelFolder,
    Neighbours,
    Normals,
)
from anomscan.errors import UsageError

REPORT_ROWS = 200
"""Images in a report where no number was asked for."""
ISOLATED_SECONDS = 30.0
"""What decoding an image may take with --isolate, where no limit was given, without waiting for memory."""


class Format(StrEnum):
    """How rows are written."""

    csv = "csv"
    jsonl = "jsonl"


class Pages(StrEnum):
    """Which pages of a file are looked at."""

    first = "first"
    all = "all"


def score(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Images or folders; - reads paths from stdin.")
    ],
    model: ModelFolder = DEFAULT_MODEL,
    top: Annotated[int | None, typer.Option(min=1, help="Only the N most anomalous (default: all)")] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", metavar="FILE", help="Write here.")] = None,
    format_: Annotated[Format, typer.Option("--format", help="Of the output.")] = Format.csv,
    k: Neighbours = None,
    null: Annotated[
        bool, typer.Option("--null", "-0", help="Paths on stdin end with NUL, not newline.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Images worked on at a time (default: the cores)")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where the network runs.")] = Device.auto,
    fpr: Annotated[
        float | None,
        typer.Option(min=0, max=1, metavar="A", help="Call at most this share of normals anomalous."),
    ] = None,
    fdr: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, metavar="A", help="At most this share of those called anomalous are normal."
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(metavar="S", help="Call images of this score or more anomalous.")
    ] = None,
    report: Annotated[str | None, typer.Option(metavar="FILE.html", help="Write a page to look at.")] = None,
    heatmaps: Annotated[
        str | None, typer.Option(metavar="DIR", help="Write pictures that show where images are odd.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Further columns: image_score, patch_score, regions.")
    ] = None,
    summary: Annotated[
        str | None, typer.Option(metavar="FILE.json", help="Write counts, quantiles, drift.")
    ] = None,
    fail_on_anomaly: Annotated[
        bool, typer.Option("--fail-on-anomaly", help="Exit with 10 if there is one.")
    ] = False,
    move_anomalous: Annotated[
        str | None, typer.Option(metavar="DIR", help="Move anomalous images there.")
    ] = None,
    copy_anomalous: Annotated[
        str | None, typer.Option(metavar="DIR", help="Copy anomalous images there.")
    ] = None,
    exclude: Exclude = None,
    min_age: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Leave younger files for the next run.")
    ] = 0.0,
    pages: Annotated[Pages, typer.Option(help="Of files that have several.")] = Pages.first,
    max_pixels: MaxPixels = None,
    normals: Normals = None,
    isolate: Annotated[
        bool, typer.Option("--isolate", help="Decode in processes that may crash or hang.")
    ] = False,
    decode_limit: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="SECONDS", help="With --isolate: for an image, at most (default: 30)"),
    ] = None,
) -> None:
    """Rank images, most anomalous first. Unreadable files come last, with the reason, whatever --top."""
    from contextlib import ExitStack

    from anomscan.cli import console
    from anomscan.files.atomic import whole_file
    from anomscan.files.streams import text_output
    from anomscan.images.decode import every_page
    from anomscan.images.find import Search
    from anomscan.model.model import read_model
    from anomscan.pipeline import available_cores
    from anomscan.report.rows import REGIONS, further_columns, write_rows
    from anomscan.screen.run import MOST_HEATMAPS, ScoreJob, run
    from anomscan.stats.decision import UNDECIDED, Decision

    decision = Decision(fpr, fdr, threshold)
    if decision == UNDECIDED and (fail_on_anomaly or move_anomalous or copy_anomalous):
        raise UsageError("what is anomalous? say so with --fpr, --fdr or --threshold")
    if normals and not report:
        raise UsageError("--normals says where a report finds the normals; give --report, too")
    if decode_limit and not isolate:
        raise UsageError("--decode-limit goes with --isolate only")
    isolated = (decode_limit or ISOLATED_SECONDS) if isolate else None
    on_terminal = output is None and sys.stdout.isatty() and format_ is Format.csv
    further = further_columns(columns)
    shown, threads = top or REPORT_ROWS, threads or available_cores()
    folders = [folder for folder in (move_anomalous, copy_anomalous, heatmaps) if folder]
    search = Search(exclude or (), folders, min_age)
    with ExitStack() as running:
        with ExitStack() as outputs:
            file = outputs.enter_context(text_output(output))
            page, numbers = (path and outputs.enter_context(whole_file(path)) for path in (report, summary))
            loaded = read_model(model, threads, device.value)
            if heatmaps and not loaded.patches:
                console.message("no heat maps: the model looks at whole images; see --focus of adapt")
            found = search.given(paths, null=null)
            wanted = every_page(found) if pages is Pages.all else found
            if format_ is Format.jsonl and loaded.patches:
                further = tuple(dict.fromkeys((*further, REGIONS)))
            keep = max(shown if page else 0, top or MOST_HEATMAPS if heatmaps else 0)
            job = ScoreJob(
                wanted, loaded, decision, k, threads, keep, search, max_pixels, normals or (), isolated
            )
            with console.progress_bar() as progress:
                outcome = running.enter_context(run(job, progress))
                summed = outcome.summary()
                if page:
                    from anomscan.report.html import write_report

                    if remark := write_report(page, outcome.evidence(shown, summed), progress):
                        console.message(remark)
                if heatmaps:
                    outcome.write_heatmaps(heatmaps, keep, progress)
            if numbers:
                numbers.write_text(summed.to_json(), encoding="ascii")
            if on_terminal:
                console.ranking_table(outcome.ranking, top)
                read = True
            else:
                read = write_rows(outcome.ranking.rows(top), format_.value, file, further)
        console.deliver(outcome.ranking, copy_anomalous, move_anomalous, rows_are_safe=read)
    for line in summed.messages():
        console.message(line)
    if fail_on_anomaly and summed.anomalous:
        raise typer.Exit(EXIT_ANOMALOUS)
    if summed.unreadable:
        raise typer.Exit(EXIT_UNREADABLE)
