"""From what a file holds to grey or RGB: palettes, CMYK, and transparency over white."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

LARGE = 16_000_000
"""Pixels above which an image that is neither grey nor RGB is reduced on its way to RGB: see ``opaque``."""
_MOST_REDUCED = 8
_BAND = 1 << 18
"""Pixels that are converted at a time."""


def opaque(image: Image.Image, least: tuple[int, int]) -> Image.Image:
    """Greyscale and RGB as they are, all else in RGB; transparency over white, unless nothing is visible.

    It is done in bands of rows, so that besides the image and the result there is little more in memory. A
    ``LARGE`` image is reduced meanwhile, to 1/2, 1/4 or 1/8 as a JPEG is, never below ``least``, width and
    height; the transparent is laid over white after that, which comes to the same.
    """
    if image.mode in ("L", "RGB") and not image.has_transparency_data:
        return image
    ground = "white" if image.has_transparency_data and _shows_anything(image) else None
    return over(image, ground, _scale(image.size, least))


def over(image: Image.Image, ground: str | None, scale: int = 1) -> Image.Image:
    """The image in RGB, its transparent parts over a colour, at 1 / ``scale``; as if opaque without one."""
    if image.width * image.height <= _BAND and scale == 1:
        return _in_rgb(image, scale, ground)
    made = Image.new("RGB", (-(-image.width // scale), -(-image.height // scale)))
    for top, band in _bands(image):
        made.paste(_in_rgb(band, scale, ground), (0, top // scale))
    return made


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Rows of the image, a multiple of ``_MOST_REDUCED`` at a time, and the number of the first."""
    rows = max(1, _BAND // max(1, image.width) // _MOST_REDUCED) * _MOST_REDUCED
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _scale(size: tuple[int, int], least: tuple[int, int]) -> int:
    scale = 1
    if size[0] * size[1] > LARGE:
        while scale < _MOST_REDUCED and all(
            side // (2 * scale) >= smallest for side, smallest in zip(size, least, strict=True)
        ):
            scale *= 2
    return scale


def _shows_anything(image: Image.Image) -> bool:
    """Whether not everything is transparent: frame grabbers write a fourth byte that means nothing."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        return bool(np.any(image.getextrema()[-1]))
    return any(np.any(band.convert("RGBA").getextrema()[-1]) for _, band in _bands(image))


def _in_rgb(band: Image.Image, scale: int, ground: str | None) -> Image.Image:
    see_through = band.has_transparency_data
    if see_through and ground is not None:
        rgba = band.convert("RGBA")
        if scale > 1:
            rgba = rgba.reduce(scale)
        return Image.alpha_composite(Image.new("RGBA", rgba.size, ground), rgba).convert("RGB")
    rgb = band.convert("RGBA").convert("RGB") if see_through else band.convert("RGB")
    return rgb.reduce(scale) if scale > 1 else rgb
