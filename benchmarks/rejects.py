"""What a model learns from missed anomalies: the AUROC over the *other* anomalies, and the false alarms.

Any folder with ``normal``, ``incoming/good`` and ``incoming/bad``. A model by default settings (method
``stages``, a fifth held out) is made once and kept in ``--models``, with what its network gives of the
incoming images. Then 1, 5 and 20 of the anomalies, drawn anew each time, are rejects as ``index --reject``
records them; the rest and the good ones are scored. Alarms are shares of the good ones at
``--fpr 0.05``, and may be a twentieth on average over the normals that calibrate; caught is the share of the
other anomalies. Where the set has ``masks``, the same rejects are recorded once more with a box.

Every run is a line of a CSV file; those that are there are not run again. Prints Markdown.

    python benchmarks/rejects.py --root /tmp/data/tile /tmp/data/screw --models /tmp/reject-models
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import platform
from dataclasses import asdict, dataclass, fields
from functools import reduce
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomscan.adapt.options import AdaptOptions
from anomscan.fit.adapt import adapt
from anomscan.fit.held_out import HeldOut
from anomscan.fit.rejects import OddPatches
from anomscan.images.decode import decode_all
from anomscan.images.find import Unreadable, find
from anomscan.model.manifest import HoldOut
from anomscan.model.model import Model, read_model
from anomscan.pipeline import available_cores
from anomscan.scoring.focused import Focused
from anomscan.scoring.rejects import Rejects, raised_maps
from anomscan.stats.measures import auroc
from anomscan.types import Box, Features, Outputs, PatchMaps, Reading

COUNTS = (1, 5, 20)
FPR = 0.05
BLOCK = 64


@dataclass(frozen=True)
class Run:
    """One draw: figures without rejects and with them, over the same images."""

    set: str
    normals: int
    rejects: int
    draw: int
    box: bool
    auroc_before: float
    auroc_after: float
    alarms_before: float
    alarms_after: float
    caught_before: float
    caught_after: float


@dataclass(frozen=True)
class Incoming:
    """What the network gives of n images, and their maps by the normals.

    ``bad`` says which are anomalies, ``paths`` where they are.
    """

    paths: list[str]
    features: Features
    patches: Features | None
    maps: PatchMaps | None
    bad: np.ndarray


def run_of(row: dict[str, str]) -> Run:
    """What a line of the results says."""
    counts = (int(row["normals"]), int(row["rejects"]), int(row["draw"]))
    figures = (float(row[field.name]) for field in fields(Run)[5:])
    return Run(row["set"], *counts, row["box"] == "True", *figures)


def model_of(root: Path, folder: Path) -> Model:
    """The model of a set by default settings; made where there is none."""
    if not (folder / "model.json").exists():
        options = AdaptOptions("stages")
        adapt(str(root / "normal"), str(folder), options, lambda *_: None, HoldOut(0.2))
    return read_model(str(folder), available_cores())


def incoming_of(model: Model, root: Path, cache: Path) -> Incoming:
    """The incoming images of a set, run through the network once."""
    if not cache.exists():
        embed(model, root, cache)
    with np.load(cache) as arrays:
        features, bad, paths = arrays["features"], arrays["bad"], arrays["paths"].tolist()
        patches = arrays["patches"].astype(np.float32) if "patches" in arrays else None
    maps = None
    if patches is not None and model.patches is not None:
        scorer = model.scorer
        compared = [scorer.compared(Outputs(features[at], patches[at])).maps for at in blocks(len(bad))]
        maps = PatchMaps.joined([one for one in compared if one is not None])
    return Incoming(paths, features, patches, maps, bad)


def blocks(count: int) -> list[slice]:
    """So many at a time."""
    return [slice(start, start + BLOCK) for start in range(0, count, BLOCK)]


def embed(model: Model, root: Path, cache: Path) -> None:
    """Write what the network gives of all incoming images to ``cache``."""
    outputs, labels, paths = [], [], list[str]()
    for number, what in enumerate(("good", "bad")):
        sources = find([str(root / "incoming" / what)])
        images = decode_all(sources, model.manifest.preprocessing, available_cores())
        for batch in model.extractor.embed(images):
            if not isinstance(batch, Unreadable):
                outputs.append(batch.outputs)
                labels += [number] * len(batch.images)
                paths += [image.path for image in batch.images]
    whole = Outputs.joined(outputs)
    arrays = {"features": whole.image, "bad": np.array(labels, np.bool_), "paths": np.array(paths)}
    if whole.patches is not None:
        arrays["patches"] = whole.patches.astype(np.float16)
    np.savez(cache, **arrays)  # type: ignore[arg-type]


def mask_of(path: str) -> Path:
    """Where the mask of an anomaly is, if there are masks: ``masks/NAME.png`` beside ``incoming``."""
    return Path(path).parents[2] / "masks" / f"{Path(path).stem}.png"


def box_of(path: str) -> Box:
    """The smallest box around the defect."""
    with Image.open(mask_of(path)) as mask:
        rows, columns = np.nonzero(np.asarray(mask))
    x, y = int(columns.min()), int(rows.min())
    return x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y


def rejects_of(model: Model, images: Incoming, rows: np.ndarray, *, box: bool) -> Rejects:
    """Some of the images, as ``index --reject`` makes rejects of them, one at a time."""
    parts = []
    for row in rows:
        found = Rejects([images.paths[row]], images.features[[row]])
        if images.patches is not None and isinstance(model.scorer, Focused):
            odd = OddPatches(model.scorer, None, box_of(found.paths[0]) if box else None, Reading())
            odd.add(images.patches[[row]], found.paths)
            found = odd.of(found)
        parts.append(found)
    return reduce(Rejects.and_, parts)


def judged(
    folder: Path, model: Model, images: Incoming, rejects: Rejects | None
) -> tuple[Features, NDArray[np.float64]]:
    """Scores and p-values of all images beside rejects."""
    scorer, maps = model.scorer, images.maps
    scorer.reject(rejects)
    if rejects is not None and rejects.counting is not None and maps is not None:
        assert images.patches is not None
        assert scorer.patches is not None
        near = [rejects.counting.maps(images.patches[at]) for at in blocks(len(images.bad))]
        maps = raised_maps(maps, PatchMaps.joined(near), len(scorer.patches))
    scores = scorer.score(Outputs(images.features, maps=maps), scorer.info.k)
    held_out = HeldOut.without(str(folder), model, set())
    assert held_out is not None
    calibration, _ = held_out.scored(scorer, model.normals)
    return scores, calibration.p_values(scores)


Wanted = tuple[int, int, bool]


def runs(name: str, folder: Path, model: Model, images: Incoming, wanted: list[Wanted]) -> list[Run]:
    """The figures of each wanted number of rejects, draw, and whether with boxes."""
    before, p_before = judged(folder, model, images, None)
    found = []
    for count, draw, box in wanted:
        rows = np.random.default_rng(draw).permutation(np.flatnonzero(images.bad))[:count]
        left = np.setdiff1d(np.arange(len(images.bad)), rows)
        after, p_after = judged(folder, model, images, rejects_of(model, images, rows, box=box))
        figures = []
        bad = images.bad[left]
        for scores, p_values in ((before, p_before), (after, p_after)):
            called = p_values[left] <= FPR
            figures.append((auroc(scores[left], bad), called[~bad].mean(), called[bad].mean()))
        pairs = [round(float(value), 4) for pair in zip(*figures, strict=True) for value in pair]
        found.append(Run(name, model.manifest.data.images, count, draw, box, *pairs))
        model.scorer.reject(None)
    return found


def table(found: list[Run]) -> None:
    """Print the means over draws."""
    print("| set | rejects | box | AUROC of the others | largest loss | false alarms | caught |")
    print("|---|---|---|---|---|---|---|")
    for name, count, box in dict.fromkeys((run.set, run.rejects, run.box) for run in found):
        own = [run for run in found if (run.set, run.rejects, run.box) == (name, count, box)]
        mean = {
            field.name: 100 * np.mean([getattr(run, field.name) for run in own]) for field in fields(Run)[5:]
        }
        loss = max(0.0, *(100 * (run.auroc_before - run.auroc_after) for run in own))
        pairs = (
            f"{mean[f'{what}_before']:.1f} to {mean[f'{what}_after']:.1f}" for what in ("alarms", "caught")
        )
        aurocs = f"{mean['auroc_before']:.2f} to {mean['auroc_after']:.2f}"
        print(
            "| " + " | ".join([name, str(count), "yes" if box else "", aurocs, f"{loss:.2f}", *pairs]) + " |"
        )


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", nargs="+", type=Path, required=True, help="with normal, incoming/good and bad"
    )
    parser.add_argument("--models", type=Path, default=Path("benchmarks/data/rejects"), help="kept there")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    arguments = parser.parse_args()
    names = [field.name for field in fields(Run)]
    done: list[Run] = []
    if arguments.out.exists():
        with open(arguments.out, newline="") as file:
            done += map(run_of, csv.DictReader(file))
    arguments.models.mkdir(parents=True, exist_ok=True)
    for root in arguments.root:
        there = {(run.rejects, run.draw, run.box) for run in done if run.set == root.name}
        boxes = (False, True) if (root / "masks").exists() else (False,)
        every = [(count, draw, box) for box in boxes for count in COUNTS for draw in range(arguments.draws)]
        wanted = [each for each in every if each not in there]
        if not wanted:
            continue
        folder = arguments.models / root.name
        model = model_of(root, folder)
        images = incoming_of(model, root, arguments.models / f"{root.name}.npz")
        for each in wanted:
            done += runs(root.name, folder, model, images, [each])
            with open(arguments.out, "w", newline="") as file:
                writer = csv.DictWriter(file, names, lineterminator=os.linesep)
                writer.writeheader()
                writer.writerows(asdict(run) for run in done)
    table([run for run in done if run.set in {root.name for root in arguments.root}])
    print(
        f"\n{arguments.draws} draws, {available_cores()} cores of {platform.machine()}, Python "
        f"{platform.python_version()}, numpy {np.__version__}; {datetime.date.today().isoformat()}"
    )


if __name__ == "__main__":
    main()
