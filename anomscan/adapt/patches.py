"""The patch features of a backbone: what its stages of fine stride give at each place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from anomscan.adapt.backbones import Backbone
from anomscan.adapt.parts import Part
from anomscan.adapt.stages import channels_first, exposing
from anomscan.errors import UsageError
from anomscan.types import Features

STRIDES = (8, 16)
"""Of the two stages that patches are made of; the coarser decides how many there are."""
GRID_STRIDE = 8
"""Of the stage whose grid the patches of the papers lie on."""
RIDGE = 0.03
"""Share of the mean variance that is added to every direction's before whitening."""
LARGEST = 256
"""Components of a patch; longer ones are projected at random, which keeps distances."""
FACTORS = (1.0, 1.5, 2.0)
"""Sides of the input, in those of the backbone's own, at which patches can be looked at."""


def patch_stages(backbone: Backbone, strides: Sequence[int] = STRIDES) -> list[str]:
    """The last stages of these strides; of a network with one stride, at three quarters, a half ..."""
    names = [name for name, _ in backbone.stages]
    if len({stride for _, stride in backbone.stages}) == 1:
        return [names[quarter * len(names) // 4] for quarter in range(4 - len(strides), 4)]
    found = [[name for name, stride in backbone.stages if stride == wanted] for wanted in strides]
    return [stage[-1] for stage in found if stage] or [names[0]]


class PatchTrunk(nn.Module):
    """Each stage's outputs at each place scaled to norm 1, side by side on the grid of the coarser one.

    SPADE (sec. 3.3) and PatchCore (eq. 1 to 4) do the same; PatchCore averages over 3 x 3 places before. That
    blurs what is small: without it defects of 1 % of the side are found much more often, see docs/methods.md.
    """

    def __init__(self, backbone: Backbone, strides: Sequence[int] = STRIDES) -> None:
        super().__init__()
        self.body = exposing(backbone.model, patch_stages(backbone, strides), head=False)
        self.prefix = int(getattr(backbone.model, "num_prefix_tokens", 0))

    def maps(self, images: Tensor) -> list[Tensor]:
        """Normalised pixels (N, 3, H, W) to the (N, C, rows, columns) of each stage."""
        return [self._map(stage) for stage in self.body(images)]

    def forward(self, images: Tensor) -> Tensor:
        """Normalised pixels (N, 3, H, W) to patches (N, rows, columns, C)."""
        maps = self.maps(images)
        rows, columns = min((stage.shape[2:] for stage in maps), key=lambda shape: shape[0])
        finer = [
            stage if stage.shape[2] == rows else functional.adaptive_avg_pool2d(stage, (rows, columns))
            for stage in maps
        ]
        return torch.cat([functional.normalize(stage, dim=1) for stage in finer], dim=1).permute(0, 2, 3, 1)

    def _map(self, stage: Tensor) -> Tensor:
        """(N, C, rows, columns) of a map or of tokens."""
        if stage.ndim == 4:
            return channels_first(stage)
        tokens = stage[:, self.prefix :]
        side = round(tokens.shape[1] ** 0.5)
        if side**2 != tokens.shape[1]:
            raise UsageError(
                "the tokens of this backbone lie on no square grid; use another, or --focus image"
            )
        return tokens.transpose(1, 2).reshape(stage.shape[0], tokens.shape[2], side, side)


class WhitenedPatches(nn.Module):
    """Patches in units of what varies among those of the normals, so that small directions count.

    Args:
        trunk: gives the patches.
        whitening: see ``Whitening``.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, trunk: PatchTrunk, whitening: Whitening) -> None:
        super().__init__()
        self.trunk = trunk
        self.register_buffer("mean", torch.tensor(whitening.mean, dtype=torch.float32))
        self.register_buffer("matrix", torch.tensor(whitening.matrix, dtype=torch.float32))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised pixels to patches."""
        patches: Tensor = (self.trunk(images) - self.mean) @ self.matrix
        return patches


class StackedPatches(nn.Module):
    """The outputs of stages as they are, side by side on the grid of the one of stride ``GRID_STRIDE``.

    A coarser one is interpolated, a finer one averaged over the area of each place.

    Args:
        trunk: gives the stages.
        neighbourhood: each place is the mean over so many x so many around it, an odd number (PatchCore eq. 1
            and 2); at the border, over those that there are.
        components: positions of those that are kept; None for all.
    """

    kept: Tensor | None

    def __init__(
        self, trunk: PatchTrunk, neighbourhood: int = 1, components: NDArray[np.int64] | None = None
    ) -> None:
        super().__init__()
        self.trunk, self.neighbourhood = trunk, neighbourhood
        self.register_buffer("kept", None if components is None else torch.from_numpy(components))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised pixels to patches (N, rows, columns, C)."""
        maps = self.trunk.maps(images)
        if self.neighbourhood > 1:
            maps = [
                functional.avg_pool2d(
                    stage, self.neighbourhood, 1, self.neighbourhood // 2, count_include_pad=False
                )
                for stage in maps
            ]
        rows, columns = (round(side / GRID_STRIDE) for side in images.shape[2:])
        if all(stage.shape[2] < rows for stage in maps):
            rows, columns = max((stage.shape[2:] for stage in maps), key=lambda shape: shape[0])
        stacked = torch.cat([_on_grid(stage, rows, columns) for stage in maps], dim=1).permute(0, 2, 3, 1)
        return stacked if self.kept is None else stacked.index_select(3, self.kept)


def _on_grid(stage: Tensor, rows: int, columns: int) -> Tensor:
    """(N, C, ...) on another grid."""
    if stage.shape[2] == rows:
        return stage
    if stage.shape[2] > rows:
        return functional.adaptive_avg_pool2d(stage, (rows, columns))
    return functional.interpolate(stage, (rows, columns), mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class PaperPatches(Part):
    """The patches of a paper, and the name by which ``scoring.registry.PROCEDURES`` knows what compares them.

    Outputs of the last stages of ``strides``, see ``StackedPatches``; ``components`` is how many of all are
    kept, chosen at random, with None all of them.
    """

    procedure: str
    strides: tuple[int, ...]
    neighbourhood: int = 1
    components: int | None = None

    def describe(self) -> str:
        """In a few words."""
        return f"patches and their score by {self.procedure}"

    def of(self, backbone: Backbone, seed: int) -> StackedPatches:
        """Of a network; raises UsageError where it has no grid of patches."""
        trunk, own = PatchTrunk(backbone, self.strides), backbone.preprocessing
        with torch.no_grad():
            stages = trunk.maps(torch.zeros(1, 3, own.height, own.width))
        length, kept = sum(stage.shape[1] for stage in stages), None
        if self.components is not None and self.components < length:
            kept = np.sort(np.random.default_rng(seed).permutation(length)[: self.components])
        return StackedPatches(trunk, self.neighbourhood, kept)


class Whitening:
    """Mean and covariance of patches, gathered as they come.

    ``matrix`` is (C, c): the inverse root of the covariance, with a ridge of ``RIDGE`` times its mean
    eigenvalue, and where c < C a random projection behind it.
    """

    def __init__(self) -> None:
        self._count = 0
        self._sum: NDArray[np.float64] | None = None
        self._products: NDArray[np.float64] | None = None

    def add(self, patches: Features) -> None:
        """Take patches, (..., C)."""
        flat = patches.reshape(-1, patches.shape[-1]).astype(np.float64)
        products, total = flat.T @ flat, flat.sum(axis=0)
        self._count += len(flat)
        self._sum = total if self._sum is None else self._sum + total
        self._products = products if self._products is None else self._products + products

    @property
    def mean(self) -> NDArray[np.float64]:
        """(C,)."""
        assert self._sum is not None  # noqa: S101 - something was added
        return self._sum / self._count

    @cached_property
    def matrix(self) -> NDArray[np.float64]:
        """(C, c)."""
        assert self._products is not None  # noqa: S101 - something was added
        covariance = self._products / self._count - np.outer(self.mean, self.mean)
        values, vectors = np.linalg.eigh(covariance)
        ridge = max(RIDGE * float(values.mean()), 1e-12)
        whitening: NDArray[np.float64] = vectors / np.sqrt(np.maximum(values, 0) + ridge)
        if len(values) > LARGEST:
            generator = np.random.default_rng(0)
            whitening = whitening @ generator.standard_normal((len(values), LARGEST)) / LARGEST**0.5
        return whitening

    def apply(self, patches: Features) -> Features:
        """(..., C) to (..., c)."""
        white: Features = (patches - self.mean.astype(np.float32)) @ self.matrix.astype(np.float32)
        return white


class Reduced(nn.Module):
    """Images brought to the size of the backbone, by averaging areas; ``factor`` is one of ``FACTORS``."""

    kernels: Tensor

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        near, far = torch.tensor([2.0, 1.0, 0.0]) / 3, torch.tensor([0.0, 1.0, 2.0]) / 3
        kernels = torch.stack([torch.outer(a, b) for a in (near, far) for b in (near, far)])
        self.register_buffer("kernels", kernels[:, None].repeat(3, 1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 3, H / factor, W / factor)."""
        if self.factor == 1.0:
            return images
        if self.factor == 2.0:
            return functional.avg_pool2d(images, 2)
        quarters = functional.conv2d(images, self.kernels, stride=3, groups=3)
        return functional.pixel_shuffle(quarters, 2)


class WithPatches(nn.Module):
    """Features of the image, at the backbone's own size, and of its patches, at that of the input."""

    def __init__(self, factor: float, image: Sequence[nn.Module], patches: nn.Module) -> None:
        super().__init__()
        self.reduced, self.image, self.patches = Reduced(factor), nn.Sequential(*image), patches

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pixels to image features (N, D) and patches (N, rows, columns, C)."""
        return self.image(self.reduced(images)), self.patches(images)
