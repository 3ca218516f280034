from __future__ import annotations

import pytest
import torch
from torch import nn

from anomscan.adapt import parallel
from anomscan.adapt.parallel import CoreParallel

CPU = torch.device("cpu")


@pytest.mark.parametrize("cores", [1, 2, 3, 16])
def test_features_and_gradients_are_those_of_a_plain_pass(
    monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    monkeypatch.setattr(parallel, "available_cores", lambda: cores)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()).eval()
    network[1].requires_grad_(False)
    images = torch.randn(7, 3, 5, 5)

    plain = network(images)
    plain.square().mean().backward()
    expected = network[0].weight.grad
    network.zero_grad()

    with CoreParallel(network, CPU) as split:
        torch.testing.assert_close(split.features(images), plain)
        features = split.forward(images)
        (gradient,) = torch.autograd.grad(features.square().mean(), features)
        split.backward(gradient)
    torch.testing.assert_close(features.detach(), plain)
    torch.testing.assert_close(network[0].weight.grad, expected)
    assert network[1].weight.grad is None
