"""Anomalies made from normal images, to measure without labels how well features separate.

Local ones change a small part of the image, global ones the whole. Each function maps one image,
(H, W, 3) uint8, to another of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torchvision.transforms.v2 import functional

from anomscan.adapt.views import View
from anomscan.types import Pixels

Maker = Callable[[Pixels, np.random.Generator], Pixels]


def cut_and_paste(image: Pixels, generator: np.random.Generator) -> Pixels:
    """A patch of 2 to 15 % of the area copied to another place (CutPaste)."""
    height, width, _ = image.shape
    area, ratio = generator.uniform(0.02, 0.15), np.exp(generator.uniform(-1, 1))
    high = min(height, max(1, round(height * np.sqrt(area * ratio))))
    wide = min(width, max(1, round(width * np.sqrt(area / ratio))))
    (top, to_top), (left, to_left) = (
        generator.integers(0, n, 2) for n in (height - high + 1, width - wide + 1)
    )
    made = image.copy()
    made[to_top : to_top + high, to_left : to_left + wide] = image[top : top + high, left : left + wide]
    return made


def scar(image: Pixels, generator: np.random.Generator) -> Pixels:
    """A thin line of one colour at any angle (CutPaste-Scar)."""
    height, width, _ = image.shape
    y, x = np.mgrid[:height, :width]
    angle, length = generator.uniform(0, np.pi), generator.uniform(0.1, 0.3) * max(height, width)
    middle = generator.uniform(0.25, 0.75, 2) * (height, width)
    along = (y - middle[0]) * np.sin(angle) + (x - middle[1]) * np.cos(angle)
    across = (y - middle[0]) * np.cos(angle) - (x - middle[1]) * np.sin(angle)
    made = image.copy()
    made[(np.abs(along) < length / 2) & (np.abs(across) < max(1.0, 0.01 * width))] = generator.integers(
        0, 256, 3
    )
    return made


def local_noise(image: Pixels, generator: np.random.Generator) -> Pixels:
    """Strong noise in a window of a ninth of the area."""
    height, width, _ = image.shape
    top, left = (generator.integers(0, n - n // 3 + 1) for n in (height, width))
    window = (slice(top, top + height // 3), slice(left, left + width // 3))
    made = image.astype(np.int16)
    made[window] += generator.normal(0, 60, made[window].shape).astype(np.int16)
    return made.clip(0, 255).astype(np.uint8)


def patch_shuffle(image: Pixels, generator: np.random.Generator) -> Pixels:
    """The four quarters in another order."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    corners = [(0, 0), (0, width), (height, 0), (height, width)]
    order = generator.permutation(4)
    while (order == np.arange(4)).all():
        order = generator.permutation(4)
    made = image.copy()
    for (top, left), source in zip(corners, order, strict=True):
        from_top, from_left = corners[source]
        made[top : top + height, left : left + width] = image[
            from_top : from_top + height, from_left : from_left + width
        ]
    return made


def rotation(image: Pixels, generator: np.random.Generator) -> Pixels:
    """A half turn, or, where the image is square, a quarter turn too."""
    turns = int(generator.integers(1, 4)) if image.shape[0] == image.shape[1] else 2
    return np.ascontiguousarray(np.rot90(image, turns))


def blur(image: Pixels, generator: np.random.Generator) -> Pixels:
    """A Gaussian blur of 2 to 4 % of the width."""
    sigma = float(generator.uniform(0.02, 0.04) * image.shape[1])
    tensor = torch.tensor(image).permute(2, 0, 1)
    made = functional.gaussian_blur(tensor, 2 * round(3 * sigma) + 1, sigma)
    return np.ascontiguousarray(made.permute(1, 2, 0).numpy())


def colour(image: Pixels, generator: np.random.Generator) -> Pixels:
    """The channels scaled by 0.6 to 1.4, each on its own."""
    return (image * generator.uniform(0.6, 1.4, 3)).clip(0, 255).astype(np.uint8)


LOCAL: dict[str, Maker] = {"cut-and-paste": cut_and_paste, "scar": scar, "local noise": local_noise}
GLOBAL: dict[str, Maker] = {
    "patch shuffle": patch_shuffle,
    "rotation": rotation,
    "blur": blur,
    "colour": colour,
}
KINDS = {**LOCAL, **GLOBAL}


def batched(maker: Maker, seed: int) -> View:
    """The maker applied to every image of a batch, (n, H, W, 3); the seed decides its draws."""
    generator = np.random.default_rng(seed)
    return lambda pixels: np.stack([maker(image, generator) for image in pixels])
