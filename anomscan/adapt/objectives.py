"""What adapting minimises.

A batch holds ``views`` views of each normal image, and, for an objective that ``needs`` them, as many
images of another folder: outliers, or reference images with a class.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from anomscan.adapt.parts import OUTLIERS, REFERENCE_CLASSES, Part
from anomscan.types import Arrays


class Objective(nn.Module, Part):
    """A loss on features; its own parameters, if it has any, are trained with the network's.

    A preset holds one that is not prepared; every run trains a copy of it.
    """

    views: int = 1
    """Views of every normal image in a batch: 1 is the image itself, 2 are two augmentations of it."""

    @abstractmethod
    def prepare(self, features: Tensor, classes: int) -> None:
        """Fix what stays constant, before the first step.

        Args:
            features: (n, D) pretrained features, one row a normal image.
            classes: number of classes of the reference images; 0 without.
        """

    @abstractmethod
    def forward(self, normal: Tensor, other: Tensor | None, labels: Tensor | None) -> Tensor:
        """The loss, a scalar.

        Args:
            normal: (views * B, D) features; row i and row i + B show the same image.
            other: (B', D) features of outliers or reference images, for an objective that needs them.
            labels: (B',) int64 classes of the reference images.
        """

    def state(self) -> Arrays:
        """What it leaves to the scorer after training: the arrays that ``learns`` names."""
        return {}


class Compactness(Objective):
    """Mean squared Euclidean distance to the centre of the pretrained features (PANDA, eq. 1).

    The centre c is constant, and the features are not normalised.
    """

    center: Tensor

    def describe(self) -> str:
        """In a few words."""
        return "compactness"

    def prepare(self, features: Tensor, classes: int) -> None:
        """Set c to the mean of the pretrained features."""
        self.center = features.mean(dim=0)

    def forward(self, normal: Tensor, other: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """Mean over the batch of ||phi(x) - c||^2."""
        return (normal - self.center).square().sum(dim=1).mean()


class AngularCenter(Objective):
    """Minus the cosine to the centre of the normalised features (Mean-Shifted Contrastive, eq. 6).

    Up to a constant, half the compactness (PANDA, eq. 1) of features scaled to norm 1.
    """

    center: Tensor

    def describe(self) -> str:
        """In a few words."""
        return "angular centre"

    def prepare(self, features: Tensor, classes: int) -> None:
        """Set c to the mean of the normalised pretrained features (eq. 3)."""
        self.center = functional.normalize(features, dim=1).mean(dim=0)

    def forward(self, normal: Tensor, other: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """Mean over the batch of -phi(x) . c, with phi(x) of norm 1."""
        return -(functional.normalize(normal, dim=1) @ self.center).mean()


class MeanShiftedContrastive(Objective):
    """Contrastive loss on angles around the centre of the normals (Mean-Shifted Contrastive, eq. 4).

    Args:
        temperature: tau; 0.25 in the paper's appendix A.3.
    """

    views = 2
    center: Tensor

    def __init__(self, temperature: float = 0.25) -> None:
        super().__init__()
        self.temperature = temperature

    def describe(self) -> str:
        """In a few words."""
        return "mean-shifted contrastive"

    def prepare(self, features: Tensor, classes: int) -> None:
        """Set c to the mean of the normalised pretrained features (eq. 3)."""
        self.center = functional.normalize(features, dim=1).mean(dim=0)

    def forward(self, normal: Tensor, other: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """Mean over 2B rows of -log softmax of the positive pair among all other rows."""
        shifted = functional.normalize(functional.normalize(normal, dim=1) - self.center, dim=1)
        similarity = shifted @ shifted.T / self.temperature
        similarity.fill_diagonal_(-torch.inf)
        rows = len(normal)
        positive = torch.arange(rows, device=normal.device).roll(rows // 2)
        return functional.cross_entropy(similarity, positive)


class Sum(Objective):
    """The sum of several objectives, such as mean-shifted contrastive + angular centre (MSC, tab. 3).

    All of them that learn from a further folder learn from the same one.
    """

    def __init__(self, *parts: Objective) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.views = max(part.views for part in parts)
        needs = {part.needs for part in parts} - {None}
        (self.needs,) = needs or {None}
        self.learns = frozenset().union(*(part.learns for part in parts))

    def describe(self) -> str:
        """Those of the parts."""
        return " + ".join(part.describe() for part in self._objectives())

    def state(self) -> Arrays:
        """What all of the parts leave."""
        return {name: array for part in self._objectives() for name, array in part.state().items()}

    def prepare(self, features: Tensor, classes: int) -> None:
        """Prepare every part."""
        for part in self._objectives():
            part.prepare(features, classes)

    def forward(self, normal: Tensor, other: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """Sum of the parts on the same features."""
        return torch.stack([part(normal, other, labels) for part in self.parts]).sum()

    def _objectives(self) -> list[Objective]:
        return [part for part in self.parts if isinstance(part, Objective)]


class Logistic(Objective):
    """Logistic regression of outliers against normals (PANDA, eq. 5; Transfer-Based Semantic AD, eq. 1).

    The logit w . phi(x) + b, of a linear layer trained with the network, is the anomaly score.
    """

    needs = OUTLIERS
    learns = frozenset(("weight", "bias"))

    def describe(self) -> str:
        """In a few words."""
        return "logistic regression of outliers"

    def prepare(self, features: Tensor, classes: int) -> None:
        """Make the linear layer."""
        self.linear = nn.Linear(features.shape[1], 1, device=features.device)

    def forward(self, normal: Tensor, other: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """-E_normal log(1 - sigma(w . phi)) - E_outlier log sigma(w . phi)."""
        assert other is not None  # noqa: S101 - the caller supplies what ``needs`` names
        return (
            functional.softplus(self.linear(normal)).mean() + functional.softplus(-self.linear(other)).mean()
        )

    def state(self) -> Arrays:
        """The linear layer: ``weight``, (D,), and ``bias``, (1,)."""
        weight, bias = self.linear.weight.detach().cpu().numpy(), self.linear.bias.detach().cpu().numpy()
        return {"weight": weight[0], "bias": bias}


class HypersphereClassifier(Objective):
    """Outliers out of, normals into a ball (Ruff et al. 2020, the HSC of Transfer-Based Semantic AD, tab. 4).

    With h(z) = sqrt(||z||^2 + 1) - 1, the pseudo-Huber distance of phi(x) to the centre of the pretrained
    normals, a normal costs h and an outlier -log(1 - exp(-h)). The paper's centre is the origin, which
    the features of a pretrained network with rectified outputs do not surround. The unit of z is the
    root mean square of those normals' distances: in the features' own, outliers are so far from the
    start that they cost nothing.
    """

    needs = OUTLIERS
    center: Tensor
    unit: Tensor

    def describe(self) -> str:
        """In a few words."""
        return "hypersphere classifier"

    def prepare(self, features: Tensor, classes: int) -> None:
        """Set the centre to the mean of the pretrained features, and the unit to how far they are from it."""
        self.center = features.mean(dim=0)
        self.unit = (features - self.center).square().sum(dim=1).mean().sqrt().clamp_min(1e-6)

    def forward(self, normal: Tensor, other: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """Mean cost of the normals plus mean cost of the outliers."""
        assert other is not None  # noqa: S101 - the caller supplies what ``needs`` names
        outside = self._distance(other).clamp_min(1e-6)
        return self._distance(normal).mean() - torch.log(-torch.expm1(-outside)).mean()

    def _distance(self, features: Tensor) -> Tensor:
        return (((features - self.center) / self.unit).square().sum(dim=1) + 1).sqrt() - 1


class JointClassification(Objective):
    """Compactness of the normals with classification of reference images (JO, DOC; PANDA, eq. 2).

    The papers keep ImageNet's images and its linear layer; here the classes are the subfolders of the
    reference folder, and their linear layer is trained with the network.

    Args:
        weight: alpha; 0.1 as in DOC, whose compactness is a mean over the D components. Of the sum over
            them, as eq. 2 is written, it would leave next to nothing of the classification.
    """

    needs = REFERENCE_CLASSES

    def __init__(self, weight: float = 0.1) -> None:
        super().__init__()
        self.weight = weight
        self.compactness = Compactness()

    def describe(self) -> str:
        """In a few words."""
        return "compactness and classification of reference images"

    def prepare(self, features: Tensor, classes: int) -> None:
        """Fix the centre and make the linear layer."""
        self.compactness.prepare(features, classes)
        self.linear = nn.Linear(features.shape[1], classes, device=features.device)

    def forward(self, normal: Tensor, other: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """Cross entropy of the reference images + alpha / D * compactness of the normals."""
        assert other is not None  # noqa: S101 - the caller supplies what ``needs`` names
        assert labels is not None  # noqa: S101
        classification = functional.cross_entropy(self.linear(other), labels)
        compactness: Tensor = self.compactness(normal)
        return classification + self.weight / normal.shape[1] * compactness
