"""The command line: signatures and a few lines a command. Heavy imports wait until a command runs."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import anomscan
from anomscan import DEFAULT_BACKBONE
from anomscan.errors import UsageError

if TYPE_CHECKING:
    from anomscan.config import Int8Info
    from anomscan.indexing import Fitted
    from anomscan.options import BackboneChoice

EXIT_UNREADABLE = 3
EXIT_ANOMALOUS = 10
REPORT_ROWS = 200
"""Images in a report where no number was asked for."""

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


class Format(StrEnum):
    """How rows are written."""

    csv = "csv"
    jsonl = "jsonl"


class GroupRule(StrEnum):
    """What normals of one session, lot or day have in common."""

    folder = "folder"
    prefix = "prefix"
    none = "none"


class Device(StrEnum):
    """Where the network runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


ModelFolder = Annotated[
    Path,
    typer.Option("--model", envvar="ANOMSCAN_MODEL", metavar="DIR", help="The model folder."),
]
DEFAULT_MODEL = Path("anomscan-model")
NormalFolder = Annotated[str, typer.Argument(metavar="NORMAL", help="Folder of normal images.")]
BackboneName = Annotated[
    str | None, typer.Option("--backbone", metavar="NAME", help=f"timm model (default: {DEFAULT_BACKBONE})")
]
WeightsFile = Annotated[
    Path | None,
    typer.Option("--weights", metavar="FILE", help="Its weights (.safetensors, .pth)."),
]
ScorerName = Annotated[
    str | None,
    typer.Option(
        "--scorer",
        metavar="NAME",
        help="knn, knn-euclidean, kmeans:K, mean, mean-euclidean, mahalanobis (default: the method's)",
    ),
]
Reduce = Annotated[
    str | None,
    typer.Option("--reduce", metavar="HOW", help="A small gallery: kmeans:K or coreset:K (default: all)"),
]
Int8 = Annotated[bool, typer.Option("--int8", help="With 8 bits: faster, if the scores stay the same.")]
Force = Annotated[bool, typer.Option("--force", help="Take --int8 even where they do not.")]
Share = Annotated[
    float | None,
    typer.Option(
        "--holdout",
        min=0,
        max=0.9,
        metavar="SHARE",
        help="Share of the normals that p-values come from; 0 for none (default: 0.2)",
    ),
]
GroupBy = Annotated[
    GroupRule | None,
    typer.Option("--group-by", help="Which normals are held out together (default: none)"),
]
ImageSize = Annotated[
    int | None, typer.Option("--size", min=32, help="Side of the input in pixels (default: the backbone's)")
]


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


@app.command()
def adapt(
    normal: NormalFolder,
    model: ModelFolder = DEFAULT_MODEL,
    method: Annotated[
        str, typer.Option("--method", metavar="PRESET", help="See the README's table of methods.")
    ] = "auto",
    backbone: BackboneName = None,
    weights: WeightsFile = None,
    size: ImageSize = None,
    outliers: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Images unlike the normals, for panda-oe, hsc, adib, adra."),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="DIR", help="Class folders of other images, for joint, panda-ewc.")
    ] = None,
    scorer: ScorerName = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Gradient steps (default: the method's)")] = None,
    time_budget: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="Stop training after this long.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same machine: same scores.")] = 0,
    device: Annotated[Device, typer.Option(help="Where to train.")] = Device.auto,
    memory: Annotated[
        float, typer.Option(min=0, metavar="GB", help="Activations above this go to a temporary file.")
    ] = 2.0,
    reduce: Reduce = None,
    holdout: Share = None,
    group_by: GroupBy = None,
) -> None:
    """Fine-tune the backbone on normal images, export it and build the index."""
    from anomscan.console import progress_bar
    from anomscan.fitting import adapt as fit
    from anomscan.fitting import hold_out_rule
    from anomscan.options import AdaptOptions

    options = AdaptOptions(
        method=method,
        backbone=_backbone(backbone, weights, size),
        outliers=outliers,
        reference=reference,
        scorer=scorer,
        steps=steps,
        time_budget=time_budget,
        seed=seed,
        device=device.value,
        memory=memory * 1e9,
        reduce=reduce,
        hold_out=hold_out_rule(None, holdout, group_by),
    )
    with progress_bar() as progress:
        fitted = fit(normal, model, options, progress)
    _finish(fitted, model)


