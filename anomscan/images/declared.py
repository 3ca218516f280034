"""Whether a file holds as much as it declares: decoders fill what is missing with grey or black.

A JPEG that was cut off and closed again is grey from there on, and a PNG whose compressed data end early is
black.
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

import numpy as np
from PIL import Image

from anomscan.errors import UnreadableImage

_BLOCK = 8
_CHUNK = 1 << 16
_BITS = {"1": 1, "L;1": 1, "L;2": 2, "L;4": 4, "P;1": 1, "P;2": 2, "P;4": 4}
"""Of a pixel of a PNG, by how Pillow calls what lies in the file, where those are less than a byte."""
_BYTES = {"L": 1, "P": 1, "LA": 2, "RGB": 3, "RGBA": 4, "I;16B": 2, "LA;16B": 4, "RGB;16B": 6, "RGBA;16B": 8}
_LARGEST_RATIO = 1032
"""Of deflate."""


def check_declared(image: Image.Image, data: int) -> None:
    """Raise UnreadableImage where a file is too small for the pixels that it declares.

    Args:
        image: opened, not decoded, nor asked to be reduced.
        data: bytes of the file that can be of pixels.
    """
    least = 0
    if image.format in ("JPEG", "MPO"):
        blocks = -(-image.width // _BLOCK) * -(-image.height // _BLOCK)
        progressive = "progressive" in image.info or "progression" in image.info
        least = (1 if progressive else 2) * blocks // 8  # a bit for the mean of each, one for the rest
    elif image.format == "PNG":
        least = raw_bytes(image) // _LARGEST_RATIO
    if data < least:
        raise UnreadableImage(
            f"cut off: {data} bytes cannot hold the {image.width} x {image.height} pixels that it declares"
        )


def ends_black(image: Image.Image) -> bool:
    """Whether the last row of a decoded image is zero, also in its transparency."""
    last = image.crop((0, image.height - 1, image.width, image.height))
    return not np.any(last.getextrema())


def check_unpacked(file: BinaryIO, needed: int) -> None:
    """Raise UnreadableImage where the data of a PNG end before so many bytes; see ``raw_bytes``."""
    if _unpacked(file, needed) < needed:
        raise UnreadableImage("cut off: its compressed data end before its last rows")


def raw_bytes(image: Image.Image) -> int:
    """What the pixels of a PNG, not decoded yet, take uncompressed, at least; 0 of any other image."""
    if image.format != "PNG":
        return 0
    tiles = getattr(image, "tile", None)
    raw = tiles[0][3] if tiles else ""
    raw = raw if isinstance(raw, str) else raw[0] if raw else ""
    bits = _BITS.get(raw, 8 * _BYTES.get(raw, 0))
    if not bits:
        return 0
    if image.info.get("interlace"):
        return image.height * (image.width * bits // 8)
    return image.height * (1 + -(-image.width * bits // 8))


def _unpacked(file: BinaryIO, enough: int) -> int:
    """Bytes in the IDAT chunks of a PNG after unpacking, counted up to ``enough``."""
    file.seek(8)
    unpacker, count = zlib.decompressobj(), 0
    while len(header := file.read(8)) == 8 and count < enough:
        length, kind = struct.unpack(">I4s", header)
        if kind == b"IEND":
            break
        if kind != b"IDAT":
            file.seek(length + 4, 1)
            continue
        while length and count < enough:
            part = file.read(min(length, _CHUNK))
            if not part:
                return count
            length -= len(part)
            while part and count < enough:
                count += len(unpacker.decompress(part, _CHUNK))
                part = unpacker.unconsumed_tail
        file.seek(4, 1)
    return count
