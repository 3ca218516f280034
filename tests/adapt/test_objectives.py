"""Each loss and its gradient against a case worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from anomscan.adapt.objectives import (
    AngularCenter,
    Compactness,
    HypersphereClassifier,
    JointClassification,
    Logistic,
    MeanShiftedContrastive,
    Objective,
    Sum,
)
from anomscan.adapt.parts import OUTLIERS


def value_and_gradient(objective: Objective, features: Tensor) -> tuple[float, Tensor]:
    features = features.clone().requires_grad_()
    loss = objective(features)
    loss.backward()
    assert features.grad is not None
    return loss.item(), features.grad


def test_compactness() -> None:
    objective = Compactness()
    objective.prepare(torch.tensor([[0.0, 0.0], [2.0, 4.0]]), 0)  # c = (1, 2)
    value, gradient = value_and_gradient(objective, torch.tensor([[1.0, 2.0], [4.0, 6.0]]))
    assert value == pytest.approx((0 + 25) / 2)
    assert gradient.tolist() == [[0, 0], [3, 4]]  # 2 (phi - c) / n


def test_angular_center() -> None:
    objective = AngularCenter()
    objective.prepare(torch.tensor([[3.0, 0.0], [0.0, 5.0]]), 0)  # c = (1/2, 1/2)
    value, gradient = value_and_gradient(objective, torch.tensor([[2.0, 0.0]]))
    assert value == pytest.approx(-0.5)
    # d/dphi of -(phi / |phi|) . c = -(c - (u . c) u) / |phi| with u = (1, 0)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, -0.25]]))


def test_the_angular_centre_pulls_as_the_compactness_of_features_of_norm_1() -> None:
    generator = torch.Generator().manual_seed(0)
    pretrained, features = torch.rand(2, 9, 4, generator=generator)
    angular, compactness = AngularCenter(), Compactness()
    angular.prepare(pretrained, 0)
    compactness.prepare(nn.functional.normalize(pretrained, dim=1), 0)
    _, pull = value_and_gradient(angular, features)
    features.requires_grad_()
    compactness(nn.functional.normalize(features, dim=1)).backward()
    assert features.grad is not None
    torch.testing.assert_close(features.grad, 2 * pull)


def test_mean_shifted_contrastive() -> None:
    objective = MeanShiftedContrastive(temperature=0.5)
    objective.center = torch.zeros(2)
    # Around a centre at the origin the unit vectors are their own directions. Rows 0 and 2, and 1 and 3,
    # show the same image; the first pair is identical, the second is opposed.
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, -1.0]])
    value = objective(features).item()
    first = -math.log(math.exp(2) / (math.exp(2) + 2))
    second = -math.log(math.exp(-2) / (math.exp(-2) + 2))
    assert value == pytest.approx((2 * first + 2 * second) / 4)


def test_the_gradient_of_the_mean_shifted_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    objective = MeanShiftedContrastive()
    objective.prepare(torch.randn(9, 4, generator=generator, dtype=torch.float64) + 2, 0)
    assert torch.autograd.gradcheck(objective, features)


def test_the_center_is_the_mean_of_the_directions() -> None:
    objective = MeanShiftedContrastive()
    objective.prepare(torch.tensor([[10.0, 0.0], [0.0, 0.1]]), 0)
    assert objective.center.tolist() == [0.5, 0.5]


def test_a_sum_prepares_and_adds_its_parts() -> None:
    features = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 1.5], [2.0, 1.1]])
    parts = MeanShiftedContrastive(), AngularCenter()
    both = Sum(*parts)
    both.prepare(features, 0)
    assert both.views == 2
    assert both(features).item() == pytest.approx(sum(part(features).item() for part in parts))


def test_logistic() -> None:
    objective = Logistic()
    objective.prepare(torch.zeros(1, 2), 0)
    with torch.no_grad():
        objective.linear.weight.copy_(torch.tensor([[1.0, -1.0]]))
        objective.linear.bias.zero_()
    normal = torch.tensor([[0.0, 0.0]], requires_grad=True)  # logit 0
    outlier = torch.tensor([[math.log(3), 0.0]], requires_grad=True)  # logit log 3, sigma 3/4
    loss = objective(normal, outlier)
    assert loss.item() == pytest.approx(-math.log(0.5) - math.log(0.75))
    loss.backward()
    torch.testing.assert_close(normal.grad, torch.tensor([[0.5, -0.5]]))  # sigma w
    torch.testing.assert_close(outlier.grad, torch.tensor([[-0.25, 0.25]]))  # -(1 - sigma) w
    torch.testing.assert_close(objective.linear.bias.grad, torch.tensor([0.25]))


def test_the_linear_layer_is_left_to_the_scorer() -> None:
    objective = Logistic()
    objective.prepare(torch.zeros(1, 2), 0)
    state = objective.state()
    assert state.keys() == objective.learns
    assert (state["weight"].shape, state["bias"].shape) == ((2,), (1,))
    assert state["weight"].tolist() == objective.linear.weight[0].tolist()
    both = Sum(objective, Compactness())
    assert (both.learns, both.needs, both.state().keys()) == (objective.learns, OUTLIERS, state.keys())
    with pytest.raises(ValueError, match="too many values"):
        Sum(Logistic(), JointClassification())


def test_hypersphere_classifier() -> None:
    objective = HypersphereClassifier()
    objective.prepare(torch.tensor([[0.0, 1.0], [2.0, 1.0]]), 0)
    normal = torch.tensor([[1.0, 1.0], [1.0 + math.sqrt(3), 1.0]])  # h = 0 and sqrt(3 + 1) - 1 = 1
    outlier = torch.tensor([[1.0, 1.0 + math.sqrt(8)]], requires_grad=True)  # h = sqrt(8 + 1) - 1 = 2
    loss = objective(normal, outlier)
    assert loss.item() == pytest.approx(0.5 - math.log(1 - math.exp(-2)))
    loss.backward()
    # d/dh of -log(1 - exp(-h)) = -1 / (exp(h) - 1); dh/dz = z / sqrt(|z|^2 + 1)
    expected = -1 / (math.exp(2) - 1) * math.sqrt(8) / 3
    torch.testing.assert_close(outlier.grad, torch.tensor([[0.0, expected]]))


def test_outliers_cost_as_much_whatever_the_scale_of_the_features() -> None:
    generator = torch.Generator().manual_seed(0)
    normals, outliers = torch.rand(8, 4, generator=generator), 1 + torch.rand(8, 4, generator=generator)
    costs, free = [], torch.full((8, 4), 1e9)
    for scale in (1.0, 100.0):
        objective = HypersphereClassifier()
        objective.prepare(scale * normals, 0)
        costs.append(objective(scale * normals, scale * outliers) - objective(scale * normals, free))
    torch.testing.assert_close(*costs)
    assert costs[0] > 0.01


def test_an_outlier_at_the_centre_has_a_finite_loss() -> None:
    objective = HypersphereClassifier()
    objective.prepare(torch.zeros(1, 2), 0)
    assert objective(torch.zeros(1, 2), torch.zeros(1, 2)).isfinite()


def test_joint_classification() -> None:
    objective = JointClassification(weight=0.1)
    objective.prepare(torch.tensor([[1.0, 0.0]]), 3)
    with torch.no_grad():
        objective.linear.weight.zero_()
        objective.linear.bias.copy_(torch.tensor([0.0, math.log(2), 0.0]))  # probabilities 1/4, 1/2, 1/4
    normal = torch.tensor([[3.0, 0.0]], requires_grad=True)
    loss = objective(normal, torch.zeros(2, 2), torch.tensor([1, 2]))
    assert loss.item() == pytest.approx((math.log(2) + math.log(4)) / 2 + 0.1 / 2 * 4)
    loss.backward()
    torch.testing.assert_close(normal.grad, torch.tensor([[0.2, 0.0]]))
