"""Anomalies made from normal images, to measure without labels how well features separate.

Local ones change a small part of the image, global ones the whole. Each function maps one image,
(H, W, 3) uint8, to another of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
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
    beyond, across = _line(image, generator, (0.1, 0.3), (0.25, 0.75))
    made = image.copy()
    made[(beyond < 0) & (across < max(1.0, 0.01 * image.shape[1]))] = generator.integers(0, 256, 3)
    return made


def _line(
    image: Pixels, generator: np.random.Generator, lengths: tuple[float, float], middles: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A straight line drawn at random: how far each pixel is beyond its ends, and how far beside it.

    ``lengths`` are shares of the longer side, ``middles`` of either; the results (H, W), in pixels, the first
    negative between the ends.
    """
    height, width, _ = image.shape
    y, x = np.mgrid[:height, :width]
    angle, length = generator.uniform(0, np.pi), generator.uniform(*lengths) * max(height, width)
    middle = generator.uniform(*middles, 2) * (height, width)
    along = (y - middle[0]) * np.sin(angle) + (x - middle[1]) * np.cos(angle)
    across = (y - middle[0]) * np.cos(angle) - (x - middle[1]) * np.sin(angle)
    return np.abs(along) - length / 2, np.abs(across)


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


def spot(image: Pixels, generator: np.random.Generator) -> Pixels:
    """A soft blotch of 1 to 6 % of the side, lighter or darker by 12 to 60 of 255."""
    height, width, _ = image.shape
    y, x = np.mgrid[:height, :width]
    radius = generator.uniform(0.008, 0.03) * min(height, width)
    middle = generator.uniform(0.15, 0.85, 2) * (height, width)
    longer = radius * generator.uniform(0.6, 1.6)
    blotch = np.exp(-np.square((y - middle[0]) / radius) - np.square((x - middle[1]) / longer))
    return _shaded(image, blotch, generator)


def hairline(image: Pixels, generator: np.random.Generator) -> Pixels:
    """A thin line of 4 to 12 % of the side, lighter or darker by 12 to 60 of 255."""
    beyond, across = _line(image, generator, (0.04, 0.12), (0.2, 0.8))
    line = np.clip(max(1.0, 0.006 * image.shape[1]) - across + 0.5, 0, 1)
    return _shaded(image, line * np.clip(-beyond, 0, 1), generator)


def small_patch(image: Pixels, generator: np.random.Generator) -> Pixels:
    """A patch of 3 to 8 % of the side copied to another place."""
    height, width, _ = image.shape
    share = generator.uniform(0.03, 0.08, 2)
    high, wide = max(3, int(share[0] * height)), max(3, int(share[1] * width))
    places = generator.uniform(0.1, 0.9 - share.max(), 4) * (height, width, height, width)
    top, left, to_top, to_left = places.astype(int)
    made = image.copy()
    made[to_top : to_top + high, to_left : to_left + wide] = image[top : top + high, left : left + wide]
    return made


def _shaded(image: Pixels, mask: NDArray[np.float64], generator: np.random.Generator) -> Pixels:
    change = generator.uniform(12, 60) * generator.choice([-1, 1])
    shaded: Pixels = np.rint(image + change * mask[..., None]).clip(0, 255).astype(np.uint8)
    return shaded


PATCH: dict[str, Maker] = {"spot": spot, "hairline": hairline, "small patch": small_patch}
"""Defects of the size of a patch: see ``focus``."""
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
