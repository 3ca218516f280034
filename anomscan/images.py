"""Find images, decode them, bring them to the size of the graph. The only module that uses Pillow.

Rules, the same for normals and for incoming images:

* EXIF orientation is applied.
* 16-bit grey is divided by 257; palettes, CMYK and greyscale are converted to RGB; an alpha channel is
  composited over white; 32-bit pixels have no fixed range and are refused.
* A JPEG much larger than the input is decoded at reduced scale, never below twice the input's size.
* The whole image is squashed to the input's size: nothing is cropped away.
* Of an animation or a multi-page file, the first frame counts.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from anomscan.config import Preprocessing
from anomscan.errors import InputError, UnreadableImage
from anomscan.pipeline import in_order

Pixels = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif")
)
MAX_PIXELS = 500_000_000
"""An image of more pixels than this is refused before it is decoded."""
LOOK_AHEAD = 16
"""Images a thread that wait, decoded, for whoever consumes them."""

Image.MAX_IMAGE_PIXELS = None  # the limit above is checked instead, with a reason in the row

RESAMPLES = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

# What Pillow's decoders raise on damaged files (python-pillow: "any exception a plugin can raise").
_DECODE_ERRORS = (
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


@dataclass(frozen=True)
class Source:
    """A path to look at; ``error`` says why it cannot be read, if that is known already."""

    path: str
    error: str | None = None


@dataclass(frozen=True)
class Decoded:
    """A source after decoding: ``pixels`` is (H, W, 3) uint8 RGB, or None and ``error`` says why."""

    path: str
    pixels: Pixels | None
    error: str | None = None


def find(paths: Iterable[str], *, strict: bool = True) -> Iterator[Source]:
    """The images at or below ``paths``, lazily and in a stable order.

    A file is taken whatever its name; a folder is walked recursively, in the byte order of the names,
    for files with an image suffix. Links are followed, but no folder is entered twice, so that a loop
    ends. What cannot be opened (a dangling link, a folder without permission) is a source with an error.

    Raises:
        InputError: one of ``paths`` does not exist; without ``strict`` that is a source with an error.
    """
    entered: set[tuple[int, int]] = set()
    for path in paths:
        try:
            mode = os.stat(path).st_mode
        except (OSError, ValueError) as error:
            if strict:
                raise InputError(f"{printable(path)}: {_reason(error)}") from error
            yield Source(path, _reason(error))
            continue
        if stat.S_ISDIR(mode):
            yield from _walk(path, entered)
        else:
            yield Source(path)


def _walk(folder: str, entered: set[tuple[int, int]]) -> Iterator[Source]:
    try:
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in entered:
            return
        entered.add((status.st_dev, status.st_ino))
        folders: set[bytes] = set()
        names: list[bytes] = []  # and not the entries, which take five times the memory
        with os.scandir(os.fsencode(folder)) as listing:
            for entry in listing:
                if entry.is_dir():
                    folders.add(entry.name)
                elif os.path.splitext(os.fsdecode(entry.name))[1].lower() not in SUFFIXES:
                    continue
                names.append(entry.name)
    except OSError as error:
        yield Source(folder, _reason(error))
        return
    names.sort()
    for name in names:
        path = os.path.join(folder, os.fsdecode(name))
        if name in folders:
            yield from _walk(path, entered)
        else:
            yield Source(path)


def decode(path: str, preprocessing: Preprocessing) -> Pixels:
    """Read one image as the graph's input.

    Returns:
        (height, width, 3) uint8 RGB, C-contiguous.

    Raises:
        UnreadableImage: the file is missing, not a regular file, not one of ``FORMATS``, damaged,
            too large, or has pixels without a fixed range.
    """
    size = (preprocessing.width, preprocessing.height)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UnreadableImage("not a regular file")
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(f"{image.width} x {image.height} pixels is over the limit")
            image.draft(None, (2 * size[0], 2 * size[1]))
            rgb = _to_rgb(ImageOps.exif_transpose(image))
            return np.ascontiguousarray(rgb.resize(size, RESAMPLES[preprocessing.resample]))
    except _DECODE_ERRORS as error:
        raise UnreadableImage(_reason(error)) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image, dtype=np.uint32) // 257).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("I", "F"):
        raise UnreadableImage("32-bit pixels have no fixed range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if type(error).__name__ == "UnidentifiedImageError":
        return "not an image that can be read (" + ", ".join(FORMATS) + ")"
    return str(error) or type(error).__name__


def decode_all(sources: Iterable[Source], preprocessing: Preprocessing, threads: int) -> Iterator[Decoded]:
    """Decode ``sources`` in order, at most ``LOOK_AHEAD`` images a thread ahead of whoever consumes them."""

    def one(source: Source) -> Decoded:
        if source.error is not None:
            return Decoded(source.path, None, source.error)
        try:
            return Decoded(source.path, decode(source.path, preprocessing))
        except UnreadableImage as error:
            return Decoded(source.path, None, str(error))

    return in_order(one, sources, threads, LOOK_AHEAD * threads)


def thumbnail(path: str, side: int) -> bytes:
    """A small WebP of the image, at most ``side`` pixels wide and high; raises UnreadableImage."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.draft(None, (2 * side, 2 * side))
            rgb = _to_rgb(ImageOps.exif_transpose(image))
            rgb.thumbnail((side, side))
            buffer = io.BytesIO()
            rgb.save(buffer, "WEBP", quality=80)
            return buffer.getvalue()
    except _DECODE_ERRORS as error:
        raise UnreadableImage(_reason(error)) from error


def printable(path: str) -> str:
    """``path`` for a message: bytes that are not UTF-8 and control characters are escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
