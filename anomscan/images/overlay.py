"""Pictures of images with what is odd about them: heat laid over them, outlines, parts at full resolution.

Where heat is 0, a picture stays as it is. Where it is not, the picture turns grey below a ramp from red to
yellow, through which a defect can still be seen.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, PngImagePlugin

from anomscan.errors import UnreadableImage
from anomscan.files.atomic import whole_file
from anomscan.files.storage import storage_of
from anomscan.images.decode import FULL, opened, source_named
from anomscan.images.find import Found, Unreadable
from anomscan.images.opening import DECODE_ERRORS, open_image, upright_size
from anomscan.images.part import covered
from anomscan.pipeline import available_cores, in_order
from anomscan.types import Box, Features, Reading

MARK = b"anomscan heat map"
"""Stands near the beginning of every file that ``overlay`` has written."""
OPAQUE = 0.6
"""How opaque the hottest place is."""
_HEAD = 4096
_BAND = 512
"""Rows that are coloured at a time: a picture needs little more memory than its pixels."""
_LONGEST_JPEG = 65_500
_LINES = 600
"""An outline is one such part of the picture's shorter side wide."""

_LEVELS = np.linspace(0, 1, 256)
_RED, _ORANGE, _YELLOW = (203, 30, 60), (245, 125, 21), (252, 235, 120)
_COLOURS = [
    np.interp(_LEVELS, (0, 0.55, 1), channel).round().astype(int).tolist()
    for channel in zip(_RED, _ORANGE, _YELLOW, strict=True)
]
_OPACITY = (255 * OPAQUE * _LEVELS**0.7).round().astype(int).tolist()
_GREYNESS = (255 * np.minimum(1, 4 * _LEVELS)).round().astype(int).tolist()


def overlay(path: str, heat: Features, boxes: Sequence[Box], reading: Reading, out: Path) -> None:
    """Write the image ``path`` at its own resolution, upright, with heat laid over it and boxes outlined.

    Args:
        path: what a row is called.
        heat: (rows, columns) in [0, 1], of what the model looks at; interpolated between the middles of its
            cells.
        boxes: in pixels of the image.
        reading: how the image becomes one of 8 bits.
        out: the file to write, whole or not at all; a JPEG, or a PNG where that is its suffix.

    Raises:
        UnreadableImage: see ``decode``.
        OutputError: see ``whole_file``.
    """
    with whole_file(str(out)) as partial:
        source = source_named(path)
        with opened(source.path, FULL, reading, source.page) as (image, _, _):
            picture = image if image.mode == "RGB" else image.convert("RGB")
            _lay(heat, picture, covered(reading, picture.size))
            _outline(boxes, picture)
            content = _png(picture) if out.suffix.lower() == ".png" else _jpeg(picture)
        partial.write_bytes(content)


def is_overlay(path: Path) -> bool:
    """Whether the file was written by ``overlay``, and may be written anew; raises OSError."""
    with open(path, "rb") as file:
        return MARK in file.read(_HEAD)


def overlay_thumbnail(path: str, heat: Features, side: int, reading: Reading) -> bytes:
    """The same as a WebP, at most ``side`` pixels wide and high, without outlines; raises UnreadableImage."""
    source = source_named(path)
    with opened(source.path, (side, side), reading, source.page) as (image, _, _):
        image.thumbnail((side, side))
        small = image.convert("RGB")
        _lay(heat, small, covered(reading, small.size))
        return _webp(small)


def crop(path: str, box: Box, side: int, reading: Reading) -> bytes:
    """The part ``box`` of an image as a WebP whose longer side is ``side`` pixels; raises UnreadableImage.

    It is cut from all of the image's pixels, and enlarged where it has fewer.
    """
    source = source_named(path)
    with opened(source.path, FULL, reading, source.page) as (image, _, _):
        part = image.crop(_inside(box, image.size)).convert("RGB")
        scale = side / max(part.size)
        size = (max(1, round(scale * part.width)), max(1, round(scale * part.height)))
        return _webp(part.resize(size, Image.Resampling.BICUBIC))


def source_size(path: str) -> tuple[int, int]:
    """Width and height of the upright image, without decoding it; raises UnreadableImage."""
    source = source_named(path)
    try:
        with storage_of(source.path).open(source.path) as file, open_image(file) as image:
            if source.page is not None and source.page > 1:
                image.seek(source.page - 1)
            return upright_size(image)
    except DECODE_ERRORS as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise UnreadableImage(reason or str(error) or type(error).__name__) from error


def typical_size(sources: Iterable[Found]) -> tuple[int, int] | None:
    """The size that most of the sources have; None where none can be read."""
    sizes = Counter(size for size in in_order(_size, sources, available_cores(), 64) if size is not None)
    return sizes.most_common(1)[0][0] if sizes else None


def _size(source: Found) -> tuple[int, int] | None:
    if isinstance(source, Unreadable):
        return None
    try:
        return source_size(source.name)
    except UnreadableImage:
        return None


def _lay(heat: Features, picture: Image.Image, area: Box) -> None:
    """Colour a part of an RGB picture by ``heat``, (rows, columns) in [0, 1]."""
    (rows, columns), (left, first, width, height) = heat.shape, area
    levels: NDArray[np.uint8] = (255 * heat).clip(0, 255).round().astype(np.uint8)
    cells = Image.fromarray(levels)
    for top in range(0, height, _BAND):
        bottom = min(top + _BAND, height)
        part = (0, rows * top / height, columns, rows * bottom / height)
        warmth = cells.resize((width, bottom - top), Image.Resampling.BILINEAR, box=part)
        band = (left, first + top, left + width, first + bottom)
        below = picture.crop(band)
        below.paste(below.convert("L").convert("RGB"), mask=warmth.point(_GREYNESS))
        below.paste(Image.merge("RGB", [warmth.point(c) for c in _COLOURS]), mask=warmth.point(_OPACITY))
        picture.paste(below, band)


def _outline(boxes: Sequence[Box], picture: Image.Image) -> None:
    """White lines with a dark edge, which are seen on any ground, just outside of each box."""
    width = max(1, round(min(picture.size) / _LINES))
    draw = ImageDraw.Draw(picture)
    for x, y, w, h in boxes:
        for beyond, thick, colour in ((2 * width, 2 * width, "black"), (width, width, "white")):
            corners = (x - beyond, y - beyond, x + w - 1 + beyond, y + h - 1 + beyond)
            draw.rectangle(corners, outline=colour, width=thick)


def _inside(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what of ``box`` lies inside a picture; at least a pixel."""
    left, top = (min(max(0, start), side - 1) for start, side in zip(box[:2], size, strict=True))
    right, bottom = box[0] + box[2], box[1] + box[3]
    return left, top, max(left + 1, min(right, size[0])), max(top + 1, min(bottom, size[1]))


def _png(picture: Image.Image) -> bytes:
    buffer, note = io.BytesIO(), PngImagePlugin.PngInfo()
    note.add_text("Comment", MARK.decode("ascii"))
    picture.save(buffer, "PNG", pnginfo=note)
    return buffer.getvalue()


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.thumbnail((_LONGEST_JPEG, _LONGEST_JPEG))  # longer ones cannot be written
    picture.save(buffer, "JPEG", quality=90, comment=MARK)
    return buffer.getvalue()


def _webp(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=80)
    return buffer.getvalue()
