"""Masks: pictures that say where a defect is, or where to look."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from anomscan.errors import UnreadableImage
from anomscan.files.storage import storage_of
from anomscan.images.opening import DECODE_ERRORS, open_image
from anomscan.types import MAX_PIXELS

WHITE = 127
"""Above it, a pixel is of the mask."""


def read_mask(path: str) -> NDArray[np.bool_]:
    """Where it is white, (H, W), upright: pixels over ``WHITE`` of any range; what is transparent is black.

    Raises:
        UnreadableImage: the file is missing, not an image, damaged or too large.
    """
    try:
        with storage_of(path).open(path) as file, open_image(file) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(f"{image.width} x {image.height} pixels are over the limit")
            white: NDArray[np.bool_] = _values(ImageOps.exif_transpose(image)) > WHITE
            return white
    except UnidentifiedImageError as error:
        raise UnreadableImage("not an image that can be read") from error
    except DECODE_ERRORS as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise UnreadableImage(reason or str(error) or type(error).__name__) from error


def _values(image: Image.Image) -> NDArray[np.number]:
    if image.mode[0] in "IF":  # more than 8 bits
        return np.asarray(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "black"), rgba)
    return np.asarray(image.convert("L"))
