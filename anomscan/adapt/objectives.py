"""What adapting minimises. A batch holds ``views`` views of each image, image-major within a view."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional


class Objective(ABC):
    """A loss on features; ``prepare`` sees the pretrained features of all normals before the first step."""

    views: int
    """Views of every image in a batch: 1 is the image itself, 2 are two augmentations of it."""

    @abstractmethod
    def prepare(self, features: Tensor) -> None:
        """Fix what stays constant: ``features`` is (n, D), pretrained, one row a normal image."""

    @abstractmethod
    def __call__(self, features: Tensor) -> Tensor:
        """The loss, a scalar, of (views * B, D) features; row i and row i + B show the same image."""


class Compactness(Objective):
    """Mean squared Euclidean distance to the centre of the pretrained features (PANDA, eq. 1).

    The centre c is constant, and the features are not normalised.
    """

    views = 1

    def prepare(self, features: Tensor) -> None:
        """Set c to the mean of the pretrained features."""
        self.center = features.mean(dim=0)

    def __call__(self, features: Tensor) -> Tensor:
        """Mean over the batch of ||phi(x) - c||^2."""
        return (features - self.center).square().sum(dim=1).mean()


class AngularCenter(Objective):
    """Minus the cosine to the centre of the normalised features (Mean-Shifted Contrastive, eq. 6)."""

    views = 1

    def prepare(self, features: Tensor) -> None:
        """Set c to the mean of the normalised pretrained features (eq. 3)."""
        self.center = functional.normalize(features, dim=1).mean(dim=0)

    def __call__(self, features: Tensor) -> Tensor:
        """Mean over the batch of -phi(x) . c, with phi(x) of norm 1."""
        return -(functional.normalize(features, dim=1) @ self.center).mean()


class MeanShiftedContrastive(Objective):
    """Contrastive loss on angles around the centre of the normals (Mean-Shifted Contrastive, eq. 4).

    Args:
        temperature: tau; 0.25 in the paper's appendix A.3.
    """

    views = 2

    def __init__(self, temperature: float = 0.25) -> None:
        self.temperature = temperature

    def prepare(self, features: Tensor) -> None:
        """Set c to the mean of the normalised pretrained features (eq. 3)."""
        self.center = functional.normalize(features, dim=1).mean(dim=0)

    def __call__(self, features: Tensor) -> Tensor:
        """Mean over 2B rows of -log softmax of the positive pair among all other rows."""
        shifted = functional.normalize(functional.normalize(features, dim=1) - self.center, dim=1)
        similarity = shifted @ shifted.T / self.temperature
        similarity.fill_diagonal_(-torch.inf)
        rows = len(features)
        positive = torch.arange(rows, device=features.device).roll(rows // 2)
        return functional.cross_entropy(similarity, positive)


class Sum(Objective):
    """The sum of several objectives, such as mean-shifted contrastive + angular centre (tab. 3)."""

    def __init__(self, *parts: Objective) -> None:
        self.parts = parts
        self.views = max(part.views for part in parts)

    def prepare(self, features: Tensor) -> None:
        """Prepare every part."""
        for part in self.parts:
            part.prepare(features)

    def __call__(self, features: Tensor) -> Tensor:
        """Sum of the parts on the same features."""
        return torch.stack([part(features) for part in self.parts]).sum()
