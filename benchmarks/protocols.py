"""The papers' protocols, task by task, on any ROOT with ``train/CLASS/*`` and ``test/CLASS/*``.

* ``one-vs-rest``: one class is normal, every other anomalous.
* ``hold-one-out``: one class is anomalous, every other normal.
* ``small-modes``: two classes are normal, the second thinned to ``--ratio`` of the first; the secondary
  AUROC is that of the second class against the anomalies (Transfer-Based Semantic AD, sec. 5.4).
* ``outlier-exposure``: one class is normal, four others are there to learn from, as outliers or, labelled,
  as reference images, and the rest are anomalous.
* ``contaminated``: as ``one-vs-rest``, but ``--ratio`` of the normals are of the other classes, unknown.

Every task runs the tool as a user would: ``adapt`` on a folder of links, then the ranking of the test
images. A results CSV gets one line a task; a task that has its line is not run again, so an interrupted
run continues where it stopped. ``--table`` prints the CSV as Markdown. A method may name its scorer:
``none:knn-euclidean`` is DN2 as its paper has it, ``none:knn`` by the cosine.

    python benchmarks/protocols.py --root benchmarks/data/fashion-mnist --method none none:knn panda-es
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomscan import DEFAULT_BACKBONE
from anomscan.adapt.options import AdaptOptions, BackboneChoice
from anomscan.adapt.presets import find_preset
from anomscan.fit.adapt import adapt
from anomscan.images.find import find
from anomscan.model.folder import read_manifest
from anomscan.model.model import read_model
from anomscan.pipeline import available_cores
from anomscan.screen.run import ScoreJob
from anomscan.screen.run import run as score
from anomscan.stats.measures import auroc

KIND = ("protocol", "method", "backbone", "normals", "size", "ratio")
"""What a mean is taken over all else of."""
PROTOCOLS = ("one-vs-rest", "hold-one-out", "small-modes", "outlier-exposure", "contaminated")
RATIOS = ("small-modes", "contaminated")
"""Protocols that ``--ratio`` is a part of."""
RESULTS = Path(__file__).parent / "protocols.csv"


@dataclass(frozen=True)
class Run:
    """What decides a task's result; the first columns of the results."""

    protocol: str
    task: str
    method: str
    normals: int
    test: int
    size: int
    ratio: float
    seed: int
    backbone: str = DEFAULT_BACKBONE


@dataclass(frozen=True)
class Task:
    """The images of a run: ``primary`` normals' classes, the thinned class, outliers', anomalies'.

    ``hidden`` are the classes of the anomalies among the normals.
    """

    primary: list[str]
    secondary: str | None
    outliers: list[str]
    anomalous: list[str]
    hidden: list[str] = field(default_factory=list)


def make_task(protocol: str, name: str, classes: list[str]) -> Task:
    """The classes of a task; ``name`` is the class in question."""
    others = [other for other in classes if other != name]
    following = classes[classes.index(name) + 1 :] + classes[: classes.index(name)]
    if protocol == "hold-one-out":
        return Task(others, None, [], [name])
    if protocol == "small-modes":
        return Task([name], following[0], [], following[1:])
    if protocol == "outlier-exposure":
        return Task([name], None, following[:4], following[4:])
    if protocol == "contaminated":
        return Task([name], None, [], others, hidden=others)
    return Task([name], None, [], others)


def draw(folder: Path, classes: list[str], count: int, generator: np.random.Generator) -> list[Path]:
    """``count`` files of those classes, without replacement."""
    files = sorted(path for name in classes for path in (folder / name).iterdir())
    return [files[i] for i in generator.permutation(len(files))[:count]]


def linked(folder: Path, files: list[Path]) -> str:
    """A folder of links, one subfolder a class."""
    for file in files:
        link = folder / file.parent.name / file.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.resolve())
    return os.fspath(folder)


def scores(model: str, folder: str) -> tuple[NDArray[np.float32], list[str]]:
    """The score and the class of every image below ``folder``."""
    with score(ScoreJob(find([folder]), read_model(model, available_cores())), lambda *_: None) as outcome:
        rows = list(outcome.ranking.rows())
    return np.array([row.score for row in rows], np.float32), [Path(row.path).parent.name for row in rows]


