"""How much memory an image takes while it is decoded, known before a pixel of it is.

A file of a kilobyte may declare 484 million pixels. What they take depends on what they are: a byte each
where they are grey, twenty where Pillow reads 16 bits of three colours in two halves. The figures are peaks
that were measured with images of 16 million pixels, rounded up; ``tests/images/test_memory.py`` measures some
of them again.
"""

from __future__ import annotations

from PIL import Image

from anomscan.errors import UnreadableImage
from anomscan.images.opaque import LARGE
from anomscan.types import MAX_PIXELS

LIMIT = 2 * MAX_PIXELS
"""Bytes that an image may take; or two for every pixel of ``Reading.max_pixels``, where that is more."""
COMPOSED = ("GIF", "PNG", "WEBP")
"""Formats whose later frames are laid over the earlier ones."""
_BITS_PER_SAMPLE, _COMPRESSION, _SAMPLES, _ROWS_PER_STRIP, _TILE_WIDTH, _TILE_LENGTH = (
    258, 259, 277, 278, 322, 323,
)  # fmt: skip
_JPEG_COMPRESSIONS = (6, 7)
_ONE_BYTE, _TWO_BYTES = ("1", "L", "P"), ("I;16", "I;16B", "I;16L", "I;16N")
_ROOM = 1.2
"""What crops, the first step of a resize and the allocator take besides, as a factor."""


def check_memory(image: Image.Image, needed: int, max_pixels: int) -> None:
    """Raise UnreadableImage where decoding an image takes too much memory.

    Args:
        image: not decoded yet.
        needed: see ``bytes_needed``.
        max_pixels: see ``Reading``.
    """
    limit = memory_limit(max_pixels)
    if needed > limit:
        raise UnreadableImage(
            f"{image.width} x {image.height} pixels of this kind take {needed / 1e9:.1f} GB of memory, over "
            f"the limit of {limit / 1e9:.1f} GB; --max-pixels {-(-needed // 2)} allows it"
        )


def memory_limit(max_pixels: int) -> int:
    """What one image may take, in bytes."""
    return max(LIMIT, 2 * max_pixels)


def bytes_needed(
    image: Image.Image, whole: tuple[int, int], file_size: int, *, kept: bool, later: bool
) -> int:
    """What decoding an image and bringing it to 8 bits takes at most, in bytes.

    Args:
        image: opened, asked to be reduced, not decoded yet.
        whole: its width and height before it was asked to be reduced.
        file_size: in bytes.
        kept: whether all of its pixels are kept, in RGB; else large ones may be reduced on the way.
        later: whether it is not the first page or frame.
    """
    pixels = image.width * image.height
    own, raw, more = _bytes_a_pixel(image.mode), _raw_mode(image), 0
    if image.format == "PPM":
        more = _of_pnm(image, file_size)
    elif ";16" in raw and image.mode not in ("I", "F", *_TWO_BYTES):
        own = 18
    elif image.mode in _TWO_BYTES:
        own = 6
    elif image.mode in ("I", "F"):
        own = 12
    elif image.mode not in ("L", "RGB") or image.has_transparency_data:
        own += 4 if kept or pixels <= LARGE else 1
    if image.format == "WEBP":
        more = 12 * pixels + file_size
    elif image.format == "TIFF":
        more = _of_strip(image)
    elif image.format in ("JPEG", "MPO"):
        more = _of_coefficients(image, whole)
    if later and image.format in COMPOSED:
        more += 16 * pixels
    return int(_ROOM * (own * pixels + more))


def _bytes_a_pixel(mode: str) -> int:
    return 1 if mode in _ONE_BYTE else 2 if mode in _TWO_BYTES else 4


def _raw_mode(image: Image.Image) -> str:
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else None
    raw = arguments if isinstance(arguments, str) else arguments[0] if arguments else ""
    return raw if isinstance(raw, str) else ""


def _of_pnm(image: Image.Image, file_size: int) -> int:
    """Numbers of more than 8 bits are read by numpy; those that are written as text are objects meanwhile."""
    values = image.width * image.height * (3 if image.mode == "RGB" else 1)
    tiles = getattr(image, "tile", None)
    if tiles and tiles[0][0] == "ppm_plain":
        return 2 * file_size + 64 * min(values, file_size)
    return 6 * values


def _of_strip(image: Image.Image) -> int:
    """Libtiff unpacks a strip, or a tile, at a time, and a JPEG in it may keep all coefficients."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits = tags.get(_BITS_PER_SAMPLE, (8,))
    sample = max(bits) if isinstance(bits, tuple) else bits
    width, height = image.size
    if _TILE_WIDTH in tags:
        pixels = tags[_TILE_WIDTH] * tags.get(_TILE_LENGTH, height)
    else:
        pixels = width * min(tags.get(_ROWS_PER_STRIP, height), height)
    samples = int(tags.get(_SAMPLES, 1))
    if tags.get(_COMPRESSION) in _JPEG_COMPRESSIONS:
        return int(pixels * (4 + 2 * samples))
    return int(pixels * max(samples * sample // 8, 1))


def _of_coefficients(image: Image.Image, whole: tuple[int, int]) -> int:
    """Libjpeg keeps all coefficients, of two bytes, of a progressive JPEG, at whatever scale it decodes."""
    if "progressive" not in image.info and "progression" not in image.info:
        return 0
    sampled = [(h, v) for _, h, v, _ in getattr(image, "layer", ())] or [(1, 1)] * len(image.getbands())
    largest = max(h for h, _ in sampled) * max(v for _, v in sampled)
    share = sum(h * v for h, v in sampled) / max(1, largest)
    return int(2 * whole[0] * whole[1] * max(1.0, share))
