"""Masks: pictures that say where a defect is, or where to look."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from anomscan.errors import UnreadableImage
from anomscan.files.storage import storage_of
from anomscan.images.budget import MEMORY_IN_FLIGHT
from anomscan.images.declared import check_declared
from anomscan.images.libtiff import errors_are_raised
from anomscan.images.memory import bytes_needed, check_memory
from anomscan.images.opaque import over
from anomscan.images.opening import DECODE_ERRORS, open_image, turn_of
from anomscan.types import MAX_PIXELS

WHITE = 127
"""Above it, a pixel is of the mask."""


def read_mask(path: str) -> NDArray[np.bool_]:
    """Where it is white, (H, W), upright: pixels over ``WHITE`` of any range; what is transparent is black.

    Raises:
        UnreadableImage: the file is missing, not an image, damaged or too large.
    """
    storage = storage_of(path)
    try:
        size = storage.identity(path).size
        with storage.open(path) as file, open_image(file) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(f"{image.width} x {image.height} pixels are over the limit")
            check_declared(image, size)
            needed = bytes_needed(image, image.size, size, kept=True, later=False)
            check_memory(image, needed, MAX_PIXELS)
            with MEMORY_IN_FLIGHT.reserved(needed), errors_are_raised():
                image.load()
                turned = turn_of(image)
                upright = image.transpose(turned) if turned is not None else image
                white: NDArray[np.bool_] = _values(upright) > WHITE
                return white
    except UnidentifiedImageError as error:
        raise UnreadableImage("not an image that can be read") from error
    except DECODE_ERRORS as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise UnreadableImage(reason or str(error) or type(error).__name__) from error


def _values(image: Image.Image) -> NDArray[np.number]:
    if image.mode[0] in "IF":  # more than 8 bits
        return np.asarray(image)
    return np.asarray(over(image, "black").convert("L"))
