from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ImageEnhance

from anomscan.bundle import read_model
from anomscan.calibration import Calibration
from anomscan.config import HoldOut
from anomscan.drift import Drift, drift
from anomscan.extractor import Features
from anomscan.fitting import index
from anomscan.gallery import Gallery
from anomscan.images import Decoded, Source, decode_all
from anomscan.scorers import knn_score
from tests.conftest import REPOSITORY, silent

SAMPLES = REPOSITORY / "sample_data"


def unit(x: NDArray[np.float64]) -> Features:
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def normals(generator: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Features that vary much in a few directions and little in the others."""
    return generator.normal(size=(count, 32)) * np.geomspace(0.5, 0.02, 32) + np.eye(32)[-1]


def compared(
    gallery: Features, held_out: Features, batch: Features, names: list[str] | None = None
) -> Drift | None:
    search = Gallery.build(gallery).search
    paths = [str(i) for i in range(len(held_out))]
    calibration = Calibration(held_out, knn_score(search(held_out, 2)[0]), names or paths, paths)
    return drift(calibration, gallery, batch, knn_score(search(batch, 2)[0]).astype(np.float64))


def shifted(found: Drift | None) -> bool:
    assert found is not None
    return found.shifted


def test_it_is_seldom_a_false_alarm() -> None:
    generator = np.random.default_rng(0)
    alarms = 0
    for _ in range(300):
        x = unit(normals(generator, 130))
        alarms += shifted(compared(x[:60], x[60:80], x[80:]))
    assert alarms <= 9  # a binomial of 300 times 1 % exceeds that once in a thousand times


def test_a_few_anomalies_are_no_drift_and_a_step_of_all_is() -> None:
    generator = np.random.default_rng(1)
    step = np.eye(32)[20] * 0.15
    few, all_of_them = 0, 0
    for _ in range(50):
        x = normals(generator, 400)
        batch = x[200:].copy()
        batch[:16] += np.eye(32)[5] * 3
        few += shifted(compared(unit(x[:100]), unit(x[100:200]), unit(batch)))
        all_of_them += shifted(compared(unit(x[:100]), unit(x[100:200]), unit(x[200:] + step)))
    assert few <= 3
    assert all_of_them >= 48


def test_copies_count_once() -> None:
    generator = np.random.default_rng(2)
    alarms = 0
    for _ in range(50):
        x = unit(normals(generator, 110))
        again = x[90:][generator.integers(20, size=100)]
        alarms += shifted(compared(x[:60], x[60:90], again))
    assert alarms <= 3
    assert compared(x[:60], x[60:90], np.tile(x[90:91], (60, 1))) is None


def test_a_batch_of_one_session_is_compared_with_sessions() -> None:
    generator = np.random.default_rng(3)

    def session(count: int) -> NDArray[np.float64]:
        return normals(generator, count) + generator.normal(size=32) * 0.1

    alone, grouped = 0, 0
    for _ in range(30):
        parts = [session(20) for _ in range(20)]
        gallery, held_out, batch = (
            unit(np.concatenate(parts[:10])),
            unit(np.concatenate(parts[10:])),
            session(60),
        )
        names = [str(i // 20) for i in range(200)]
        alone += shifted(compared(gallery, held_out, unit(batch)))
        grouped += shifted(compared(gallery, held_out, unit(batch), names))
    assert alone > 20
    assert grouped <= 8  # one of 11 sessions is the farthest


@pytest.fixture(scope="module")
def draw() -> Iterator[object]:
    sys.path.insert(0, str(SAMPLES))
    import draw

    yield draw
    sys.path.remove(str(SAMPLES))


def test_twenty_percent_of_brightness_are_a_drift(draw: object, tmp_path: Path) -> None:
    """Sixty new flanges of sample_data, as drawn and with another exposure; the default hold-out."""
    index(str(SAMPLES / "normal"), tmp_path / "m", None, None, silent, HoldOut(0.2))
    model = read_model(tmp_path / "m", threads=2)
    assert model.calibration is not None
    generator = np.random.default_rng(0)
    pool: dict[float, Features] = {}
    pictures = [draw.drawn(draw.Subject(draw.flange), [draw.SEED, 9, i]) for i in range(60)]  # type: ignore[attr-defined]
    for factor in (1.0, 0.8, 1.2):
        paths = []
        for i, picture in enumerate(pictures):
            paths.append(str(tmp_path / f"{factor}-{i}.jpg"))
            ImageEnhance.Brightness(picture).enhance(factor).save(paths[-1], quality=90)
        images: Iterator[Decoded] = decode_all(map(Source, paths), model.manifest.preprocessing, 2)
        pool[factor] = np.concatenate([features for _, features in model.extractor.embed(images)])
    alarms = {}
    for factor, features in pool.items():
        scores = model.scorer.score(features, model.gallery, 2).astype(np.float64)
        batches = [generator.choice(60, 50, replace=False) for _ in range(100)]
        alarms[factor] = sum(
            shifted(drift(model.calibration, model.gallery.vectors(), features[batch], scores[batch]))
            for batch in batches
        )
    assert alarms[1.0] <= 4
    assert alarms[0.8] >= 90
    assert alarms[1.2] >= 90
