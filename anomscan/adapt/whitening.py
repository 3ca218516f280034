"""A readout of features that are averages of rectified outputs: their square root, a little whitened.

Such features are not negative and heavy-tailed: a few large components decide every distance. Their square
root, of norm 1, compares them by the Hellinger kernel (Arandjelovic and Zisserman 2012). What then varies
much among the normals counts a little less, by a small power of their covariance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from anomscan.types import Features

POWER = 1 / 16
"""Eigenvalues of the covariance are taken to minus this power; 1/2 is whitening. See docs/methods.md."""
LARGEST_RANK = 1280
"""Directions that are whitened each by its own variance; the rest by what they have in common."""
_SMALLEST = 1e-9


@dataclass(frozen=True)
class Spectrum:
    """The covariance of n normals in D dimensions, shrunk towards a multiple of the identity.

    ``axes`` is (D, r), orthonormal; ``variances`` (r,) theirs; ``rest`` the variance of all others.
    ``shrinkage`` is Ledoit and Wolf's (2004), which n decides.
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    variances: NDArray[np.float64]
    rest: float
    shrinkage: float

    @classmethod
    def of(cls, features: Features) -> Spectrum:
        """From (n, D) features; with n < D the n x n products of the images are decomposed."""
        mean = features.mean(axis=0, dtype=np.float64)
        centred = features - mean
        n, dim = centred.shape
        if n < dim:
            values, vectors = np.linalg.eigh(centred @ centred.T / n)
            kept = values > _SMALLEST * max(values[-1], 1e-30)
            values = values[kept]
            axes = centred.T @ vectors[:, kept] / np.sqrt(values * n)
        else:
            values, axes = np.linalg.eigh(centred.T @ centred / n)
        squares = np.square(centred).sum(axis=1)
        average = float(squares.mean()) / dim
        distance = max((np.square(values).sum() - dim * average**2) / dim, 1e-30)
        noise = (np.square(squares).mean() - np.square(values).sum()) / dim / n
        shrinkage = float(min(1.0, max(0.0, noise / distance)))
        top = slice(max(0, len(values) - LARGEST_RANK), None)
        others = dim - len(values[top])
        below = values[: top.start].sum() / others if others else 0.0
        shrunk = (1 - shrinkage) * values[top] + shrinkage * average
        return cls(
            mean, axes[:, top], shrunk, (1 - shrinkage) * float(below) + shrinkage * average, shrinkage
        )


class RootedFeatures(nn.Module):
    """Square root, norm 1, and the normals' covariance to a small negative power; their spread stays.

    Args:
        normals: (n, D) features of the normals.
        weight: of the squared distances.
        power: of the whitening; with 0 nothing is fitted to the normals.
        root: False leaves the root out.

    Features with negative components have no root: they are scaled to norm 1 as they are.
    """

    mean: Tensor
    axes: Tensor
    gains: Tensor

    def __init__(
        self, normals: Features, weight: float = 1.0, power: float = POWER, *, root: bool = True
    ) -> None:
        super().__init__()
        self.rooted, self.power = root and bool((normals >= 0).all()), power
        if not power:
            self.scale = weight**0.5
            return
        unit = self._unit(torch.from_numpy(np.ascontiguousarray(normals))).numpy()
        spectrum = Spectrum.of(unit)
        self.shrinkage = spectrum.shrinkage
        spread = float(np.square(unit - spectrum.mean).sum(axis=1).mean())
        common, gains = 1.0, np.ones(len(spectrum.variances))
        if spectrum.rest > 0 and spread > 0:
            common, gains = spectrum.rest**-power, spectrum.variances**-power
        self.register_buffer("mean", torch.tensor(spectrum.mean, dtype=torch.float32))
        self.register_buffer("axes", torch.tensor(spectrum.axes, dtype=torch.float32))
        self.register_buffer("gains", torch.tensor(gains - common, dtype=torch.float32))
        self.common = self.scale = 1.0
        self.common = float(common)
        after = float(self(torch.from_numpy(np.ascontiguousarray(normals))).square().sum(dim=1).mean())
        self.scale = (weight * spread / after) ** 0.5 if after > 0 else 1.0

    @property
    def settings(self) -> dict[str, Any]:
        """What shaped it, for ``model.json``."""
        if not self.power:
            return {"root": self.rooted, "whitening": 0}
        return {"root": self.rooted, "whitening": self.power, "shrinkage": round(self.shrinkage, 4)}

    def forward(self, features: Tensor) -> Tensor:
        """(N, D) to (N, D)."""
        unit = self._unit(features)
        if not self.power:
            plain: Tensor = self.scale * unit
            return plain
        centred = unit - self.mean
        whitened = self.common * centred + ((centred @ self.axes) * self.gains) @ self.axes.T
        scaled: Tensor = self.scale * whitened
        return scaled

    def _unit(self, features: Tensor) -> Tensor:
        values = features.clamp_min(0).sqrt() if self.rooted else features
        unit: Tensor = functional.normalize(values, dim=1)
        return unit
