from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from anomscan.adapt.activations import ActivationCache
from anomscan.adapt.regularizers import L2SP, ElasticWeightConsolidation, Penalty, fisher_diagonal


def images(*values: float) -> ActivationCache:
    cache = ActivationCache(1, max(1, len(values)), (1,), memory=1e9)
    cache.append([str(value) for value in values], [np.array(values, np.float32)[:, None]])
    return cache


def test_l2_sp() -> None:
    tail = nn.Linear(1, 2, bias=False)
    penalty = L2SP(alpha=0.01).hold(tail, None, images(), seed=0)
    parameter = tail.weight
    assert penalty.value().item() == 0
    with torch.no_grad():
        parameter += torch.tensor([[3.0], [-4.0]])
    value = penalty.value()
    assert value.item() == pytest.approx(0.01 * 25)
    value.backward()
    torch.testing.assert_close(parameter.grad, torch.tensor([[0.06], [-0.08]]))


def test_each_parameter_has_its_weight() -> None:
    stiff, loose = nn.Parameter(torch.tensor([1.0, 1.0])), nn.Parameter(torch.tensor([5.0]))
    penalty = Penalty([stiff, loose], [torch.tensor([10.0, 0.0]), torch.tensor([2.5])])
    with torch.no_grad():
        stiff += torch.tensor([1.0, 100.0])
        loose += 2
    value = penalty.value()
    assert value.item() == pytest.approx(10 * 1 + 0 * 100**2 + 2.5 * 4)
    value.backward()
    torch.testing.assert_close(stiff.grad, torch.tensor([20.0, 0.0]))
    torch.testing.assert_close(loose.grad, torch.tensor([10.0]))


def logistic_model() -> tuple[nn.Linear, nn.Linear]:
    """With logits (w x, 0) the Fisher information of w is p (1 - p) x^2; w is log 3, so p is 3/4 at x = 1."""
    tail, classifier = nn.Linear(1, 1, bias=False), nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        tail.weight.fill_(math.log(3))
        classifier.weight.copy_(torch.tensor([[1.0], [0.0]]))
    return tail, classifier


def test_elastic_weight_consolidation() -> None:
    tail, classifier = logistic_model()
    regularizer = ElasticWeightConsolidation(strength=10.0, images=2000)
    penalty = regularizer.hold(tail, classifier, images(*[1.0] * 2000, 100.0), seed=0)
    with torch.no_grad():
        tail.weight += 2
    assert penalty.value().item() == pytest.approx(10 / 2 * 0.75 * 0.25 * 4, rel=0.1)


def test_the_fisher_diagonal_of_a_logistic_model() -> None:
    tail, classifier = logistic_model()
    ones = [torch.ones(1, 1)] * 4000
    generator = torch.Generator().manual_seed(0)
    (fisher,) = fisher_diagonal(tail, classifier, [tail.weight], ones, generator)
    assert fisher.item() == pytest.approx(0.75 * 0.25, rel=0.1)