@app.command()
def index(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="NORMAL", help="Folder of normal images; with --add, --remove files."),
    ],
    model: ModelFolder = DEFAULT_MODEL,
    add: Annotated[bool, typer.Option("--add", help="Accept these images as normal, too.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Take these images out of the normals.")] = False,
    backbone: BackboneName = None,
    weights: WeightsFile = None,
    size: ImageSize = None,
    scorer: ScorerName = None,
    reduce: Reduce = None,
    int8: Int8 = False,
    force: Force = False,
    holdout: Share = None,
    group_by: GroupBy = None,
) -> None:
    """Build the index only, with the model's extractor if there is one, else with the pretrained backbone."""
    from anomscan import feedback, fitting
    from anomscan.console import progress_bar

    _check_force(int8, force)
    started = any(option is not None for option in (backbone, weights, size))
    building = started or int8 or any(option is not None for option in (scorer, holdout, group_by, reduce))
    if add + remove + building > 1:
        raise UsageError("--add and --remove change a finished index; leave each other and all else out")
    if not (add or remove) and len(paths) > 1:
        raise UsageError("name one folder of normal images, or accept further images with --add")
    with progress_bar() as progress:
        if add:
            fitted = feedback.add(paths, model, progress)
        elif remove:
            fitted = feedback.remove(paths, model)
        else:
            rule = fitting.hold_out_rule(model, holdout, group_by)
            choice = _backbone(backbone, weights, size) if started else None
            fitted = fitting.index(
                paths[0], model, choice, scorer, progress, rule, reduce, int8=int8, force=force
            )
    _finish(fitted, model)


@app.command()
def calibrate(
    normal: Annotated[str, typer.Argument(metavar="OTHER_NORMALS", help="Folder of other normal images.")],
    model: ModelFolder = DEFAULT_MODEL,
    group_by: GroupBy = None,
) -> None:
    """Take p-values from other normals, such as another day's; index and network stay as they are."""
    from anomscan import feedback, fitting
    from anomscan.console import progress_bar

    rule = fitting.hold_out_rule(model, None, group_by)
    with progress_bar() as progress:
        fitted = feedback.calibrate(normal, model, rule.group_by, progress)
    _finish(fitted, model)


@app.command()
def score(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Images or folders; - reads paths from stdin.")
    ],
    model: ModelFolder = DEFAULT_MODEL,
    top: Annotated[int | None, typer.Option(min=1, help="Only the N most anomalous (default: all)")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write here.")] = None,
    format_: Annotated[Format, typer.Option("--format", help="Of the output.")] = Format.csv,
    k: Annotated[int | None, typer.Option(min=1, help="Neighbours (default: the model's, 2)")] = None,
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
    report: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write a page to look at.")] = None,
    summary: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write counts, quantiles, drift.")
    ] = None,
    fail_on_anomaly: Annotated[
        bool, typer.Option("--fail-on-anomaly", help="Exit with 10 if there is one.")
    ] = False,
    move_anomalous: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Move anomalous images there.")
    ] = None,
    copy_anomalous: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Copy anomalous images there.")
    ] = None,
) -> None:
    """Rank images, most anomalous first. Unreadable files come last, with the reason, whatever --top."""
    from contextlib import ExitStack
    from dataclasses import asdict
    from json import dumps
    from time import monotonic

    from anomscan import console
    from anomscan.atomic import deliver, whole_file
    from anomscan.bundle import read_model
    from anomscan.config import available_cores
    from anomscan.options import Decision
    from anomscan.report import FORMATS
    from anomscan.screening import FeatureSample, Ranking, check, decide
    from anomscan.screening import score as screen
    from anomscan.streams import sources, text_output
    from anomscan.summary import summarise

    decision = Decision(fpr, fdr, threshold)
    if decision == Decision() and (fail_on_anomaly or move_anomalous or copy_anomalous):
        raise UsageError("what is anomalous? say so with --fpr, --fdr or --threshold")
    on_terminal = output is None and sys.stdout.isatty() and format_ is Format.csv
    with Ranking() as ranking:
        with ExitStack() as outputs:
            file = outputs.enter_context(text_output(output))
            page, numbers = (path and outputs.enter_context(whole_file(path)) for path in (report, summary))
            began, threads = monotonic(), threads or available_cores()
            loaded = read_model(model, threads, device.value)
            check(decision, loaded)
            sample = FeatureSample((top or REPORT_ROWS) if page else 0)
            with console.progress_bar() as progress:
                wanted = sources(paths, null)
                screen(wanted, loaded, ranking, k=k, threads=threads, progress=progress, sample=sample)
                calibration = loaded.calibrated(k or loaded.manifest.scorer.k)
                limit = decide(decision, ranking, calibration)
                seconds = monotonic() - began
                found = summarise(ranking, loaded, calibration, sample, decision, limit, seconds)
                if page:
                    from anomscan.html_report import write_report

                    shown = top or REPORT_ROWS
                    write_report(page, ranking, shown, found, loaded, calibration, sample, progress)
            if numbers:
                numbers.write_text(dumps(asdict(found), indent=2) + "\n", encoding="ascii")
            if on_terminal:
                console.ranking_table(ranking.rows(top or console.TABLE_ROWS))
                if top is None and ranking.scored > console.TABLE_ROWS:
                    console.message(
                        f"the first {console.TABLE_ROWS} of {ranking.scored}; --top N or -o FILE for more"
                    )
            else:
                FORMATS[format_.value](ranking.rows(top), file)
        for folder, move in ((copy_anomalous, False), (move_anomalous, True)):
            if folder:
                deliver(ranking.anomalous_paths(), folder, move=move)
    for line in found.messages():
        console.message(line)
    if fail_on_anomaly and found.anomalous:
        raise typer.Exit(EXIT_ANOMALOUS)
    if found.unreadable:
        raise typer.Exit(EXIT_UNREADABLE)


