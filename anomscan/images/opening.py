"""What a file says of its image before a pixel of it is decoded: its format, pages, size, how it lies."""

from __future__ import annotations

import logging
import struct
import zlib
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from anomscan.errors import UnreadableImage
from anomscan.images.levels import know_more_tiffs

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
# What Pillow's decoders raise on damaged files (python-pillow: "any exception a plugin can raise").
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    struct.error,
    zlib.error,
)
_TIFF_MAGIC = (b"II*\0", b"MM\0*")
_ORIENTATION, _WIDTH, _HEIGHT, _SUBFILE_TYPE = 0x0112, 256, 257, 254
_REDUCED = 1
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LYING = (5, 6, 7, 8)
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else its errors go to standard error


def open_image(file: BinaryIO) -> Image.Image:
    """The image in a file, not yet decoded; raises one of ``DECODE_ERRORS``, or UnreadableImage."""
    magic = file.read(4)
    file.seek(0)
    if magic in _TIFF_MAGIC:
        know_more_tiffs()
    try:
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        if magic in _TIFF_MAGIC:
            raise UnreadableImage("a TIFF of a kind that cannot be read, or a damaged one") from error
        raise


def count_pages(image: Image.Image) -> int:
    """How many pages or frames the file has; 1 where that cannot be told."""
    try:
        return int(getattr(image, "n_frames", 1))
    except DECODE_ERRORS:  # the first page can be read; how many there are cannot
        return 1


def is_thumbnail(image: Image.Image) -> bool:
    """Whether a TIFF says that this page is a reduced version of another one."""
    if image.format != "TIFF":
        return False
    kind = image.tag_v2.get(_SUBFILE_TYPE, 0)  # type: ignore[attr-defined]
    return isinstance(kind, int) and bool(kind & _REDUCED)


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """How the image must be turned to stand upright; None also where its EXIF block is broken.

    Of a TIFF it says nothing once that is decoded: Pillow has turned it by then.
    """
    return _TURNS.get(_orientation(image))


def lies_on_its_side(image: Image.Image) -> bool:
    """Whether the width of the image in its file is the height of the upright one."""
    return _orientation(image) in _LYING


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of the upright image, of one that is not decoded, nor to be at a reduced scale."""
    width, height = image.size
    if image.format == "TIFF":  # some versions of Pillow have turned its size by now, some have not
        tags = image.tag_v2  # type: ignore[attr-defined]
        width, height = tags[_WIDTH], tags[_HEIGHT]
    return (height, width) if lies_on_its_side(image) else (width, height)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION) or 0
    except DECODE_ERRORS:
        return 0
