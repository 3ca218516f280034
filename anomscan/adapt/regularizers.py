"""What holds the weights near the pretrained ones while an objective pulls at them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from anomscan.adapt.activations import ActivationCache
from anomscan.adapt.parts import REFERENCE, Part


class Penalty:
    """sum_i w_i (theta_i - theta_0i)^2 on the distance of the trained parameters from where they are now.

    Args:
        parameters: what is trained.
        weights: one a parameter, of its shape or a number for all of it, >= 0.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], weights: Sequence[Tensor | float]) -> None:
        self._parameters = list(parameters)
        self._start = [parameter.detach().clone() for parameter in self._parameters]
        self._weights = weights

    def value(self) -> Tensor:
        """The penalty, a scalar that carries gradients to the parameters."""
        terms = [
            (weight * (parameter - start).square()).sum()
            for weight, parameter, start in zip(self._weights, self._parameters, self._start, strict=True)
        ]
        return torch.stack(terms).sum()


class Regularizer(Part):
    """Decides how much a change of each parameter costs."""

    @abstractmethod
    def hold(
        self, tail: nn.Module, classifier: nn.Module | None, images: ActivationCache, seed: int
    ) -> Penalty:
        """The penalty on the parameters of a network that require gradients, which are the pretrained ones.

        Args:
            tail: maps activations to features.
            classifier: maps features to the logits of the pretraining task; there where ``needs_classifier``.
            images: of the further folder if the regularizer has one, else the normals.
            seed: of what it draws.
        """


@dataclass(frozen=True)
class L2SP(Regularizer):
    """alpha * ||theta - theta_0||^2 (Transfer-Based Semantic AD, sec. 4.3, with alpha = 1e-2)."""

    alpha: float = 1e-2

    def describe(self) -> str:
        """In a few words."""
        return "L2-SP"

    def hold(
        self, tail: nn.Module, classifier: nn.Module | None, images: ActivationCache, seed: int
    ) -> Penalty:
        """Alpha, for every parameter."""
        parameters = trained(tail)
        return Penalty(parameters, [self.alpha] * len(parameters))


@dataclass(frozen=True)
class ElasticWeightConsolidation(Regularizer):
    """lambda / 2 * sum_i F_i (theta_i - theta_0i)^2 (PANDA, eq. 4, with lambda = 1e4).

    F is the diagonal of the Fisher information on ``images`` reference images, or normals without any;
    ``strength`` is lambda.
    """

    needs = REFERENCE
    needs_classifier = True
    strength: float = 1e4
    images: int = 100

    def describe(self) -> str:
        """In a few words."""
        return "elastic weight consolidation"

    def hold(
        self, tail: nn.Module, classifier: nn.Module | None, images: ActivationCache, seed: int
    ) -> Penalty:
        """Lambda / 2 * F of every parameter."""
        assert classifier is not None  # noqa: S101 - the caller supplies what ``needs_classifier`` says
        parameters = trained(tail)
        device = parameters[0].device
        some = (image.to(device) for image, _ in zip(images.images(1), range(self.images), strict=False))
        generator = torch.Generator().manual_seed(seed)
        fisher = fisher_diagonal(tail, classifier.to(device), parameters, some, generator)
        return Penalty(parameters, [self.strength / 2 * importance for importance in fisher])


def trained(tail: nn.Module) -> list[nn.Parameter]:
    """The parameters that require gradients, in order."""
    return [parameter for parameter in tail.parameters() if parameter.requires_grad]


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
