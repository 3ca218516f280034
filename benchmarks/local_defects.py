"""Small defects, by what is looked at: whole images, patches, both, or what ``auto`` chooses.

    python benchmarks/local_defects.py /data/screw /data/tile /tmp/surfaces/wood --normals 0 60 30

Each ROOT has ``normal``, ``incoming/good``, ``incoming/bad`` and, for the pixel measures, ``masks``. The tool
is run as a user would: ``adapt --method stages`` with default settings but the focus, ``evaluate``. With
``--normals N`` only N normals are drawn (seed 0); 0 takes all. A line of ``local_defects.csv`` is one run;
one that is there is not made again, so that an interrupted run continues. ``--table`` prints them.

    python benchmarks/local_defects.py --choices /data/cifar10 /data/fashion-mnist --normals 300 60 30

prints what ``auto`` chooses for each class of ROOT/train; where it is whole images, the rows are those of
``--focus image``.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import itertools
import os
import platform
import tempfile
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import onnxruntime

import anomscan
from anomscan.adapt.backbones import load_backbone
from anomscan.adapt.focus import choose
from anomscan.adapt.folders import decoded
from anomscan.adapt.options import AdaptOptions, FocusChoice
from anomscan.adapt.stage_readout import features_of
from anomscan.fit.adapt import adapt
from anomscan.images.find import find_images
from anomscan.model.manifest import HoldOut
from anomscan.model.model import read_model
from anomscan.pipeline import available_cores
from anomscan.screen.evaluate import evaluate, labelled

RESULTS = Path(__file__).parent / "local_defects.csv"
FOCI = ("image", "patch", "both", "auto")


@dataclass(frozen=True)
class Run:
    """What decides a result; the first columns."""

    data: str
    normals: int
    method: str
    focus: str


@dataclass(frozen=True)
class Result:
    """What it came to: AUROC and the pixel measures in %, seconds to adapt and images a second to score."""

    chosen: str
    size: int
    auroc: float
    pixel_auroc: float | None
    pro: float | None
    hits: float | None
    adapt_seconds: float
    images_per_second: float
    reason: str
    machine: str
    versions: str
    date: str


def few(folder: Path, normals: int, into: Path) -> Path:
    """A folder of links to so many of the normals."""
    sources = find_images(str(folder))
    for i in np.random.default_rng(0).permutation(len(sources))[:normals]:
        path = Path(sources[i].path)
        os.symlink(path.resolve(), into / path.name)
    return into


def measured(root: Path, run: Run) -> Result:
    """Adapt and evaluate."""
    with tempfile.TemporaryDirectory() as scratch:
        model, normal = Path(scratch, "model"), root / "normal"
        if run.normals:
            (Path(scratch) / "normal").mkdir()
            normal = few(normal, run.normals, Path(scratch) / "normal")
        options = AdaptOptions(method=run.method, focus=FocusChoice(run.focus))
        began = time.perf_counter()
        manifest = adapt(str(normal), str(model), options, lambda *_: None, HoldOut(0.2)).manifest
        fitted = time.perf_counter()
        masks = str(root / "masks") if manifest.patches and (root / "masks").is_dir() else None
        images = labelled(str(root / "incoming/good"), str(root / "incoming/bad"))
        loaded = read_model(str(model), available_cores())
        found = evaluate(images, loaded, None, 0, lambda *_: None, lambda _: None, masks)
        seconds = time.perf_counter() - fitted
        place = found.localised
        return Result(
            chosen=manifest.focus.looks,
            size=manifest.focus.size or manifest.preprocessing.height,
            auroc=round(100 * found.auroc.value, 2),
            pixel_auroc=None if place is None else round(100 * place.pixel_auroc, 2),
            pro=None if place is None else round(100 * place.pro, 2),
            hits=None if place is None else round(100 * place.hits, 1),
            adapt_seconds=round(fitted - began, 1),
            images_per_second=round((found.normal + found.anomalous) / seconds, 1),
            reason=manifest.focus.reason,
            machine=f"{available_cores()} cores, {platform.machine()}",
            versions=f"anomscan {anomscan.__version__}, onnxruntime {onnxruntime.__version__}",
            date=datetime.date.today().isoformat(),
        )


def lines() -> list[dict[str, str]]:
    """The results so far."""
    if not RESULTS.exists():
        return []
    with open(RESULTS, newline="") as file:
        return list(csv.DictReader(file))


def measure(root: Path, run: Run) -> None:
    """Add a line to the results, where it is not there."""
    key = {name: str(value) for name, value in asdict(run).items()}
    if any(key.items() <= line.items() for line in lines()):
        return
    result, new = measured(root, run), not RESULTS.exists()
    with open(RESULTS, "a", newline="") as file:
        names = [field.name for field in (*fields(Run), *fields(Result))]
        writer = csv.DictWriter(file, names, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow({**asdict(run), **asdict(result)})
    print(run, result.chosen, result.size, result.auroc, result.pixel_auroc, flush=True)


def choices(root: Path, counts: list[int]) -> None:
    """Print what ``auto`` looks at, and why, for so many normals of each class."""
    backbone = load_backbone()
    for folder in sorted((root / "train").iterdir()):
        for count in counts:
            with tempfile.TemporaryDirectory() as name:
                scratch = Path(name)
                (scratch / "normal").mkdir()
                sources = find_images(str(few(folder, count, scratch / "normal")))
                images = decoded(sources, backbone.preprocessing)
                sight = choose(
                    backbone,
                    sources,
                    FocusChoice("auto"),
                    features=features_of([backbone.model], backbone, images, scratch),
                    only_own_size=False,
                    scratch=scratch,
                    progress=lambda *_: None,
                )
            print(f"{root.name} {folder.name}, {len(sources)} normals: {sight.info.describe()}", flush=True)


def table() -> None:
    """Print the results, a line a set and number of normals, as Markdown."""
    found: dict[tuple[str, str, str], dict[str, dict[str, str]]] = {}
    for line in lines():
        found.setdefault((line["data"], line["normals"], line["method"]), {})[line["focus"]] = line
    print("| set | normals | method | image | patch | both | auto | chosen | pixel AUROC | PRO | hits |")
    print("|" + "---|" * 11)
    for (data, normals, method), by in found.items():
        areas = [by[focus]["auroc"] if focus in by else "" for focus in FOCI]
        last = by.get("auto") or by.get("both") or {}
        chosen = f"{last.get('chosen', '')} {last.get('size', '')}"
        pixels = [last.get(name, "") for name in ("pixel_auroc", "pro", "hits")]
        cells = [data, "all" if normals == "0" else normals, method, *areas, chosen, *pixels]
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("roots", nargs="*", type=Path, metavar="ROOT")
    parser.add_argument("--normals", nargs="+", type=int, default=[0])
    parser.add_argument("--method", nargs="+", default=["stages"])
    parser.add_argument("--focus", nargs="+", default=list(FOCI), choices=FOCI)
    parser.add_argument("--choices", action="store_true")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    for root in given.roots:
        if given.choices:
            choices(root, given.normals)
            continue
        for normals, method, focus in itertools.product(given.normals, given.method, given.focus):
            measure(root, Run(root.name, normals, method, focus))
    if given.table:
        table()


if __name__ == "__main__":
    main()
