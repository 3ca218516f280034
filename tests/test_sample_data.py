"""The main job on the images that come with the project."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from anomscan.config import Preprocessing
from anomscan.images import decode
from anomscan.measures import auroc
from tests.conftest import REPOSITORY, Run

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
    normal = np.stack([decode(str(path), small) for path in sorted((SAMPLES / "normal").iterdir())])
    labels = list(csv.DictReader((SAMPLES / "labels.csv").read_text().splitlines()))
    readable = [row for row in labels if "part_003" not in row["path"]]
    incoming = np.stack([decode(str(SAMPLES / row["path"]), small) for row in readable])
    anomalous = np.array([row["anomalous"] == "1" for row in readable])
    brightness = np.abs(incoming.mean(axis=(1, 2, 3)) - normal.mean())
    distance = np.square(incoming - normal.mean(axis=0)).mean(axis=(1, 2, 3))
    assert auroc(brightness, anomalous) < 0.75
    assert auroc(distance, anomalous) < 0.75


def test_the_folder_is_small_and_drawn_by_its_script() -> None:
    files = [path for path in SAMPLES.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 3_000_000
    assert (SAMPLES / "draw.py").exists()
