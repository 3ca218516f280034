r"""Whether ``certify`` predicts what a defect that it has never seen is caught at.

For each set an index is built and certified on its held-out normals. Then a crack, a kind of defect that the
tool does not make anywhere, is made onto normals that the model has never seen, of another folder where there
is one, and the share that is caught is compared, at each size, with two predictions from held-out normals:

* ``same``: the share of cracks that is caught there, which is what ``certify`` says of the kinds it makes;
* ``others``: the mean share of the six kinds that ``certify`` makes, for a kind that nobody thought of.

    python benchmarks/certify.py certify.csv --network MODEL \
        screw=/tmp/data/screw/normal:/tmp/data/screw/incoming/good \
        tile=/tmp/data/tile/normal:/tmp/data/tile/incoming/good \
        fashion-mnist-0=/tmp/data/fm/train/0:/tmp/data/fm/test/0 flange=sample_data/normal:good

MODEL gives the network. A row a set and size, at a contrast of 80.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np

from anomscan.fit.index import IndexOptions, index
from anomscan.images.defects import DEFECTS, Defect, Values
from anomscan.images.find import Source, find
from anomscan.model.manifest import HoldOut
from anomscan.model.model import Model, read_model
from anomscan.screen.certify import FIXED_CONTRAST, SIZES, Certificate, certify, held_out_images
from anomscan.types import Progress

COLUMNS = ("set", "size", "draws", "seen", "same", "others")
MOST = 300


def crack(around: Values, size: float, contrast: float, generator: np.random.Generator) -> Values:
    """A dark broken line that turns at random, thick in the middle and thin at its ends."""
    height, width = around.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    steps, angle = 9, generator.uniform(0, 2 * np.pi)
    turns = angle + np.cumsum(generator.normal(0, 0.5, steps))
    moves = np.stack([np.sin(turns), np.cos(turns)], axis=1) * size / steps
    points = np.concatenate([np.zeros((1, 2)), moves.cumsum(axis=0)])
    points += np.array([(height - 1) / 2, (width - 1) / 2]) - points.mean(axis=0)
    dark = np.zeros((height, width), np.float32)
    for i, (start, end) in enumerate(pairwise(points)):
        along, length = end - start, max(float(np.hypot(*(end - start))), 1e-6)
        place = ((y - start[0]) * along[0] + (x - start[1]) * along[1]) / length**2
        place = np.clip(place, 0, 1)
        distance = np.hypot(y - start[0] - place * along[0], x - start[1] - place * along[1])
        thick = max(0.6, size / 30) * (1 - abs(2 * i / (steps - 1) - 1) / 1.5)
        dark = np.maximum(dark, np.clip(thick - distance + 0.5, 0, 1))
    return np.asarray(around - contrast * dark[..., None], np.float32)


def paths(folder: str, most: int) -> list[str]:
    """So many of its images, evenly spread."""
    found = [source.path for source in find([folder]) if isinstance(source, Source)]
    return [found[i] for i in np.linspace(0, len(found) - 1, min(most, len(found))).astype(int)]


def shares(certificate: Certificate) -> list[float]:
    """The mean over its kinds of the share that is caught, by size."""
    rates = [kind.by_size.rates for kind in certificate.kinds.values()]
    return [float(share) for share in np.mean(rates, axis=0)]


def rows(name: str, normal: str, other: str, arguments: argparse.Namespace) -> Iterator[dict[str, object]]:
    """The cells of one set."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, chosen = os.path.join(scratch, "model"), Path(scratch, "normal")
        shutil.copytree(arguments.network, folder)
        chosen.mkdir()
        for i, path in enumerate(paths(normal, MOST)):
            shutil.copy(path, chosen / f"{i:04}{Path(path).suffix}")
        index(os.fspath(chosen), folder, IndexOptions(), lambda *_: None, HoldOut(arguments.holdout))
        model = read_model(folder, 2)
        held, fpr, draws = held_out_images(model), arguments.fpr, arguments.draws
        told = (model, fpr, print_nothing)
        seen = certified(*told, paths(other, MOST), draws, 1, {"crack": crack})
        same = certified(*told, held, draws, 2, {"crack": crack})
        others = certified(*told, held, max(5, draws // 16), 3, DEFECTS)
    for size, *figures in zip(SIZES, seen, same, others, strict=True):
        yield dict(zip(COLUMNS, (name, size, draws, *(f"{figure:.4f}" for figure in figures)), strict=True))


def certified(
    model: Model,
    fpr: float,
    progress: Progress,
    normals: list[str],
    draws: int,
    seed: int,
    defects: Mapping[str, Defect],
) -> list[float]:
    """The share that is caught, by size."""
    return shares(certify(model, normals, fpr, progress, draws, seed, defects, (FIXED_CONTRAST,)))


def print_nothing(*_: object) -> None:
    """Take progress."""


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="CSV file, added to")
    parser.add_argument("sets", nargs="+", metavar="NAME=NORMAL:OTHER_NORMAL")
    parser.add_argument("--network", required=True, help="model folder that has the network")
    parser.add_argument("--fpr", type=float, default=0.05)
    parser.add_argument("--holdout", type=float, default=0.3)
    parser.add_argument("--draws", type=int, default=80, help="cracks a cell [80]")
    arguments = parser.parse_args()
    if not arguments.out.exists():
        arguments.out.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    for text in arguments.sets:
        name, _, folders = text.partition("=")
        normal, other = folders.split(":")
        for row in rows(name, normal, other, arguments):
            with open(arguments.out, "a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)
            print(row, flush=True)


if __name__ == "__main__":
    main()
