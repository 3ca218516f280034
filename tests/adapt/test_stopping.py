from __future__ import annotations

import torch
from torch import nn

from anomscan.adapt.activations import ActivationCache
from anomscan.adapt.stopping import AllSteps, Samplewise, Training, evenly


def nothing() -> ActivationCache:
    return ActivationCache(1, 1, (1,), memory=1e9)


def test_checkpoints_are_kept_at_even_steps_side_by_side() -> None:
    tail = nn.Linear(2, 3, bias=False)
    training = Training(tail, nn.Identity(), tail, 30, nothing())
    watch = Samplewise().watch(training)
    images, expected = torch.randn(4, 2), []
    for step in range(31):
        if step:
            with torch.no_grad():
                tail.weight += torch.randn(3, 2)
        assert watch.after_step(step)
        if step in (0, 10, 20, 30):
            expected.append(nn.functional.normalize(tail(images), dim=1))
    trunk, together = watch.result(training) or ()
    assert trunk is training.trunk
    torch.testing.assert_close(together(images), torch.cat(expected, dim=1))
    assert watch.state()["checkpoints"].tolist() == [4]
    assert watch.state().keys() == Samplewise.learns
    assert watch.record() is None


def test_all_steps_keep_the_last() -> None:
    tail = nn.Linear(2, 3)
    training = Training(tail, nn.Identity(), tail, 5, nothing())
    watch = AllSteps().watch(training)
    assert all(watch.after_step(step) for step in range(6))
    assert watch.result(training) == (training.trunk, tail)
    assert (watch.state(), watch.record()) == ({}, None)


def test_evenly_spaced_steps_begin_at_0_and_end_at_the_last() -> None:
    assert evenly(30, 4) == {0, 10, 20, 30}
    assert evenly(2, 6) == {0, 1, 2}
