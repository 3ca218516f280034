from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from anomscan.scoring.base import knn_score
from anomscan.scoring.gallery import Gallery
from anomscan.stats import drift as drift_module
from anomscan.stats.calibration import Calibration
from anomscan.stats.drift import Drift, drift
from anomscan.types import Features


@pytest.fixture(autouse=True)
def _fewer_permutations(monkeypatch: pytest.MonkeyPatch) -> None:
    """The permutation test is exact for any number; with 199, chance makes the largest two a false alarm."""
    monkeypatch.setattr(drift_module, "_PERMUTATIONS", 199)


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


def test_the_distance_is_between_nothing_and_two() -> None:
    generator = np.random.default_rng(4)
    x = normals(generator, 200)
    same = compared(unit(x[:60]), unit(x[60:120]), unit(x[120:]))
    opposite = compared(unit(x[:60]), unit(x[60:120]), unit(x[120:] + 5 * np.eye(32)[10]))
    assert same is not None
    assert opposite is not None
    assert 0 <= same.distance < opposite.distance <= 2
    assert opposite.p_value == 1 / 200
    assert not same.shifted
    assert opposite.shifted


def test_it_says_the_same_every_time() -> None:
    x = unit(normals(np.random.default_rng(5), 130))
    assert compared(x[:60], x[60:80], x[80:]) == compared(x[:60], x[60:80], x[80:])


def test_of_many_held_out_normals_some_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift_module, "LARGEST_SAMPLE", 50)
    x = unit(normals(np.random.default_rng(6), 400))
    whole = compared(x[:60], x[60:350], x[350:])
    assert whole is not None
    assert not whole.shifted
    assert compared(x[:60], x[60:350], x[350:], [str(i // 29) for i in range(290)]) is not None
