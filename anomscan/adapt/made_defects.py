"""Defects of the size of a patch, made on normal images, to measure without labels what patches tell.

Each function maps one image, (H, W, 3) uint8, to another of the same shape. See ``focus``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from anomscan.types import Pixels

Maker = Callable[[Pixels, np.random.Generator], Pixels]


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
"""By what a person calls them."""
