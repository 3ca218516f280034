from __future__ import annotations

import math

import numpy as np
import pytest

from anomscan.stats.catch import CONFIDENCE, TARGET, catch, limit_of

STEPS = np.array([0.01, 0.02, 0.04, 0.08, 0.16])


def drawn(
    generator: np.random.Generator, limit: float, each: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Defects of which nine of ten are caught from ``limit`` on, on twelve images."""
    grades = np.repeat(np.arange(5), each)
    at = 1 / (1 + np.exp(-(math.log(TARGET / (1 - TARGET)) + 2.5 * np.log(STEPS[grades] / limit))))
    return grades, generator.random(len(grades)) < at, generator.integers(12, size=len(grades))


def test_the_limit_is_found() -> None:
    grades, caught, _ = drawn(np.random.default_rng(0), 0.05, 2000)
    assert limit_of(STEPS, grades, caught) == pytest.approx(0.05, rel=0.1)


def test_the_interval_holds_the_limit_as_often_as_it_says() -> None:
    generator, held = np.random.default_rng(1), 0
    for seed in range(120):
        found = catch(STEPS, *drawn(generator, 0.06, 20), seed)
        assert found.low <= found.limit <= found.high
        held += found.low <= 0.06 <= found.high
    assert held / 120 > CONFIDENCE - 0.1


def test_counts_and_shares() -> None:
    grades = np.array([0, 0, 1, 1, 4])
    found = catch(STEPS, grades, np.array([False, True, True, True, True]), np.arange(5), 0)
    assert (found.caught, found.made) == ([1, 2, 0, 0, 1], [2, 2, 0, 0, 1])
    assert found.rates[:2] == [0.5, 1.0]
    assert math.isnan(found.rates[2])


def test_all_none_and_nonsense() -> None:
    grades, sources = np.repeat(np.arange(5), 30), np.tile(np.arange(10), 15)
    everything = catch(STEPS, grades, np.ones(150, np.bool_), sources, 0)
    assert (everything.limit, everything.low, everything.high) == (0.0, 0.0, 0.0)
    nothing = catch(STEPS, grades, np.zeros(150, np.bool_), sources, 0)
    assert math.isinf(nothing.limit)
    assert math.isinf(nothing.low)
    falling = limit_of(STEPS, grades, grades < 2)
    assert math.isinf(falling)
