from __future__ import annotations

import torch
from torch import nn

from anomscan.adapt.stopping import Samplewise


def test_checkpoints_are_kept_at_even_steps_side_by_side() -> None:
    tail = nn.Linear(2, 3, bias=False)
    stopping = Samplewise(tail, steps=30)
    images, expected = torch.randn(4, 2), []
    for step in range(31):
        if step:
            with torch.no_grad():
                tail.weight += torch.randn(3, 2)
            stopping.after_step(step)
        if step in (0, 10, 20, 30):
            expected.append(nn.functional.normalize(tail(images), dim=1))
    together = stopping.side_by_side()(images)
    torch.testing.assert_close(together, torch.cat(expected, dim=1))


def test_a_short_run_keeps_what_there_is() -> None:
    stopping = Samplewise(nn.Linear(2, 3), steps=1)
    stopping.after_step(1)
    assert len(stopping.side_by_side().tails) == 2
