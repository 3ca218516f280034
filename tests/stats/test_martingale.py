"""The bound on false alarms, and how soon a true one comes."""

from __future__ import annotations

import numpy as np
import pytest

from anomscan.stats.calibration import Floats
from anomscan.stats.martingale import DriftTest, Ranks

DELTA = 0.05


def alarm(reference: Floats, stream: Floats, seed: int, largest: int = 1000, delta: float = DELTA) -> int:
    """After how many scores there is an alarm; 0 for none."""
    test = DriftTest(Ranks(reference, np.random.default_rng(seed), largest))
    scores = stream.astype(np.float32)
    for i in range(len(scores)):
        if test.add(scores[i : i + 1], delta):
            return i + 1
    return 0


@pytest.mark.parametrize("largest", [10, 1000])
def test_p_values_are_uniform_and_independent(largest: int) -> None:
    """Also of a full bag, and where scores are often equal and, as those of one day, alike."""
    first, last, both = [], [], 0.0
    for seed in range(3000):
        generator = np.random.default_rng(seed)
        scores = np.round(generator.normal(generator.normal(), 1, 38), 1)
        ranks = Ranks(scores[:8], generator, largest)
        p_values = [ranks.add(score) for score in scores[8:]]
        first.append(p_values[-2])
        last.append(p_values[-1])
        both += p_values[0] * p_values[-1] / 3000
    for values in (first, last):
        counts, _ = np.histogram(values, 10, (0, 1))
        assert ((counts - 300) ** 2 / 300).sum() < 27.9  # chi-square, 9 degrees of freedom, 0.1 %
    assert abs(np.corrcoef(first, last)[0, 1]) < 0.06
    assert both == pytest.approx(0.25, abs=0.015)


@pytest.mark.parametrize(("held_out", "largest"), [(16, 1000), (50, 60)])
def test_false_alarms_of_1000_streams_are_bounded(held_out: int, largest: int) -> None:
    alarms = 0
    for seed in range(1000):
        generator = np.random.default_rng(seed)
        scores = np.round(generator.normal(generator.normal(), generator.gamma(2), held_out + 100), 1)
        alarms += alarm(scores[:held_out], scores[held_out:], seed, largest) > 0
    assert alarms <= 50 + 3 * np.sqrt(1000 * DELTA * (1 - DELTA))


@pytest.mark.parametrize(("shift", "within"), [(5.0, 30), (2.0, 60), (1.0, 250), (-1.0, 250)])
def test_a_shifted_stream_is_seen_soon(shift: float, within: int) -> None:
    for seed in range(5):
        generator = np.random.default_rng(seed)
        reference, stream = generator.normal(size=100), generator.normal(shift, 1, 300)
        assert 0 < alarm(reference, stream, seed, delta=0.01) <= within


def test_a_shift_after_many_quiet_images_is_seen_nearly_as_soon() -> None:
    generator = np.random.default_rng(1)
    stream = np.concatenate([generator.normal(size=20_000), generator.normal(5, 1, 50)])
    assert 0 < alarm(generator.normal(size=100), stream, 1, 5000, delta=0.01) - 20_000 <= 30


def test_anomalies_are_no_drift() -> None:
    for seed in range(5):
        generator = np.random.default_rng(seed)
        stream = generator.normal(size=2000)
        stream[generator.random(2000) < 0.05] += 8
        assert alarm(generator.normal(size=100), stream, seed, delta=0.01) == 0


def test_very_many_anomalies_are() -> None:
    generator = np.random.default_rng(0)
    stream = generator.normal(size=500)
    stream[generator.random(500) < 0.5] += 8
    assert alarm(generator.normal(size=100), stream, 0, delta=0.01) > 0


def test_it_goes_on_from_what_was_kept() -> None:
    generator = np.random.default_rng(3)
    reference, scores = generator.normal(size=20), generator.normal(size=60).astype(np.float32)
    whole = DriftTest(Ranks(reference, np.random.default_rng(4), 40))
    whole.add(scores, DELTA)
    kept, source = dict(enumerate(reference)), np.random.default_rng(4)
    state: list[float] = []
    for part in np.split(scores, 6):
        slots = np.array([kept[slot] for slot in sorted(kept)])
        test = DriftTest(Ranks(slots, source, 40), state)
        test.add(part, DELTA)
        kept |= test.ranks.changed
        state = [*test.state.values()]
    assert state == pytest.approx([*whole.state.values()])
    assert (state[0], len(kept)) == (60, 40)
    assert DriftTest(Ranks(reference, source), state).value == whole.value
    assert DriftTest(Ranks(reference, source)).value == pytest.approx(1)