def measure(root: Path, run: Run, task: Task, scratch: Path, weights: str | None = None) -> dict[str, float]:
    """Adapt, score, and compare with the truth; ``weights`` is a file of those of the backbone."""
    generator = np.random.default_rng((run.seed, int(task.primary[0].encode().hex(), 16) % 2**32))
    hidden = round(run.ratio * run.normals) if task.hidden else 0
    normals = draw(root / "train", task.primary, run.normals - hidden, generator)
    normals += draw(root / "train", task.hidden, hidden, generator)
    if task.secondary is not None:
        normals += draw(root / "train", [task.secondary], round(run.ratio * run.normals), generator)
    everything = draw(root / "test", sorted(os.listdir(root / "test")), run.test, np.random.default_rng(0))
    counted = {*task.primary, *task.anomalous, *([task.secondary] if task.secondary else [])}
    tested = [path for path in everything if path.parent.name in counted]
    method, _, scorer = run.method.partition(":")
    further: dict[str, str] = {}
    for option in sorted(need.option for need in find_preset(method).needs if need.required):
        others = draw(root / "train", task.outliers, run.normals, generator)
        further[option] = linked(scratch / option, others)
    options = AdaptOptions(
        method,
        BackboneChoice(run.backbone, weights, run.size),
        outliers=further.get("outliers"),
        reference=further.get("reference"),
        scorer=scorer or None,
        seed=run.seed,
    )
    began, model = time.monotonic(), os.fspath(scratch / "model")
    adapt(linked(scratch / "normal", normals), model, options, lambda *_: None)
    seconds = time.monotonic() - began
    values, classes = scores(model, linked(scratch / "test", tested))
    names = np.array(classes)
    result = {"auroc": 100 * auroc(values, np.isin(names, task.anomalous)), "adapt_seconds": seconds}
    if task.secondary is not None:
        pair = np.isin(names, [task.secondary, *task.anomalous])
        result["secondary_auroc"] = 100 * auroc(values[pair], np.isin(names[pair], task.anomalous))
    return result


COLUMNS = [
    *(column.name for column in fields(Run)),
    "auroc",
    "secondary_auroc",
    "adapt_seconds",
    "date",
    "versions",
]


def done(results: Path) -> list[dict[str, str]]:
    """The lines of the results so far."""
    if not results.exists():
        return []
    with open(results, newline="") as file:
        return list(csv.DictReader(file))


def table(results: Path, seeds: list[int]) -> None:
    """Print every task, the mean of its runs with ``seeds``, and the mean of each kind of run."""
    groups: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for line in done(results):
        if int(line["seed"]) not in seeds:
            continue
        tasks = groups.setdefault(tuple(line[name] for name in KIND), {})
        tasks.setdefault(line["task"], []).append(float(line["auroc"]))
    names = sorted({name for tasks in groups.values() for name in tasks})
    print("| " + " | ".join([*KIND, *names, "mean"]) + " |")
    print("|---" * (len(KIND) + len(names) + 1) + "|")
    for kind, tasks in sorted(groups.items()):
        means = {name: float(np.mean(values)) for name, values in tasks.items()}
        cells = [f"{means[name]:.1f}" if name in means else "" for name in names]
        print("| " + " | ".join([*kind, *cells, f"{np.mean(list(means.values())):.2f}"]) + " |")


def runs(arguments: argparse.Namespace, classes: list[str]) -> Iterator[tuple[Run, Task]]:
    """Every run that the command line asks for, task by task, so that methods can be compared early."""
    for seed in arguments.seeds:
        for protocol in arguments.protocol:
            for name in arguments.classes or classes:
                for method in arguments.method:
                    yield (
                        Run(
                            protocol, name, method, arguments.normals, arguments.test, arguments.size,
                            arguments.ratio if protocol in RATIOS else 1.0, seed, arguments.backbone,
                        ),
                        make_task(protocol, name, classes),
                    )  # fmt: skip


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path)
    parser.add_argument("--protocol", nargs="+", choices=PROTOCOLS, default=["one-vs-rest", "hold-one-out"])
    parser.add_argument("--method", nargs="+", default=["none"])
    parser.add_argument("--classes", nargs="+", help="tasks [all]")
    parser.add_argument("--normals", type=int, default=500)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--ratio", type=float, default=0.1, help="of small-modes and contaminated [0.1]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--backbone", default=DEFAULT_BACKBONE)
    parser.add_argument("--weights", help="a file of the backbone's, where timm cannot load them")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the results so far and stop")
    arguments = parser.parse_args()
    if arguments.table:
        table(arguments.results, arguments.seeds)
        return
    classes = sorted(os.listdir(arguments.root / "train"))
    have = {tuple(line[column.name] for column in fields(Run)) for line in done(arguments.results)}
    for run, task in runs(arguments, classes):
        key = {name: str(value) for name, value in asdict(run).items()}
        if tuple(key.values()) in have:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            result = measure(arguments.root, run, task, Path(scratch), arguments.weights)
            versions = read_manifest(os.path.join(scratch, "model")).versions
        line = {name: round(value, 3) for name, value in result.items()}
        day = datetime.date.today().isoformat()
        text = " ".join(f"{name}={version}" for name, version in versions.items())
        new = not arguments.results.exists()
        with open(arguments.results, "a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow({**key, **line, "date": day, "versions": text})
        print(run.protocol, run.task, run.method, line, flush=True)


if __name__ == "__main__":
    main()
