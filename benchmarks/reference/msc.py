"""Mean-Shifted Contrastive (Reiss and Hoshen 2023), its training loop as the paper's text has it.

Appendix A.3: SGD without momentum, weight decay 5e-5, 64 images a minibatch, two fresh views of each (MoCo
v2: crop, colour, greyscale, blur, flip), temperature 0.25, features scaled to norm 1, the last two blocks of
a large ResNet learn (all of a small one), 25 epochs. The text has no rate (the authors' published code: 1e-5,
for a ResNet-152); what was tried here stands in benchmarks/README.md.
"""

from __future__ import annotations

import torch
from network import Images, Indices, Network
from torch import Tensor
from torch.nn import functional

BATCH = 64
TEMPERATURE = 0.25


class MeanShifted:
    """One run: ``step`` is the loop's body.

    Args:
        network: what learns.
        images: the normals and their views.
        rate: of the descent.
        angular: add the angular centre loss (eq. 6; tab. 3).
    """

    batch = BATCH

    def __init__(self, network: Network, images: Images, *, rate: float, angular: bool = False) -> None:
        self._network, self._images, self._angular = network, images, angular
        pretrained = torch.from_numpy(network.features(images.plain))
        self._center = functional.normalize(pretrained, dim=1).mean(dim=0)  # eq. 3
        learning = [p for p in network.learning.parameters() if p.requires_grad]
        self.optimiser = torch.optim.SGD(learning, rate, momentum=0.0, weight_decay=5e-5)

    def step(self, step: int, chosen: Indices) -> float:
        """Descend once; returns the loss."""
        views = self._images.two_views(step, chosen)
        loss = self._loss(self._network.learning(views))
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self.optimiser.step()
        return loss.item()

    def held_out(self, plain: Tensor, views: Tensor) -> float:
        """The loss on two views of normals that are not learnt from, 64 at a time."""
        both = torch.from_numpy(self._network.features(views)).chunk(2)
        batches = zip(*(torch.split(side, BATCH) for side in both), strict=True)
        losses = [self._loss(torch.cat(batch)).item() for batch in batches if len(batch[0]) == BATCH]
        return sum(losses) / len(losses)

    def _loss(self, features: Tensor) -> Tensor:
        """Eq. 4, and eq. 6 where it is asked for."""
        unit = functional.normalize(features, dim=1)
        shifted = functional.normalize(unit - self._center, dim=1)
        similarity = shifted @ shifted.T / TEMPERATURE
        similarity = similarity.masked_fill(torch.eye(len(unit), dtype=torch.bool), -torch.inf)
        other_view = torch.arange(len(unit)).roll(len(unit) // 2)
        loss = functional.cross_entropy(similarity, other_view)
        return loss - (unit @ self._center).mean() if self._angular else loss