@app.command()
def evaluate(
    normal: Annotated[
        str,
        typer.Argument(
            metavar="NORMAL_DIR",
            help="Folder of normal images; or, alone, a CSV file: path,anomalous (0, 1).",
        ),
    ],
    anomalous: Annotated[
        str | None, typer.Argument(metavar="ANOMALOUS_DIR", help="Folder of anomalous images.")
    ] = None,
    model: ModelFolder = DEFAULT_MODEL,
    k: Annotated[int | None, typer.Option(min=1, help="Neighbours (default: the model's, 2)")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the confidence intervals.")] = 0,
) -> None:
    """Measure how well the model separates labelled images: AUROC, average precision, FPR at 95 % TPR."""
    from dataclasses import asdict
    from json import dumps

    from anomscan import console
    from anomscan.bundle import read_model
    from anomscan.config import available_cores
    from anomscan.evaluation import evaluate as measure
    from anomscan.evaluation import labelled
    from anomscan.images import printable
    from anomscan.screening import Ranking
    from anomscan.screening import score as screen

    images = labelled(normal, anomalous)
    cores = available_cores()
    loaded = read_model(model, cores)
    with Ranking() as normals, Ranking() as anomalies:
        for sources, ranking in ((images.normal, normals), (images.anomalous, anomalies)):
            with console.progress_bar() as progress:
                screen(sources, loaded, ranking, k=k, threads=cores, progress=progress)
            for row in ranking.rows(0):
                console.message(f"left out {printable(row.path)}: {row.error}")
        result = measure(normals.rows(), anomalies.rows(), seed)
    if json:
        typer.echo(dumps(asdict(result), indent=2))
    else:
        console.evaluation_table(result)
    if result.unreadable:
        raise typer.Exit(EXIT_UNREADABLE)


@app.command()
def export(
    out: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="The ONNX file to write.")],
    model: ModelFolder = DEFAULT_MODEL,
    images: Annotated[
        list[str] | None,
        typer.Option("--images", metavar="PATH", help="Images to check with (default: the normals)"),
    ] = None,
    int8: Int8 = False,
    force: Force = False,
) -> None:
    """Write the extractor as ONNX, after re-scoring real images with the written file."""
    from anomscan.console import message, progress_bar
    from anomscan.exporting import export as write
    from anomscan.exporting import export_int8

    _check_force(int8, force)
    if int8:
        message(f"wrote {out}; {_gain(export_int8(model, out, images or [], force=force))}")
        return
    with progress_bar() as progress:
        difference = write(model, out, images or [], progress)
    message(f"wrote {out}; scores of real images differ by {difference:.1g} at most")


@app.command()
def info(
    model: ModelFolder = DEFAULT_MODEL,
    json: Annotated[bool, typer.Option("--json", help="Print model.json instead of a table.")] = False,
) -> None:
    """Show what a model folder holds, after verifying its checksums."""
    from json import dumps

    from anomscan.bundle import read_manifest, verified
    from anomscan.console import model_table

    manifest = read_manifest(model)
    for role in manifest.files:
        verified(model, manifest, role)
    if json:
        typer.echo(dumps(manifest.to_json(), indent=2))
    else:
        model_table(manifest, str(model))


def _backbone(name: str | None, weights: Path | None, size: int | None) -> BackboneChoice:
    from anomscan.options import BackboneChoice

    return BackboneChoice(name or DEFAULT_BACKBONE, weights, size)


def _check_force(int8: bool, force: bool) -> None:
    if force and not int8:
        raise UsageError("--force goes with --int8 only")


def _gain(info: Int8Info) -> str:
    return (
        f"8 bits: {info.speed:.1f} times as fast; of the scores of normals Spearman {info.spearman:.3f}, "
        f"their p-values off by {info.p_value_change:.3f} on average"
    )


def _finish(fitted: Fitted, model: Path) -> None:
    from anomscan.console import message
    from anomscan.images import printable

    for image in fitted.unreadable:
        message(f"skipped {printable(image.path)}: {image.error}")
    method, data = fitted.manifest.method, fitted.manifest.data
    if method.selection is not None:
        message(f"{method.preset}: {method.selection['reason']}")
    how = f"{method.preset}, {method.steps} steps" if method.steps else "pretrained features"
    message(f"wrote {model}: {how}, {data.images} normals")
    if fitted.manifest.int8 is not None:
        message(_gain(fitted.manifest.int8))
    calibration = fitted.manifest.calibration
    if calibration is None:
        message(
            "no normals are held out, so that scores have no p-values; see --holdout and 'anomscan calibrate'"
        )
    else:
        groups = "" if calibration.groups == calibration.images else f" in {calibration.groups} groups"
        message(
            f"{calibration.images} more are held out{groups}: "
            f"p-values from {1 / (calibration.groups + 1):.2g} up"
        )
    if fitted.unreadable:
        raise typer.Exit(EXIT_UNREADABLE)
