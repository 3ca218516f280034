from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from anomscan.images.find import find
from anomscan.model.model import read_model
from anomscan.screen import sample as module
from anomscan.screen.run import Outcome, ScoreJob, run
from anomscan.screen.sample import Sample
from anomscan.types import PatchMaps
from tests.conftest import silent
from tests.fakes import scored


def test_the_sample_is_bounded_and_holds_the_top() -> None:
    sample = Sample(top=3)
    for i in range(2000):
        feature = np.full((1, 4), i, np.float32)
        sample.add(scored([f"{i}"], [float(i % 1000)], features=feature, known=[i % 2 == 0]))
    features = sample.features()
    assert {"1999", "999", "998"} <= features.keys()
    assert len(features) <= 503
    others = sample.others()
    assert len(others) == 500
    assert (others[:, 0] % 2 == 1).all()


def maps_of(*values: int) -> PatchMaps:
    """Maps of 2 x 3 patches, each of one value everywhere."""
    whole = np.array(values)[:, None, None] + np.zeros((1, 2, 3), int)
    return PatchMaps(whole.astype(np.float32), whole.astype(np.int64))


def test_maps_are_kept_of_the_top_only_the_most_anomalous_first() -> None:
    sample = Sample(top=3)
    for i in range(0, 100, 4):
        numbers = range(i, i + 4)
        scores = [float((37 * number) % 100) for number in numbers]
        sample.add(scored([str(number) for number in numbers], scores, maps=maps_of(*numbers)))
    best = [number for score in (99, 98, 97) for number in range(100) if (37 * number) % 100 == score]
    found = sample.maps()
    assert list(found) == [str(number) for number in best]
    for number in best:
        kept, expected = found[str(number)], maps_of(number)
        np.testing.assert_array_equal(kept.distances, expected.distances)
        np.testing.assert_array_equal(kept.nearest, expected.nearest)
        assert kept.distances.base is None  # else it would hold those of its whole batch
        assert kept.nearest.base is None
    assert len(sample.features()) == 100


def test_of_whole_images_there_are_no_maps() -> None:
    sample = Sample(top=3)
    sample.add(scored(["a", "b"], [0.1, 0.2]))
    assert sample.maps() == {}
    none = Sample()
    none.add(scored(["a", "b"], [0.1, 0.2], maps=maps_of(1, 2)))
    assert none.maps() == {}


def test_a_path_counts_once() -> None:
    sample = Sample()
    for _ in range(3):
        sample.add(scored(["a", "b"], [0.1, 0.2], features=np.eye(2, dtype=np.float32)))
    np.testing.assert_array_equal(sorted(sample.others().tolist()), [[0, 1], [1, 0]])


def test_nothing_is_kept_of_nothing() -> None:
    assert len(Sample().others()) == 0
    assert Sample().features() == {}


@pytest.mark.parametrize("size", [1, 7, 100])
def test_the_sample_does_not_depend_on_the_order_of_arrival(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(module, "LARGEST_SAMPLE", 20)
    images = [(f"{i}.png", i / 7, np.full(3, i, np.float32), i % 5 == 0) for i in range(100)]
    taken = []
    for seed in range(4):
        random.Random(seed).shuffle(images)
        sample = Sample(top=5)
        for start in range(0, len(images), size):
            paths, scores, features, known = zip(*images[start : start + size], strict=True)
            sample.add(scored(paths, scores, features=np.array(features), known=known))
        taken.append((sorted(sample.features()), sample.others().tolist()))
    assert len(taken[0][0]) == 25
    assert taken[0] == taken[1] == taken[2] == taken[3]


def test_drift_and_report_do_not_depend_on_the_order_of_arrival(
    calibrated_folder: Path, incoming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST_SAMPLE", 30)
    model, sources = read_model(str(calibrated_folder), threads=1), list(find([str(incoming)]))

    def seen(outcome: Outcome) -> tuple[object, ...]:
        with outcome:
            found = outcome.summary()
            evidence = outcome.evidence(5, found)
            features = {path: feature.tolist() for path, feature in evidence.features.items()}
            return found.drift, evidence.rows, features, found.quantiles

    first = seen(run(ScoreJob(sources, model, keep=5), silent))
    assert first[0] is not None
    for seed in range(3):
        random.Random(seed).shuffle(sources)
        assert seen(run(ScoreJob(sources, model, keep=5), silent)) == first


def test_one_view_a_part_is_kept_that_speaks_for_it() -> None:
    sample = Sample(top=2, part_of=lambda path: path[0])
    sample.add(scored(["a1", "b1", "c1"], [0.5, 0.9, 0.1], [0.5, 1.0, 0.9]))
    sample.add(scored(["a2", "b2", "d1"], [0.7, 0.3, 0.2], [0.2, 0.6, 0.8]))
    assert [image.path for image in sample._top] == ["a2", "b2"]  # b1 was said to be normal
