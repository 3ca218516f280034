"""What holds the weights near the pretrained ones while an objective pulls at them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional


class Regularizer(ABC):
    """A penalty on the distance of the trained parameters from where they started."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._start = [parameter.detach().clone() for parameter in self._parameters]

    @abstractmethod
    def importance(self, index: int) -> Tensor | float:
        """Weight of the squared change of the index-th parameter, elementwise or for all of it."""

    def value(self) -> Tensor:
        """The penalty, a scalar that carries gradients to the parameters."""
        terms = [
            (self.importance(i) * (parameter - start).square()).sum()
            for i, (parameter, start) in enumerate(zip(self._parameters, self._start, strict=True))
        ]
        return torch.stack(terms).sum()


class L2SP(Regularizer):
    """alpha * ||theta - theta_0||^2 (Transfer-Based Semantic AD, sec. 4.3, with alpha = 1e-2)."""

    def __init__(self, parameters: Iterable[nn.Parameter], alpha: float = 1e-2) -> None:
        super().__init__(parameters)
        self.alpha = alpha

    def importance(self, index: int) -> float:
        """Alpha, for every parameter."""
        return self.alpha


class ElasticWeightConsolidation(Regularizer):
    """lambda / 2 * sum_i F_i (theta_i - theta_0i)^2 (PANDA, eq. 4, with lambda = 1e4).

    Args:
        parameters: what is trained.
        fisher: the diagonal of the Fisher information, one tensor a parameter, >= 0.
        strength: lambda.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], fisher: list[Tensor], strength: float = 1e4
    ) -> None:
        super().__init__(parameters)
        self.fisher = fisher
        self.strength = strength

    def importance(self, index: int) -> Tensor:
        """Lambda / 2 * F of that parameter."""
        return self.strength / 2 * self.fisher[index]


def fisher_diagonal(
    tail: nn.Module,
    classifier: nn.Module,
    parameters: list[nn.Parameter],
    activations: Iterable[Tensor],
    generator: torch.Generator,
) -> list[Tensor]:
    """Mean squared gradient of the pretraining loss, image by image (PANDA, eq. 3).

    The label of every image is drawn from the pretrained classifier's own prediction, which makes this
    the Fisher information itself and needs no labelled images.

    Args:
        tail: maps activations to features.
        classifier: maps features to the logits of the pretraining task.
        parameters: of the tail, requiring gradients.
        activations: one image each, (1, ...).
        generator: draws the labels.

    Returns:
        One tensor a parameter, of its shape, >= 0.
    """
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    images = 0
    for activation in activations:
        log_likelihood = functional.log_softmax(classifier(tail(activation)), dim=1)
        label = torch.multinomial(log_likelihood.detach().cpu().exp(), 1, generator=generator)
        gradients = torch.autograd.grad(log_likelihood[0, int(label)], parameters)
        for total, gradient in zip(sums, gradients, strict=True):
            total += gradient.square()
        images += 1
    return [total / images for total in sums]
