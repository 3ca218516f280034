"""PANDA (Reiss et al. 2021), its training loop as the paper's text has it.

Appendix D: SGD, momentum 0.9, weight decay 5e-5, gradients clipped to a norm of 1e-3, 32 images a minibatch,
the last two blocks learn, 2,300 minibatches (7,800 with elastic weights). No augmentation. The text has no
rate: 1e-2 is that of the authors' published code, in which batch norm keeps its pretrained statistics too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from network import Images, Indices, Network
from torch import Tensor, nn
from torch.nn import functional

BATCH = 32
RATE = 1e-2
CLIP = 1e-3
STRENGTH = 1e4
"""lambda of eq. 4."""
FISHER_IMAGES = 100

Space = Callable[[Tensor], Tensor]


def space_of(name: str, pretrained: Tensor) -> Space:
    """Where the compactness is taken: the paper's ``raw`` features, or what is made of them.

    ``unit``: scaled to norm 1. ``standardised``: every component over its standard deviation among the
    pretrained normals. ``root``: square root, norm 1. ``half``: that, times the covariance of the pretrained
    normals' to the power -1/4, as far as 256 directions go.
    """
    if name == "raw":
        return lambda features: features
    if name == "unit":
        return lambda features: functional.normalize(features, dim=1)
    if name == "standardised":
        deviation = pretrained.std(dim=0).clamp_min(1e-3)
        return lambda features: features / deviation

    def rooted(features: Tensor) -> Tensor:
        return functional.normalize((features.clamp_min(0) + 1e-4).sqrt(), dim=1)

    if name == "root":
        return rooted
    roots = rooted(pretrained)
    centred = roots - roots.mean(dim=0)
    _, values, axes = torch.svd_lowrank(centred, q=256)
    variances = values.square() / len(pretrained)
    rest = (centred.square().sum(dim=1).mean() - variances.sum()) / (centred.shape[1] - len(values))
    gains = (variances / rest).pow(-0.25) - 1

    def half(features: Tensor) -> Tensor:
        values = rooted(features)
        return values + ((values @ axes) * gains) @ axes.T

    return half


class Panda:
    """One run: ``step`` is the loop's body.

    Args:
        network: what learns.
        images: the normals.
        rate: of the descent.
        space: see ``space_of``.
        elastic: hold the weights back (PANDA-EWC, eq. 4).
    """

    batch = BATCH

    def __init__(
        self, network: Network, images: Images, *, rate: float, space: str, elastic: bool = False
    ) -> None:
        self._network, self._images = network, images
        pretrained = torch.from_numpy(network.features(images.plain))
        self._space = space_of(space, pretrained)
        self._center = self._space(pretrained).mean(dim=0)
        self._parameters = [p for p in network.learning.parameters() if p.requires_grad]
        self._start = [parameter.detach().clone() for parameter in self._parameters]
        self._fisher = fisher(network, images.plain) if elastic else None
        self.optimiser = torch.optim.SGD(self._parameters, rate, momentum=0.9, weight_decay=5e-5)

    def step(self, step: int, chosen: Indices) -> float:
        """Descend once; returns the loss."""
        features = self._network.learning(self._images.plain[chosen])
        loss = self._compactness(features)
        if self._fisher is not None:
            terms = zip(self._fisher, self._parameters, self._start, strict=True)
            loss = loss + STRENGTH / 2 * sum((f * (p - start).square()).sum() for f, p, start in terms)
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._parameters, CLIP)
        self.optimiser.step()
        return loss.item()

    def held_out(self, plain: Tensor, views: Tensor) -> float:
        """The compactness of normals that are not learnt from."""
        return self._compactness(torch.from_numpy(self._network.features(plain))).item()

    def _compactness(self, features: Tensor) -> Tensor:
        """Mean squared distance to the constant centre (eq. 1)."""
        return (self._space(features) - self._center).square().sum(dim=1).mean()


def fisher(network: Network, activations: Tensor) -> list[Tensor]:
    """Mean squared gradients of the pretraining loss, image by image (eq. 3).

    The paper has images of ImageNet and their labels; here the normals stand in for them, with labels drawn
    from the pretrained classifier's own prediction.
    """
    parameters = [p for p in network.learning.parameters() if p.requires_grad]
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    draws = np.random.default_rng(0)
    images = activations[:FISHER_IMAGES]
    for image in torch.split(images, 1):
        logs = functional.log_softmax(network.classifier(network.learning(image)), dim=1)[0]
        chances = logs.detach().exp().double().numpy()
        label = draws.choice(len(chances), p=chances / chances.sum())
        for total, gradient in zip(sums, torch.autograd.grad(logs[label], parameters), strict=True):
            total += gradient.square()
    return [total / len(images) for total in sums]
