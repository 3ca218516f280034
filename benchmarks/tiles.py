"""Small defects in large pictures, by the tiles that these are looked at in.

    python benchmarks/tiles.py draw /tmp/large
    python benchmarks/tiles.py measure /tmp/large

The first draws pictures of 2000 x 1500 pixels of made surfaces (see ``surfaces.py``; at half that size, then
enlarged), good ones and some with a pit, stain, scratch, particle or crack from 12 px on. The second adapts
to good ones, as a user would (``--method stages``), without tiles, with ``--tiles 3x4`` and with ``--defect
12px``, and evaluates. A line of ``tiles.csv`` is one run; one that is there is not made again. Other grids
and sizes are named by ``--tiles``.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import platform
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from surfaces import (
    DEFECTS,
    SURFACES,
    VISIBLE,
    Plane,
    Sheet,
    Surface,
    noisy,
    random_camera,
    random_sheet,
    seen,
)

import anomscan
from anomscan.adapt.options import AdaptOptions
from anomscan.fit.adapt import adapt
from anomscan.images.tiling import TileChoice
from anomscan.model.manifest import HoldOut
from anomscan.model.model import read_model
from anomscan.pipeline import available_cores
from anomscan.screen.evaluate import evaluate, labelled

RESULTS = Path(__file__).parent / "tiles.csv"
SIDE, ENLARGED = 1000, 2
"""Of the square that is drawn, in pixels; the middle three quarters of its rows are the picture, enlarged."""
WINDOW = 160
"""Pixels of the drawing whose side a defect takes for that of the picture; it has 1 to 8 % of it."""
KINDS = ("pit", "stain", "scratch", "particle", "crack")
NAMES = ("brushed_metal", "wood")
NORMALS, GOOD, BAD = 20, 15, 15
WHOLE = "whole"
ASKED = (WHOLE, "3x4", "12px")


@dataclass(frozen=True)
class Result:
    """One run: what was asked for and what it came to; AUROC and hits in %."""

    surface: str
    asked: str
    grid: str
    focus: str
    auroc: float
    pixel_auroc: float | None
    hits: float | None
    adapt_seconds: float
    ms_per_image: float
    normals: int
    machine: str
    versions: str
    date: str


def cropped(levels: Plane) -> Plane:
    """The rows in the middle, enlarged."""
    rows = levels[SIDE // 8 : SIDE - SIDE // 8]
    size = (ENLARGED * rows.shape[1], ENLARGED * rows.shape[0])
    bands = [Image.fromarray(rows[..., band]).resize(size, Image.Resampling.BICUBIC) for band in range(3)]
    return np.stack([np.asarray(band, np.float32) for band in bands], axis=2).clip(0, 255)


def flawed(surface: Surface, sheet: Sheet, kind: str, rng: np.random.Generator) -> Surface:
    """The same with a small defect somewhere."""
    zoom = SIDE / WINDOW
    left, top = rng.uniform(0.05, 0.95 - 1 / zoom), rng.uniform(0.17, 0.83 - 1 / zoom)
    near = Sheet(
        (sheet.x - np.float32(left)) * np.float32(zoom),
        (sheet.y - np.float32(top)) * np.float32(zoom),
        sheet.shift,
        sheet.angle,
        sheet.pixel * zoom,
    )
    made = Surface(surface.colour.copy(), surface.height * np.float32(zoom), surface.shine)
    defect = DEFECTS[kind]
    assert defect is not None
    defect(made, near, rng)
    return Surface(made.colour, made.height / np.float32(zoom), made.shine)


def write(root: Path, name: str, place: str, index: int) -> None:
    """Draw one picture below ``root``: of ``place`` normal, good or bad."""
    seed = [sorted(SURFACES).index(name), ["normal", "good", "bad"].index(place), index]
    sheet_rng, camera_rng, surface_rng, noise_rng, defect_rng = np.random.default_rng(seed).spawn(5)
    maker, turn = SURFACES[name]
    sheet, camera = random_sheet(sheet_rng, SIDE, turn), random_camera(camera_rng)
    surface = maker(sheet, surface_rng, None)
    levels, file = seen(surface, sheet, camera), f"{index:03}.png"
    if place == "bad":
        kind, good = KINDS[index % len(KINDS)], levels
        visible = np.zeros(good.shape[:2], np.bool_)
        while visible.sum() < 4:
            levels = seen(flawed(surface, sheet, kind, defect_rng), sheet, camera)
            visible = np.abs(levels - good).max(axis=2) >= VISIBLE
        file = f"{kind}_{index:03}.png"
        white = Image.fromarray(visible[SIDE // 8 : SIDE - SIDE // 8])
        size = (ENLARGED * white.width, ENLARGED * white.height)
        mask = Image.fromarray(255 * np.asarray(white.resize(size), np.uint8))
        mask.save(root / name / "masks" / file)
    noisy(cropped(levels), camera, noise_rng).save(root / name / place / file, compress_level=1)


def drawn(root: Path, names: list[str]) -> None:
    """Draw the pictures that are not there yet."""
    with ProcessPoolExecutor(available_cores()) as pool:
        for name in names:
            for place, count in (("normal", NORMALS), ("good", GOOD), ("bad", BAD)):
                for folder in (place, "masks"):
                    (root / name / folder).mkdir(parents=True, exist_ok=True)
                there = {int(path.stem[-3:]) for path in (root / name / place).glob("*.png")}
                todo = [index for index in range(count) if index not in there]
                list(pool.map(partial(write, root, name, place), todo))
                print(name, place, len(todo), flush=True)


def extents(root: Path, name: str) -> str:
    """The longer sides of the defects: the median, and the shares of a tenth and nine tenths, in pixels."""
    sides = []
    for path in sorted((root / name / "masks").glob("*.png")):
        rows, columns = np.nonzero(np.asarray(Image.open(path)))
        sides.append(max(np.ptp(rows), np.ptp(columns)) + 1)
    return " / ".join(f"{side:.0f}" for side in np.quantile(sides, (0.1, 0.5, 0.9)))


def measured(root: Path, asked: str) -> Result:
    """Adapt and evaluate."""
    grid, defect = (None, asked) if asked.removesuffix("px").isdecimal() else (asked, None)
    choice = TileChoice() if asked == WHOLE else TileChoice(grid, defect)
    with tempfile.TemporaryDirectory() as model:
        began = time.perf_counter()
        options = AdaptOptions(method="stages", tiles=choice)
        manifest = adapt(str(root / "normal"), model, options, lambda *_: None, HoldOut(0.2)).manifest
        fitted = time.perf_counter()
        masks = str(root / "masks") if manifest.patches else None
        loaded = read_model(model, available_cores())
        images = labelled(str(root / "good"), str(root / "bad"))
        found = evaluate(images, loaded, None, 0, lambda *_: None, lambda _: None, masks)
        seconds = time.perf_counter() - fitted
    tiles, place, focus = manifest.preprocessing.tiles, found.localised, manifest.focus
    return Result(
        surface=root.name,
        asked=asked,
        grid=f"{tiles.rows}x{tiles.columns}" if tiles else "1x1",
        focus=f"{focus.looks} {manifest.preprocessing.height}",
        auroc=round(100 * found.auroc.value, 2),
        pixel_auroc=None if place is None else round(100 * place.pixel_auroc, 2),
        hits=None if place is None else round(100 * place.hits, 1),
        adapt_seconds=round(fitted - began, 1),
        ms_per_image=round(1e3 * seconds / (found.normal + found.anomalous), 1),
        normals=manifest.data.images,
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


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("draw", "measure"))
    parser.add_argument("root", type=Path)
    parser.add_argument("--surfaces", nargs="+", default=list(NAMES), choices=list(SURFACES))
    parser.add_argument("--tiles", nargs="+", default=list(ASKED), metavar="RxC|PX")
    given = parser.parse_args()
    if given.what == "draw":
        drawn(given.root, given.surfaces)
        for name in given.surfaces:
            print(f"{name}: defects of {extents(given.root, name)} px (tenth, half, nine tenths)")
        return
    for name in given.surfaces:
        for asked in given.tiles:
            if any((line["surface"], line["asked"]) == (name, asked) for line in lines()):
                continue
            result = measured(given.root / name, asked)
            new = not RESULTS.exists()
            with open(RESULTS, "a", newline="") as file:
                writer = csv.DictWriter(file, [field.name for field in fields(Result)], lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerow(asdict(result))
            print(result, flush=True)


if __name__ == "__main__":
    main()
