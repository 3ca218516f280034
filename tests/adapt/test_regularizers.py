from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from anomscan.adapt.regularizers import L2SP, ElasticWeightConsolidation, fisher_diagonal


def test_l2_sp() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
    regularizer = L2SP([parameter], alpha=0.01)
    assert regularizer.value().item() == 0
    with torch.no_grad():
        parameter += torch.tensor([3.0, -4.0])
    value = regularizer.value()
    assert value.item() == pytest.approx(0.01 * 25)
    value.backward()
    torch.testing.assert_close(parameter.grad, torch.tensor([0.06, -0.08]))


def test_elastic_weight_consolidation() -> None:
    stiff, loose = nn.Parameter(torch.tensor([1.0, 1.0])), nn.Parameter(torch.tensor([5.0]))
    fisher = [torch.tensor([2.0, 0.0]), torch.tensor([0.5])]
    regularizer = ElasticWeightConsolidation([stiff, loose], fisher, strength=10.0)
    with torch.no_grad():
        stiff += torch.tensor([1.0, 100.0])
        loose += 2
    value = regularizer.value()
    assert value.item() == pytest.approx(10 / 2 * (2 * 1 + 0 * 100**2 + 0.5 * 4))
    value.backward()
    torch.testing.assert_close(stiff.grad, torch.tensor([20.0, 0.0]))
    torch.testing.assert_close(loose.grad, torch.tensor([10.0]))


def test_the_fisher_diagonal_of_a_logistic_model() -> None:
    # With logits (w x, 0) the Fisher information of w is p (1 - p) x^2.
    tail = nn.Linear(1, 1, bias=False)
    nn.init.constant_(tail.weight, math.log(3))
    classifier = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        classifier.weight.copy_(torch.tensor([[1.0], [0.0]]))
    images = [torch.ones(1, 1)] * 4000
    generator = torch.Generator().manual_seed(0)
    (fisher,) = fisher_diagonal(tail, classifier, [tail.weight], images, generator)
    assert fisher.item() == pytest.approx(0.75 * 0.25, rel=0.1)
