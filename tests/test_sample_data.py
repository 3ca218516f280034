"""The main job on the images that come with the project."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageEnhance

from anomscan.fit.index import IndexOptions, index
from anomscan.images.decode import Decoded, decode, decode_all
from anomscan.images.find import Source
from anomscan.model.manifest import HoldOut
from anomscan.model.model import read_model
from anomscan.network.extractor import Batch
from anomscan.stats.drift import drift
from anomscan.stats.measures import auroc
from anomscan.types import Outputs, Preprocessing
from tests.conftest import REPOSITORY, Run, silent

SAMPLES = REPOSITORY / "sample_data"


def test_the_default_adapt_finds_the_anomalies(run: Run, tmp_path: Path) -> None:
    assert run("adapt", SAMPLES / "normal").returncode == 0
    done = run("score", SAMPLES / "incoming")
    assert done.returncode == 3
    rows = list(csv.DictReader(io.StringIO(done.stdout.decode())))
    labels = {
        (SAMPLES / row["path"]).name: row["anomalous"] == "1"
        for row in csv.DictReader((SAMPLES / "labels.csv").read_text().splitlines())
    }
    assert len(rows) == len(labels) == 40
    unreadable = [row for row in rows if row["error"]]
    assert len(unreadable) == 1
    assert "truncated" in unreadable[0]["error"]
    scored = [row for row in rows if not row["error"]]
    scores = np.array([float(row["score"]) for row in scored])
    anomalous = np.array([labels[Path(row["path"]).name] for row in scored])
    assert anomalous.sum() == 10
    assert auroc(scores, anomalous) >= 0.95


def test_a_pixel_mean_does_not_solve_it() -> None:
    small = Preprocessing(64, 64, "bicubic", (0.5,) * 3, (0.5,) * 3)
    normal = np.stack([decode(str(path), small).pixels for path in sorted((SAMPLES / "normal").iterdir())])
    labels = list(csv.DictReader((SAMPLES / "labels.csv").read_text().splitlines()))
    readable = [row for row in labels if "part_003" not in row["path"]]
    incoming = np.stack([decode(str(SAMPLES / row["path"]), small).pixels for row in readable])
    anomalous = np.array([row["anomalous"] == "1" for row in readable])
    brightness = np.abs(incoming.mean(axis=(1, 2, 3)) - normal.mean())
    distance = np.square(incoming - normal.mean(axis=0)).mean(axis=(1, 2, 3))
    assert auroc(brightness, anomalous) < 0.75
    assert auroc(distance, anomalous) < 0.75


def test_the_folder_is_small_and_drawn_by_its_script() -> None:
    files = [path for path in SAMPLES.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 3_000_000
    assert (SAMPLES / "draw.py").exists()


@pytest.fixture(scope="module")
def draw() -> Iterator[object]:
    sys.path.insert(0, str(SAMPLES))
    import draw

    yield draw
    sys.path.remove(str(SAMPLES))


def test_twenty_percent_of_brightness_are_a_drift(draw: object, tmp_path: Path) -> None:
    """Sixty new flanges, as drawn and with another exposure; pretrained features, the default hold-out."""
    index(str(SAMPLES / "normal"), str(tmp_path / "m"), IndexOptions(), silent, HoldOut(0.2))
    model = read_model(str(tmp_path / "m"), threads=2)
    assert model.calibration is not None
    generator = np.random.default_rng(0)
    batches = [generator.choice(60, 50, replace=False) for _ in range(10)]
    pictures = [draw.drawn(draw.Subject(draw.flange), [draw.SEED, 9, i]) for i in range(60)]  # type: ignore[attr-defined]
    alarms = {}
    for factor in (1.0, 0.8, 1.2):
        paths = []
        for i, picture in enumerate(pictures):
            paths.append(str(tmp_path / f"{factor}-{i}.jpg"))
            ImageEnhance.Brightness(picture).enhance(factor).save(paths[-1], quality=90)
        images: Iterator[Decoded] = decode_all(map(Source, paths), model.manifest.preprocessing, 2)  # type: ignore[assignment]
        embedded = [batch.outputs for batch in model.extractor.embed(images) if isinstance(batch, Batch)]
        outputs = Outputs.joined(embedded)
        scores = model.scorer.score(outputs, 2).astype(np.float64)
        found = [
            drift(model.calibration, model.gallery.vectors(), outputs.image[batch], scores[batch])
            for batch in batches
        ]
        alarms[factor] = sum(drifted.shifted for drifted in found if drifted is not None)
    assert alarms[1.0] <= 1
    assert alarms[0.8] >= 9
    assert alarms[1.2] >= 9
