"""How alike ``score`` and the exported file are, on a folder of normals and whatever is to be scored.

For each configuration a model is made of ``--normal`` and written by ``export --with-scorer``, which scores
the images below ``--images`` by the model and by the file, in every backend that is installed, and refuses a
file that says something else. The table has its largest differences, how many images have another rank (ties
within the rounding of 32 bits change places), how many p-values and decisions differ, and the median time of
one image. ``--model`` takes models that are there instead of making some.

    python benchmarks/export_parity.py --normal /data/tile/normal --images /data/tile/incoming --size 96
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from anomscan.adapt.options import AdaptOptions, BackboneChoice, FocusChoice
from anomscan.errors import AnomscanError
from anomscan.fit.adapt import adapt
from anomscan.fit.export_scored import ScoredOptions, export_scored
from anomscan.fit.parity import Agreement, Parity
from anomscan.model.manifest import HoldOut

PLAIN = ScoredOptions()
CONFIGURATIONS = {
    "none": ("none", None, "image", PLAIN),
    "none, mahalanobis": ("none", "mahalanobis", "image", PLAIN),
    "stages": ("stages", None, "image", PLAIN),
    "none, patches too": ("none", None, "both", PLAIN),
    "none, --fp16": ("none", None, "image", ScoredOptions(fp16=True)),
    "none, --int8": ("none", None, "image", ScoredOptions(int8=True)),
    "panda-ses": ("panda-ses", None, "image", PLAIN),
    "panda-oe": ("panda-oe", None, "image", PLAIN),
}
COLUMNS = (
    *("model", "images", "backend", "scores", "maps", "ranks", "Spearman"),
    *("p-values", "decisions", "alarms", "ms"),
)


def silent(*_: object) -> None:
    """Take progress and say nothing."""


def made(name: str, asked: argparse.Namespace, folder: str) -> None:
    """Let ``folder`` be the model of a configuration."""
    method, scorer, looks, _ = CONFIGURATIONS[name]
    choice = AdaptOptions(
        method=method,
        scorer=scorer,
        backbone=BackboneChoice(size=asked.size),
        focus=FocusChoice(looks),
        outliers=asked.outliers if method == "panda-oe" else None,
        steps=asked.steps if method.startswith("panda") else None,
    )
    adapt(asked.normal, folder, choice, silent, HoldOut(0.2))


def lines(name: str, parity: Parity) -> Iterator[str]:
    """The lines of the table: one a backend, and what another search or other weights change."""
    for backend in parity.backends:
        cells = [backend.version, *_cells(backend.agreement), parity.anomalous, f"{backend.milliseconds:.1f}"]
        yield f"| {' | '.join(map(str, [name, parity.images, *cells]))} |"
    if parity.change is not None:
        cells = ["against `score`", *_cells(parity.change), "", ""]
        yield f"| {' | '.join(map(str, [name, parity.images, *cells]))} |"


def _cells(found: Agreement) -> list[object]:
    maps = "" if found.map is None else f"{found.map:.1e}"
    spearman = f"{found.spearman:.4f}"
    return [f"{found.score:.1e}", maps, found.ranks, spearman, found.p_values, found.decisions]


def main() -> None:
    """Make, export and compare; a line of the table as soon as it is known."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--normal", help="normals to make models of")
    parser.add_argument("--model", nargs="+", default=[], help="or models that are there")
    parser.add_argument("--images", nargs="+", required=True)
    parser.add_argument("--size", type=int)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--outliers", help="for panda-oe, which is left out without")
    parser.add_argument("--fpr", type=float, default=0.05)
    parser.add_argument("--only", nargs="+", choices=CONFIGURATIONS, default=list(CONFIGURATIONS))
    asked = parser.parse_args()
    names = [name for name in asked.only if name != "panda-oe" or asked.outliers] if asked.normal else []
    print(f"{datetime.date.today()}, {os.cpu_count()} cores of {platform.machine()}\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    for name in [*asked.model, *names]:
        with tempfile.TemporaryDirectory() as scratch:
            folder, options = name, PLAIN
            try:
                if name in names:
                    folder, options = str(Path(scratch, "model")), CONFIGURATIONS[name][-1]
                    made(name, asked, folder)
                scored = replace(options, images=tuple(asked.images), fpr=asked.fpr)
                parity = export_scored(folder, str(Path(scratch, "model.onnx")), scored, silent)
            except AnomscanError as error:
                print(f"| {name} | {error} |", flush=True)
                continue
        print("\n".join(lines(Path(name).name, parity)), flush=True)


if __name__ == "__main__":
    main()
