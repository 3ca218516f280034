"""A first, small look at an image: enough to find copies, ranges and files that are cut off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from anomscan.errors import UnreadableImage
from anomscan.files.storage import storage_of
from anomscan.images.budget import MEMORY_IN_FLIGHT
from anomscan.images.decode import opened
from anomscan.images.find import Found, Source, Unreadable
from anomscan.images.levels import Span, deep
from anomscan.images.libtiff import errors_are_raised
from anomscan.images.memory import bytes_needed, check_memory
from anomscan.images.opening import DECODE_ERRORS, open_image
from anomscan.types import Pixels, Reading

DETAIL = 256
"""Largest side of the part of an image whose detail is looked at."""
LEAST_DIFFERENCE = 0.25
"""Grey levels by which images differ, as small pictures, from what they share; else they show nothing."""
GLANCE, PARTS = 16, 256
"""Rows and columns of a small look, and into how many parts of a grey level it is exact."""


@dataclass(frozen=True)
class Glance:
    """A small look at an image.

    ``size`` is its width and height; ``picture`` is (GLANCE, GLANCE) uint16, grey, in so many ``PARTS`` of a
    level; ``levels`` how many grey levels it uses; ``constant_tail`` and ``pages`` see ``Remarks``.
    """

    path: str
    size: tuple[int, int]
    picture: NDArray[np.uint16]
    levels: int
    constant_tail: bool
    pages: int


def glance_at(source: Source, reading: Reading) -> Glance | None:
    """A small picture of an image and what a look at it shows; None where it cannot be read."""
    try:
        with opened(source.path, (GLANCE, GLANCE), reading, source.page) as (image, _, remarks):
            grey = image.convert("L")
            return Glance(
                path=source.path,
                size=image.size,
                picture=_small(grey),
                levels=sum(count > 0 for count in grey.histogram()),
                constant_tail=remarks.constant_tail,
                pages=remarks.pages,
            )
    except UnreadableImage:
        return None


def _small(grey: Image.Image) -> NDArray[np.uint16]:
    """Means of the cells of a grid; not in whole grey levels, to which Pillow would round."""
    reduced = grey.reduce(max(1, min(grey.size) // GLANCE**2)).convert("F")
    means = np.asarray(reduced.resize((GLANCE, GLANCE), Image.Resampling.BOX))
    return (means * PARTS).clip(0, 65535).astype(np.uint16)


def small_picture(pixels: Pixels) -> NDArray[np.float32]:
    """The same of an image as the network gets it: (GLANCE, GLANCE) float32, or less where that has less."""
    rows, columns = (min(GLANCE, side) for side in pixels.shape[:2])
    high, wide = pixels.shape[0] // rows, pixels.shape[1] // columns
    cells = pixels[: rows * high, : columns * wide].reshape(rows, high, columns, wide, 3)
    means: NDArray[np.float32] = cells.mean(axis=(1, 3, 4), dtype=np.float32)
    return means


def detail_of(path: str, reading: Reading, size: tuple[int, int] | None) -> NDArray[np.float32]:
    """The fine detail of an image, edges and noise: a Laplacian of its middle, flat; empty if unreadable.

    Args:
        path: of the image.
        reading: how it is read.
        size: to bring the whole image to; with None its middle is looked at as it is.
    """
    try:
        with opened(path, (1 << 14, 1 << 14), reading, None) as (image, _, _):
            grey = image.convert("L")
            if size is None:
                side = min(DETAIL, *grey.size)
                left, top = (grey.width - side) // 2, (grey.height - side) // 2
                grey = grey.crop((left, top, left + side, top + side))
            else:
                grey = grey.resize(size)
            a = np.asarray(grey, np.float32)
    except UnreadableImage:
        return np.empty(0, np.float32)
    around = a[:-2, 1:-1] + a[2:, 1:-1] + a[1:-1, :-2] + a[1:-1, 2:]
    return (4 * a[1:-1, 1:-1] - around).ravel()


def span_of(source: Found, reading: Reading) -> Span | None:
    """The range of an image that has more than 8 bits; None of any other, and of one that cannot be read."""
    if isinstance(source, Unreadable):
        return None
    storage = storage_of(source.path)
    try:
        size = storage.identity(source.path).size
        with storage.open(source.path) as file, open_image(file) as image:
            if not isinstance(image, ImageFile) or image.width * image.height > reading.max_pixels:
                return None
            needed = bytes_needed(image, image.size, size, kept=True, later=False)
            check_memory(image, needed, reading.max_pixels)
            with MEMORY_IN_FLIGHT.reserved(needed), errors_are_raised():
                values = deep(image, file)
                return None if values is None else values.span()
    except (*DECODE_ERRORS, UnreadableImage):
        return None
