"""How alike ``score`` and the exported file are, on a folder of normals and whatever is to be scored.

For each configuration a model is made of ``--normal`` and written by ``export --with-scorer``, which scores
the images below ``--images`` by the model and by the file, in every backend that is installed, and refuses a
file that says something else. The table has its largest differences, how many images have another rank (ties
within the rounding of 32 bits change places), how many p-values and decisions differ, and the median time of
one image.

    python benchmarks/export_parity.py --normal /data/tile/normal --images /data/tile/incoming --size 96
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import tempfile
from pathlib import Path

from anomscan.adapt.options import AdaptOptions, BackboneChoice, FocusChoice
from anomscan.errors import AnomscanError
from anomscan.fit.adapt import adapt
from anomscan.fit.export_scored import ScoredOptions, export_scored
from anomscan.model.manifest import HoldOut

CONFIGURATIONS = {
    "none": ("none", None, "image", {}),
    "none, mahalanobis": ("none", "mahalanobis", "image", {}),
    "stages": ("stages", None, "image", {}),
    "none, patches too": ("none", None, "both", {}),
    "none, --fp16": ("none", None, "image", {"fp16": True}),
    "none, --int8": ("none", None, "image", {"int8": True}),
    "panda-ses": ("panda-ses", None, "image", {}),
    "panda-oe": ("panda-oe", None, "image", {}),
}
COLUMNS = ("model", "images", "backend", "scores", "maps", "ranks", "p-values", "decisions", "alarms", "ms")


def silent(*_: object) -> None:
    """Take progress and say nothing."""


def main() -> None:
    """Make, export and compare; a line of the table as soon as it is known."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--normal", required=True)
    parser.add_argument("--images", nargs="+", required=True)
    parser.add_argument("--size", type=int)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--outliers", help="for panda-oe")
    parser.add_argument("--fpr", type=float, default=0.05)
    parser.add_argument("--only", nargs="+", choices=CONFIGURATIONS, default=list(CONFIGURATIONS))
    asked = parser.parse_args()
    print(f"{datetime.date.today()}, {os.cpu_count()} cores of {platform.machine()}\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    for name in asked.only:
        method, scorer, looks, options = CONFIGURATIONS[name]
        if method == "panda-oe" and asked.outliers is None:
            continue
        choice = AdaptOptions(
            method=method,
            scorer=scorer,
            backbone=BackboneChoice(size=asked.size),
            focus=FocusChoice(looks),
            outliers=asked.outliers if method == "panda-oe" else None,
            steps=asked.steps if method.startswith("panda") else None,
        )
        with tempfile.TemporaryDirectory() as scratch:
            folder, out = str(Path(scratch, "model")), str(Path(scratch, "model.onnx"))
            try:
                adapt(asked.normal, folder, choice, silent, HoldOut(0.2))
                parity = export_scored(
                    folder, out, ScoredOptions(tuple(asked.images), asked.fpr, **options), silent
                )
            except AnomscanError as error:
                print(f"| {name} | {error} |", flush=True)
                continue
        for backend in parity.backends:
            found = backend.agreement
            cells = [name, parity.images, backend.version, f"{found.score:.1e}"]
            cells += ["" if found.map is None else f"{found.map:.1e}", found.ranks, found.p_values]
            cells += [found.decisions, parity.anomalous, f"{backend.milliseconds:.1f}"]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
        if parity.change is not None:
            found = parity.change
            cells = [name, parity.images, "against `score`", f"{found.score:.1e}"]
            cells += [
                "" if found.map is None else f"{found.map:.1e}",
                found.ranks,
                "",
                found.decisions,
                "",
                "",
            ]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
