from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from anomscan.adapt.activations import ActivationCache
from anomscan.adapt.backbones import Backbone
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
from anomscan.adapt.stopping import SideBySide, Training, Watch
from anomscan.types import Features
from tests.adapt.networks import random_backbone
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


class Decided(nn.Module):
    """Says that everything is of the same class, or each of another."""

    def __init__(self, same: bool) -> None:
        super().__init__()
        self.same = same

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.eye(len(features))[0 if self.same else slice(None)].expand(len(features), -1)


def backbone(classifier: nn.Module | None) -> Backbone:
    return replace(random_backbone("resnet10t", 64), classifier=classifier)


@pytest.mark.parametrize(
    ("features", "normals", "classifier", "all_calibrate", "why"),
    [
        (apart(300), 300, Decided(True), False, None),
        (apart(300), 300, Decided(True), True, "all normals calibrate"),
        (apart(99), FEWEST - 1, Decided(True), False, "99 normals are too few"),
        (clustered(300), 300, Decided(True), False, "the normals look alike"),
        (apart(300), 300, Decided(False), False, "the normals are things of many kinds"),
        (apart(300), 300, None, False, "without the pretrained classifier"),
    ],
)
def test_only_photographs_of_one_kind_of_thing_are_adapted_to(
    features: Features, normals: int, classifier: nn.Module | None, all_calibrate: bool, why: str | None
) -> None:
    found = Beside().against(backbone(classifier), normals, lambda: features, all_calibrate=all_calibrate)
    assert (found or "None").startswith(f"kept the unadapted features: {why}" if why else "None")


def test_the_features_are_not_asked_for_where_something_else_speaks_against_it() -> None:
    def never() -> Features:
        raise AssertionError

    some = backbone(Decided(True))
    assert Beside().against(some, FEWEST - 1, never, all_calibrate=False)
    assert Beside().against(some, 1000, never, all_calibrate=True)


def test_of_fewer_normals_more_difference_is_asked_for() -> None:
    limits = [limit_of(count) for count in (50, 100, MOST, 10_000)]
    assert limits == sorted(limits, reverse=True)
    assert limits[2] == limits[3] == 0.545
    assert limits[1] == pytest.approx(0.5975, abs=1e-4)


def tail() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(8, 20).requires_grad_(True)


def watch(tail: nn.Module, steps: int = 8) -> Watch:
    normals = ActivationCache(1, 300, (8,), memory=1e9)
    activations = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    normals.append([str(i) for i in range(300)], [activations])
    begun = Beside().watch(Training(tail, steps, normals))
    assert begun.after_step(0)
    return begun


def nudge(tail: nn.Linear) -> None:
    with torch.no_grad():
        tail.weight[0] += 0.01


def collapse(tail: nn.Linear) -> None:
    with torch.no_grad():
        tail.weight[1:] *= 1e-3


def test_the_pretrained_tail_stands_before_the_trained_one() -> None:
    trained = tail()
    before = trained.weight.detach().clone()
    watching = watch(trained)
    for step in range(1, 9):
        nudge(trained)
        assert watching.after_step(step)
    both = watching.result(trained)
    assert isinstance(both, SideBySide)
    first, second = both.tails
    assert isinstance(first, nn.Linear)
    assert second is trained
    torch.testing.assert_close(first.weight, before)
    assert float(trained.weight.detach()[0, 0] - before[0, 0]) == pytest.approx(0.08, abs=1e-5)
    record = watching.record()
    assert record is not None
    assert record["chosen_step"] == 8
    assert record["reason"] == "the features after step 8 stand beside the unadapted ones"
    assert [checkpoint["step"] for checkpoint in record["curve"]] == [0, 2, 4, 6, 8]
    assert len(record["curve"]) == CHECKPOINTS


def test_collapse_ends_the_training_and_the_checkpoint_before_it_counts() -> None:
    trained = tail()
    watching = watch(trained)
    for step in range(1, 4):
        nudge(trained)
        assert watching.after_step(step)
    collapse(trained)
    assert not watching.after_step(4)
    both = watching.result(trained)
    assert isinstance(both, SideBySide)
    record = watching.record()
    assert record is not None
    assert record["chosen_step"] == 2
    assert record["reason"].endswith("after step 2 stand beside the unadapted ones: they collapsed by step 4")
    assert float((trained.weight - both.tails[0].weight).detach().abs().max()) == pytest.approx(  # type: ignore[union-attr, operator]
        0.02, abs=1e-5
    )


def test_what_collapses_at_once_leaves_the_network_as_it_was() -> None:
    trained = tail()
    before = trained.weight.detach().clone()
    watching = watch(trained)
    collapse(trained)
    assert not watching.after_step(2)
    assert watching.result(trained) is None
    torch.testing.assert_close(trained.weight.detach(), before)
    record = watching.record()
    assert record is not None
    assert record["reason"] == "kept the unadapted features: adapting collapsed them by step 2"


def test_a_run_that_goes_on_knows_what_it_had_measured() -> None:
    trained = tail()
    first = watch(trained)
    nudge(trained)
    first.after_step(2)
    tensors, record = first.saved()
    again = watch(tail())
    again.restore(tensors, record)
    assert again.record() == first.record()
    other = tail()
    both = again.result(other)
    assert isinstance(both, SideBySide)
    torch.testing.assert_close(other.weight, trained.weight)
