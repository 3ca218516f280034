"""``anomscan watch``."""

from __future__ import annotations

import gc
import sys
from contextlib import closing
from typing import Annotated

import typer

from anomscan.cli.options import (
    DEFAULT_MODEL,
    EXIT_ANOMALOUS,
    EXIT_UNREADABLE,
    Columns,
    CopyAnomalous,
    DecodeLimit,
    Device,
    Exclude,
    FailOnAnomaly,
    FalsePositives,
    Isolate,
    LineFormat,
    LineFormatOption,
    MaxPixels,
    ModelFolder,
    MoveAnomalous,
    Neighbours,
    Threads,
    Threshold,
    isolated,
    named_format,
)
from anomscan.errors import UsageError

_GARBAGE = 2000
"""Objects after which garbage is collected: a start makes many and no garbage, and months make some."""


def watch(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="The folder in which images arrive.")],
    model: ModelFolder = DEFAULT_MODEL,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Append the rows here.")
    ] = None,
    format_: LineFormatOption = None,
    columns: Columns = None,
    once: Annotated[bool, typer.Option("--once", help="Score what has settled, and end.")] = False,
    fpr: FalsePositives = None,
    threshold: Threshold = None,
    fail_on_anomaly: FailOnAnomaly = False,
    on_anomaly: Annotated[
        str | None,
        typer.Option(
            metavar="CMD", help="Call for each anomalous image; {path}, {score}, {p_value} are filled in."
        ),
    ] = None,
    on_anomaly_timeout: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="End the command after that long.")
    ] = 10.0,
    move_anomalous: MoveAnomalous = None,
    copy_anomalous: CopyAnomalous = None,
    settle: Annotated[
        float,
        typer.Option(
            min=0, metavar="SECONDS", help="A file is done when it was closed, or unchanged for so long."
        ),
    ] = 2.0,
    poll: Annotated[
        float | None,
        typer.Option(
            min=0.1, metavar="SECONDS", help="Look that often (default: be told; 5 on network shares)"
        ),
    ] = None,
    drift: Annotated[
        float,
        typer.Option(min=0, max=0.5, metavar="A", help="Chance of a false drift alarm, ever; 0: no alarm."),
    ] = 0.01,
    state: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="What was done (default: FILE of -o and .state, or watch.state)"),
    ] = None,
    k: Neighbours = None,
    threads: Threads = None,
    device: Annotated[Device, typer.Option(help="Where the network runs.")] = Device.auto,
    exclude: Exclude = None,
    max_pixels: MaxPixels = None,
    isolate: Isolate = False,
    decode_limit: DecodeLimit = None,
) -> None:
    """Score images as they arrive in a folder, each once, also over restarts; SIGTERM ends it."""
    from anomscan.cli import console
    from anomscan.files.append import AppendedFile, AppendedStream
    from anomscan.files.ledger import Ledger
    from anomscan.files.urls import check_local
    from anomscan.pipeline import available_cores
    from anomscan.report.rows import further_columns
    from anomscan.screen.command import Command
    from anomscan.screen.watch import Watch, WatchJob
    from anomscan.signals import ended_by_signals
    from anomscan.stats.decision import UNDECIDED, Decision

    check_local("watch", folder, model, output, state, move_anomalous, copy_anomalous)
    decision = Decision(fpr, None, threshold)
    acts = fail_on_anomaly or on_anomaly is not None or move_anomalous or copy_anomalous
    if decision == UNDECIDED and acts:
        raise UsageError("what is anomalous? say so with --fpr or --threshold")
    if fail_on_anomaly and not once:
        raise UsageError("--fail-on-anomaly goes with --once only")
    place = state or (f"{output}.state" if output else "watch.state")
    job = WatchJob(
        folder=folder,
        model=model,
        decision=decision,
        k=k,
        threads=threads or available_cores(),
        device=device.value,
        form=named_format(format_, output, LineFormat).value,
        further=further_columns(columns),
        exclude=exclude or (),
        max_pixels=max_pixels,
        isolate=isolated(isolate, decode_limit),
        settle=settle,
        poll=poll,
        copy_to=copy_anomalous,
        move_to=move_anomalous,
        command=None if on_anomaly is None else Command.parse(on_anomaly, on_anomaly_timeout),
        drift=drift,
        not_images=[place, *([output] if output else [])],
    )
    gc.set_threshold(_GARBAGE)
    rows = AppendedFile(output) if output else AppendedStream(sys.stdout.fileno())
    with (
        Ledger.open(place, folder) as ledger,
        closing(Watch(job, ledger, rows, console.message)) as watching,
        ended_by_signals(watching.stop),
    ):
        watching.once() if once else watching.run()
    for line in watching.counts.messages(decided=decision != UNDECIDED):
        console.message(line)
    if once and fail_on_anomaly and watching.counts.anomalous:
        raise typer.Exit(EXIT_ANOMALOUS)
    if once and watching.counts.unreadable:
        raise typer.Exit(EXIT_UNREADABLE)
