"""The main job on the images that come with the project."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from anomscan.adapt.options import FocusChoice
from anomscan.fit.index import IndexOptions, index
from anomscan.images.decode import Decoded, decode, decode_all
from anomscan.images.find import Source
from anomscan.model.manifest import HoldOut
from anomscan.model.model import read_model
from anomscan.network.extractor import Batch
from anomscan.screen.run import drift_of
from anomscan.stats.measures import auroc
from anomscan.types import Outputs, Preprocessing
from tests.conftest import REPOSITORY, Run, silent

SAMPLES = REPOSITORY / "sample_data"


@pytest.fixture(scope="module")
def draw() -> Iterator[Any]:
    sys.path.insert(0, str(SAMPLES))
    import draw

    yield draw
    sys.path.remove(str(SAMPLES))


def labelled() -> dict[str, bool]:
    """Whether each incoming picture is anomalous, by the stem of its file's name."""
    rows = csv.DictReader((SAMPLES / "labels.csv").read_text().splitlines())
    return {(SAMPLES / row["path"]).stem: row["anomalous"] == "1" for row in rows}


def small_defects(draw: Any) -> set[str]:
    """Stems of the pictures of flanges with a small faint defect."""
    subjects = enumerate(draw.incoming_subjects())
    return {f"part_{index:03d}" for index, subject in subjects if subject.defect in draw.SMALL_DEFECTS}


def test_the_default_adapt_finds_the_anomalies(draw: Any, run: Run, tmp_path: Path) -> None:
    assert run("adapt", SAMPLES / "normal").returncode == 0
    done = run("score", SAMPLES / "incoming")
    assert done.returncode == 3
    rows = list(csv.DictReader(io.StringIO(done.stdout.decode())))
    labels, small = labelled(), small_defects(draw)
    assert len(rows) == len(labels) == 65
    unreadable = [row for row in rows if row["error"]]
    assert len(unreadable) == 1
    assert "truncated" in unreadable[0]["error"]
    scored = [row for row in rows if not row["error"] and Path(row["path"]).stem not in small]
    scores = np.array([float(row["score"]) for row in scored])
    anomalous = np.array([labels[Path(row["path"]).stem] for row in scored])
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
    assert sum(path.stat().st_size for path in files) < 4_000_000
    assert (SAMPLES / "draw.py").exists()


def test_the_labels_are_those_of_the_drawn_subjects(draw: Any) -> None:
    subjects = draw.incoming_subjects()
    assert labelled() == {f"part_{i:03d}": subject.anomalous for i, subject in enumerate(subjects)}
    assert {path.stem for path in (SAMPLES / "incoming").iterdir()} == set(labelled())
    assert len(small_defects(draw)) == len(draw.SMALL_DEFECTS) == 15


def test_each_defect_of_a_flange_has_a_mask(draw: Any) -> None:
    flawed = {f"part_{i:03d}" for i, subject in enumerate(draw.incoming_subjects()) if subject.defect}
    assert {path.name for path in (SAMPLES / "masks").iterdir()} == {f"{stem}.png" for stem in flawed}
    assert all(labelled()[stem] for stem in flawed)
    for stem in flawed:
        with (
            Image.open(SAMPLES / "masks" / f"{stem}.png") as mask,
            Image.open(SAMPLES / "incoming" / f"{stem}.jpg") as picture,
        ):
            assert (mask.format, mask.mode, mask.size) == ("PNG", "1", picture.size)
            white = np.asarray(mask).mean()
        assert 0 < white < (0.02 if stem in small_defects(draw) else 0.1)


def test_a_mask_is_drawn_by_the_script(draw: Any) -> None:
    stem = min(small_defects(draw))
    index = int(stem.removeprefix("part_"))
    again = draw.mask(draw.incoming_subjects()[index], [draw.SEED, 1, index])
    with Image.open(SAMPLES / "masks" / f"{stem}.png") as mask:
        assert (np.asarray(mask) == np.asarray(again)).mean() > 0.999


def test_twenty_percent_of_brightness_are_a_drift(draw: Any, tmp_path: Path) -> None:
    """Sixty new flanges, as drawn and with another exposure, as whole images: drift looks at nothing else."""
    options = IndexOptions(focus=FocusChoice("image"))
    index(str(SAMPLES / "normal"), str(tmp_path / "m"), options, silent, HoldOut(0.2))
    model = read_model(str(tmp_path / "m"), threads=2)
    assert model.calibration is not None
    generator = np.random.default_rng(0)
    batches = [generator.choice(60, 50, replace=False) for _ in range(5)]
    pictures = [draw.drawn(draw.Subject(draw.flange), [draw.SEED, 9, i]) for i in range(60)]
    alarms = {}
    for factor in (1.0, 0.8, 1.2):
        paths = []
        for i, picture in enumerate(pictures):
            paths.append(str(tmp_path / f"{factor}-{i}.jpg"))
            ImageEnhance.Brightness(picture).enhance(factor).save(paths[-1], quality=90)
        images: Iterator[Decoded] = decode_all(map(Source, paths), model.manifest.preprocessing, 2)  # type: ignore[assignment]
        embedded = [batch.outputs for batch in model.extractor.embed(images) if isinstance(batch, Batch)]
        outputs = Outputs.joined(embedded)
        found = [drift_of(model, model.calibration, outputs.image[batch]) for batch in batches]
        alarms[factor] = sum(drifted.shifted for drifted in found if drifted is not None)
    assert alarms[1.0] <= 1
    assert alarms[0.8] >= 4
    assert alarms[1.2] >= 4
