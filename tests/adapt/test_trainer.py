from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from anomscan.adapt import checkpoint
from anomscan.adapt.activations import ActivationCache
from anomscan.adapt.checkpoint import Checkpoint
from anomscan.adapt.objectives import (
    Compactness,
    JointClassification,
    MeanShiftedContrastive,
    Objective,
)
from anomscan.adapt.regularizers import L2SP
from anomscan.adapt.stopping import Watch
from anomscan.adapt.trainer import Keeping, Optimisation, Others, Trainer, resolve_device
from anomscan.errors import TrainingDiverged, UsageError

FAST = Optimisation(steps=40, batch=8, rate=0.05, momentum=0.9, weight_decay=0.0, clip=None)
CPU = torch.device("cpu")
PATHS = [f"{i}.png" for i in range(30)]


def cache(views: int = 1) -> ActivationCache:
    generator = np.random.default_rng(0)
    filled = ActivationCache(views, 30, (6,), memory=1e9)
    filled.append(PATHS[:30], [generator.normal(1, 1, (30, 6)).astype(np.float32) for _ in range(views)])
    return filled


def tail() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(6, 4)


def run(
    objective: Objective,
    *,
    views: int = 1,
    optimisation: Optimisation = FAST,
    seed: int = 0,
    budget: float | None = None,
) -> tuple[nn.Module, list[float], int]:
    losses: list[float] = []
    network = tail()
    trainer = Trainer(network, objective, optimisation, cache(views), seed, CPU)
    steps, last = trainer.run(lambda step, loss: losses.append(loss) or True, budget)
    assert steps == len(losses)
    assert not losses or last == losses[-1]
    return network, losses, steps


def test_the_loss_goes_down() -> None:
    _, losses, steps = run(Compactness())
    assert steps == 40
    assert losses[-1] < losses[0] / 3


def test_the_seed_decides_everything() -> None:
    same, other = run(Compactness())[1], run(Compactness(), seed=1)[1]
    assert run(Compactness())[1] == same != other


def test_an_objective_of_two_views_gets_pairs_of_the_same_image() -> None:
    marked = ActivationCache(3, 5, (2,), memory=1e9)
    marked.append(
        PATHS[:5], [np.stack([[view, image] for image in range(5)]).astype(np.float32) for view in range(3)]
    )
    seen: list[Tensor] = []

    class Spy(MeanShiftedContrastive):
        def forward(
            self, normal: Tensor, other: Tensor | None = None, labels: Tensor | None = None
        ) -> Tensor:
            seen.append(normal.detach().clone())
            return super().forward(normal)

    identity = nn.Linear(2, 2, bias=False)
    nn.init.eye_(identity.weight)
    once = replace(FAST, steps=1, batch=4, rate=0.0)
    Trainer(identity, Spy(), once, marked, 0, CPU).run(lambda *_: True)
    first, second = seen[0].chunk(2)
    assert (first[:, 1] == second[:, 1]).all()
    assert (first[:, 0] != second[:, 0]).all()
    assert seen[0][:, 0].min() >= 1, "view 0 is the image itself, not an augmentation"


def test_clipping_bounds_the_step() -> None:
    network, _, _ = run(Compactness(), optimisation=replace(FAST, steps=1, clip=1e-3, momentum=0.0))
    moved = torch.cat(
        [(a - b).flatten() for a, b in zip(network.parameters(), tail().parameters(), strict=True)]
    )
    assert 0 < moved.norm() <= 0.05 * 1e-3 * 1.01


def test_a_penalty_holds_the_weights_back() -> None:
    moved = []
    for alpha in (0.0, 5.0):
        network = tail()
        penalty = L2SP(alpha).hold(network, None, cache(), 0)
        Trainer(network, Compactness(), FAST, cache(), 0, CPU, penalty=penalty).run(lambda *_: True)
        pairs = zip(network.parameters(), tail().parameters(), strict=True)
        moved.append(torch.cat([(a - b).flatten() for a, b in pairs]).norm().item())
    assert moved[1] < moved[0] / 2


def test_a_budget_in_the_past_trains_nothing() -> None:
    network, _, steps = run(Compactness(), budget=-1.0)
    assert steps == 0
    torch.testing.assert_close(network.state_dict(), tail().state_dict())


def test_the_watcher_can_end_the_training() -> None:
    network = tail()
    steps, _ = Trainer(network, Compactness(), FAST, cache(), 0, CPU).run(lambda step, _: step < 7)
    assert steps == 7


def test_divergence_is_an_error() -> None:
    with pytest.raises(TrainingDiverged, match="at step"):
        run(Compactness(), optimisation=replace(FAST, rate=1e30))


def test_fewer_images_than_a_batch() -> None:
    assert run(Compactness(), optimisation=replace(FAST, batch=1000, steps=3))[2] == 3


def test_devices() -> None:
    assert resolve_device("cpu") == CPU
    assert resolve_device("auto").type in ("cpu", "cuda")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="--device cpu"):
            resolve_device("cuda")


def test_others_come_behind_the_normals_with_their_labels() -> None:
    marked = ActivationCache(1, 4, (6,), memory=1e9)
    marked.append(PATHS[:4], [np.repeat(np.arange(4, dtype=np.float32), 6).reshape(4, 6)])
    seen: list[tuple[Tensor, Tensor]] = []

    class Spy(JointClassification):
        def forward(
            self, normal: Tensor, other: Tensor | None = None, labels: Tensor | None = None
        ) -> Tensor:
            seen.append((other.detach().clone(), labels))
            return super().forward(normal, other, labels)

    identity = nn.Linear(6, 6, bias=False)
    nn.init.eye_(identity.weight)
    still = replace(FAST, steps=2, batch=3, rate=0.0)
    others = Others(marked, np.array([0, 1, 0, 1]), 2)
    Trainer(identity, Spy(), still, cache(), 0, CPU, others).run(lambda *_: True)
    assert len(seen) == 2
    for other, labels in seen:
        assert len(set(other[:, 0].tolist())) == 3
        assert (other[:, 0].long() % 2 == labels).all()


@pytest.mark.parametrize("views", [1, 4])
def test_a_run_that_is_cut_off_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, views: int
) -> None:
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "DEAREST", math.inf)

    def trained(last: int) -> tuple[dict[str, Tensor], list[int]]:
        network, done = tail(), list[int]()
        objective = Compactness() if views == 1 else MeanShiftedContrastive()
        trainer = Trainer(network, objective, FAST, cache(views), 0, CPU)
        keeping = Keeping(Checkpoint(tmp_path / "kept", {}, lambda _: None), Watch())
        trainer.run(lambda step, _: done.append(step) or step < last, keeping=keeping)
        return network.state_dict(), done

    whole, _ = trained(40)
    (tmp_path / "kept").unlink()
    _, done = trained(13)
    assert done == list(range(1, 14))
    again, done = trained(40)
    assert done == list(range(13, 41))  # the last step has kept nothing
    assert all(torch.equal(again[name], whole[name]) for name in whole)
