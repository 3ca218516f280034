from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from anomscan.adapt.activations import ActivationCache
from anomscan.adapt.beside import (
    CHECKPOINTS,
    FEWEST,
    Beside,
    Checkpoint,
    effective_rank,
    limit_of,
    spread,
)
from anomscan.adapt.likeness import MOST
from anomscan.adapt.stopping import SideBySide, Training
from anomscan.types import Features
from tests.adapt.test_focus import apart, clustered

START = Checkpoint(0, 10.0, 0.5)


def test_the_effective_rank_counts_directions() -> None:
    generator = np.random.default_rng(0)
    line = np.outer(generator.normal(size=200), np.ones(10)).astype(np.float32)
    ball = generator.normal(size=(200, 10)).astype(np.float32)
    assert effective_rank(line) == pytest.approx(1, abs=0.01)
    assert effective_rank(ball) == pytest.approx(10, rel=0.05)
    assert effective_rank(np.zeros((5, 3), np.float32)) >= 0


def test_the_spread_is_the_mean_distance_to_the_centre() -> None:
    assert spread(np.array([[0, 0], [6, 8]], np.float32)) == 5


def test_collapse_is_lost_rank_or_lost_spread() -> None:
    assert not replace(START, effective_rank=8.5, spread=0.3).collapsed(START)
    assert replace(START, effective_rank=7.5).collapsed(START)
    assert replace(START, spread=0.2).collapsed(START)


@pytest.mark.parametrize(
    ("features", "normals", "all_calibrate", "why"),
    [
        (apart(300), 300, False, None),
        (apart(300), 300, True, "all normals calibrate"),
        (apart(99), FEWEST - 1, False, "99 normals are too few"),
        (clustered(300), 300, False, "the normals look alike"),
    ],
)
def test_only_to_normals_that_differ_much_is_adapted(
    features: Features, normals: int, all_calibrate: bool, why: str | None
) -> None:
    found = Beside().against(normals, lambda: features, all_calibrate=all_calibrate)
    assert (found or "None").startswith(f"kept the unadapted features: {why}" if why else "None")


def test_the_features_are_not_asked_for_where_something_else_speaks_against_it() -> None:
    def never() -> Features:
        raise AssertionError

    assert Beside().against(FEWEST - 1, never, all_calibrate=False)
    assert Beside().against(1000, never, all_calibrate=True)


def test_of_fewer_normals_more_difference_is_asked_for() -> None:
    limits = [limit_of(count) for count in (50, 100, MOST, 10_000)]
    assert limits == sorted(limits, reverse=True)
    assert limits[2] == limits[3] == 0.545
    assert limits[1] == pytest.approx(0.5975, abs=1e-4)


class Bed:
    """A backbone of a trunk, which does nothing, and a tail, and a training of it that is watched."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.tail = nn.Linear(8, 20)
        self.before = self.tail.weight.detach().clone()
        normals = ActivationCache(1, 300, (8,), memory=1e9)
        activations = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
        normals.append([str(i) for i in range(300)], [activations])
        self.training = Training(nn.Sequential(self.tail), nn.Identity(), self.tail, 8, normals)
        self.watch = Beside().watch(self.training)
        assert self.watch.after_step(0)

    @property
    def record(self) -> dict[str, Any]:
        return self.watch.record() or {}

    def nudge(self) -> None:
        with torch.no_grad():
            self.tail.weight[0] += 0.01

    def collapse(self) -> None:
        with torch.no_grad():
            self.tail.weight[1:] *= 1e-3

    def moved_by(self) -> float:
        """How far the second of the networks that stand side by side is from the first, the pretrained."""
        (both,) = self.watch.result(self.training) or ()
        assert isinstance(both, SideBySide)
        first, second = (next(network.parameters()).detach() for network in both.networks)
        torch.testing.assert_close(first, self.before)
        assert second.data_ptr() == self.tail.weight.data_ptr()
        return float((second - first).abs().max())


def test_the_pretrained_network_stands_before_the_trained_one() -> None:
    bed = Bed()
    for step in range(1, 9):
        bed.nudge()
        assert bed.watch.after_step(step)
    assert bed.moved_by() == pytest.approx(0.08, abs=1e-5)
    assert bed.record["chosen_step"] == 8
    assert bed.record["reason"] == (
        "the normals differ much: the features of step 8 stand beside the unadapted"
    )
    assert [checkpoint["step"] for checkpoint in bed.record["curve"]] == [0, 2, 4, 6, 8]
    assert len(bed.record["curve"]) == CHECKPOINTS


def test_collapse_ends_the_training_and_the_checkpoint_before_it_counts() -> None:
    bed = Bed()
    for step in range(1, 4):
        bed.nudge()
        assert bed.watch.after_step(step)
    bed.collapse()
    assert not bed.watch.after_step(4)
    assert bed.moved_by() == pytest.approx(0.02, abs=1e-5)
    assert bed.record["chosen_step"] == 2
    assert bed.record["reason"].endswith("of step 2 stand beside the unadapted: they collapsed by step 4")


def test_what_collapses_at_once_leaves_the_network_as_it_was() -> None:
    bed = Bed()
    bed.collapse()
    assert not bed.watch.after_step(2)
    assert bed.watch.result(bed.training) is None
    torch.testing.assert_close(bed.tail.weight.detach(), bed.before)
    assert bed.record["reason"] == "kept the unadapted features: adapting collapsed them by step 2"


def test_a_run_that_goes_on_knows_what_it_had_measured() -> None:
    first, again = Bed(), Bed()
    first.nudge()
    first.watch.after_step(2)
    again.watch.restore(*first.watch.saved())
    assert again.record == first.record
    assert again.moved_by() == pytest.approx(0.01, abs=1e-5)
