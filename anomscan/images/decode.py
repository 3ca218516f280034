"""Decode images and bring them to the size of the graph.

Rules, the same for normals and for incoming images:

* EXIF orientation is applied, where it can be read.
* More than 8 bits become 0 to 255 by the one range that the normals decided, see ``levels``.
* Palettes, CMYK and greyscale are converted to RGB; an alpha channel is composited over white, unless it is
  zero everywhere: then it was never meant as one.
* A JPEG much larger than the input is decoded at reduced scale, never below twice the input's size; and what
  has to be converted is reduced likewise where it is large, see ``opaque``.
* No image is decoded that takes too much memory, or whose file is too small for what it declares.
* The whole image is squashed to the input's size: nothing is cropped away, unless the model looks at a part.
  With tiles, each of them is, and nothing is decoded at a scale below twice the input's in a tile.
* Of an animation or a multi-page file, the first frame counts, or the page that is asked for.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from anomscan.errors import UnreadableImage
from anomscan.files.storage import Identity, storage_of
from anomscan.images.budget import MEMORY_IN_FLIGHT
from anomscan.images.declared import check_declared, check_unpacked, ends_black, raw_bytes
from anomscan.images.find import Found, Source, Unreadable, reason_of
from anomscan.images.levels import CLIPPED, Deep, deep
from anomscan.images.libtiff import errors_are_raised
from anomscan.images.memory import COMPOSED, bytes_needed, check_memory
from anomscan.images.opaque import opaque
from anomscan.images.opening import (
    DECODE_ERRORS,
    FORMATS,
    count_pages,
    is_thumbnail,
    lies_on_its_side,
    open_image,
    turn_of,
    upright_size,
)
from anomscan.images.region import check_size, in_tiles, least_size, squashed
from anomscan.images.tiles import whole_size
from anomscan.pipeline import in_order
from anomscan.types import Levels, Part, Pixels, Preprocessing, Reading

FULL = (1 << 24, 1 << 24)
"""A size that no image is read at less than: for ``opened``, all of its pixels."""
LOOK_AHEAD = 16
"""Images a thread that wait, decoded, for whoever consumes them."""
Image.MAX_IMAGE_PIXELS = None  # Reading.max_pixels is checked instead, with a reason in the row
RESAMPLES = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_WITHOUT_END_MARK = ("BMP", "TIFF", "WEBP", "PPM")
_NEVER_END_IN_ZEROS, _ZEROS = ("PNG", "WEBP"), 64
"""Compressed formats that decode, to anything, where the last so many bytes and more are zeros yet."""
_JPEG_GREY = 128
_TAIL = 10
"""One in so many rows, the last written, is looked at for the zeros of a file that is not all there yet."""


@dataclass(frozen=True)
class Remarks:
    """What is odd about an image that was read all the same.

    ``clipped``: more than ``levels.CLIPPED`` of its pixels lie outside the range. ``flat``: they are all of
    one value. ``pages``: further pages or frames that were not looked at. ``thumbnail``: the file says that
    what was read is a reduced version. ``constant_tail``: the rows that were written last are of one value.
    """

    clipped: bool = False
    flat: bool = False
    pages: int = 0
    thumbnail: bool = False
    constant_tail: bool = False


NOTHING_ODD = Remarks()


@dataclass(frozen=True)
class Decoded:
    """An image that was read: ``pixels`` is (H, W, 3) uint8 RGB, or of T tiles (T, H, W, 3).

    ``path`` is what its row is called; ``file`` where it is, and ``identity`` the state of that file when it
    was opened.
    """

    path: str
    pixels: Pixels
    file: str = ""
    identity: Identity | None = None
    remarks: Remarks = NOTHING_ODD


def decode(path: str, preprocessing: Preprocessing, page: int | None = None) -> Decoded:
    """Read one image as the graph's input, (height, width, 3) uint8 RGB, C-contiguous; or its tiles.

    Raises:
        UnreadableImage: the file is missing, not a regular file, not one of ``FORMATS``, damaged, cut off,
            too large, of another size than the model's part is for, or has pixels of an unknown range.
    """
    size = (preprocessing.width, preprocessing.height)
    reading = preprocessing.reading
    whole = whole_size(preprocessing.tiles, size)
    with opened(path, whole, reading, page, reading.part) as (image, identity, remarks):
        pixels = _pixels(image, size, preprocessing)
        remarks = replace(remarks, flat=bool((pixels == pixels.reshape(-1, 3)[0]).all()))
        return Decoded(Source(path, page).name, pixels, path, identity, remarks)


def _pixels(image: Image.Image, size: tuple[int, int], preprocessing: Preprocessing) -> Pixels:
    resample, part, tiles = RESAMPLES[preprocessing.resample], preprocessing.reading.part, preprocessing.tiles
    if tiles is None:
        return np.ascontiguousarray(squashed(image, size, resample, part).convert("RGB"))
    return np.stack(
        [np.asarray(tile.convert("RGB")) for tile in in_tiles(image, size, resample, part, tiles)]
    )


def source_named(name: str) -> Source:
    """The image that a row is called after: its path, and the number of a page behind it if it has one."""
    file, mark, number = name.rpartition("#")
    if mark and number.isdecimal() and not os.path.lexists(name):
        return Source(file, int(number))
    return Source(name)


def thumbnail(path: str, side: int, reading: Reading) -> bytes:
    """A small WebP of the image, at most ``side`` pixels wide and high; raises UnreadableImage.

    ``path`` may be what a row is called, with the number of a page behind it.
    """
    source = source_named(path)
    with opened(source.path, (side, side), reading, source.page) as (image, _, _):
        image.thumbnail((side, side))
        small = image.convert("RGB")
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=80)
        return buffer.getvalue()


@contextmanager
def opened(
    path: str, size: tuple[int, int], reading: Reading, page: int | None, part: Part | None = None
) -> Iterator[tuple[Image.Image, Identity, Remarks]]:
    """The whole image, upright, in 8 bits, at no less than twice ``size``; raises UnreadableImage.

    With ``part`` that part of it is at no less than twice ``size``, and an image of another size is refused.
    """
    storage = storage_of(path)
    try:
        identity = storage.identity(path)
        with storage.open(path) as file, _image_in(file, identity.size) as image:
            later = page is not None and page > 1
            if page is not None and later and image.format not in COMPOSED:
                image.seek(page - 1)
            if image.width * image.height > reading.max_pixels:
                raise UnreadableImage(
                    f"{image.width} x {image.height} pixels are over the limit; see --max-pixels"
                )
            least = (2 * size[0], 2 * size[1])
            if (
                part is not None and image.format == "PNG"
            ):  # asked for its orientation it is decoded, in 8 bits
                least = FULL
            elif part is not None:
                check_size(upright_size(image), part)
                least = least_size(image, least, part)
            elif image.format == "JPEG" and lies_on_its_side(image):
                least = (least[1], least[0])
            whole = image.size
            image.draft(None, least)
            kept = least[0] >= FULL[0]
            needed = bytes_needed(image, whole, identity.size, kept=kept, later=later)
            check_memory(image, needed, reading.max_pixels)
            with MEMORY_IN_FLIGHT.reserved(needed):
                if page is not None and later and image.format in COMPOSED:
                    _go_to(image, page)
                read = _read(image, file, reading, page, identity, least)
                try:
                    if part is not None and image.format == "PNG":
                        check_size(read[0].size, part)
                    yield read
                finally:  # give the memory back before others may take as much
                    read[0].close()
                    image.close()
    except DECODE_ERRORS as error:
        raise UnreadableImage(_reason(error)) from error


def _go_to(image: Image.Image, page: int) -> None:
    """Go to a later frame, which is laid over those before it; none of them may be larger than the first."""
    size = image.size
    for number in range(1, page):
        image.seek(number)
        if image.size != size:
            raise UnreadableImage("it has a frame that is larger than the picture")


def _read(
    image: Image.Image,
    file: BinaryIO,
    reading: Reading,
    page: int | None,
    identity: Identity,
    least: tuple[int, int],
) -> tuple[Image.Image, Identity, Remarks]:
    pages = 0 if page is not None else count_pages(image) - 1
    form, reduced, packed = image.format, is_thumbnail(image), 0 if page is not None else raw_bytes(image)
    with errors_are_raised() if form == "TIFF" else nullcontext():
        values, clipped = deep(image, file) if isinstance(image, ImageFile) else None, False
        if values is None:
            image.load()
    if packed and ends_black(image):
        check_unpacked(file, packed)
    turned = turn_of(image)  # Pillow has turned a TIFF by now, and says so
    if values is not None:
        known = reading.beyond_16_bits or values.container is not None
        image, share = _in_8_bits(values, reading.levels if known else None)
        clipped = share > CLIPPED
    seen = opaque(image, least)
    tail = _has_constant_tail(seen, bottom_up=form == "BMP") and not is_flat(seen)
    if (
        tail
        and not reading.constant_tail
        and (form in _WITHOUT_END_MARK or _ends_like_a_cut_jpeg(seen, form))
    ):
        raise UnreadableImage("the last rows are all of one value: cut off, or still being written")
    upright = seen.transpose(turned) if turned is not None else seen
    return upright, identity, Remarks(clipped, pages=max(0, pages), thumbnail=reduced, constant_tail=tail)


@contextmanager
def _image_in(file: BinaryIO, size: int) -> Iterator[Image.Image]:
    file.seek(max(0, size - _ZEROS))
    hollow = size > _ZEROS and not any(file.read(_ZEROS))
    file.seek(0)
    with open_image(file) as image:
        if hollow and image.format in _NEVER_END_IN_ZEROS:
            raise UnreadableImage("it ends in zeros: cut off, or still being written")
        check_declared(image, size - file.tell() if image.format == "JPEG" else size)
        yield image


def _in_8_bits(values: Deep, levels: Levels | None) -> tuple[Image.Image, float]:
    pixels, outside = values.in_8_bits(levels)
    return Image.fromarray(pixels), outside


def is_flat(image: Image.Image) -> bool:
    """Whether every pixel of a greyscale or RGB image is the same."""
    return all(low == high for low, high in np.reshape(image.getextrema(), (-1, 2)))


def _has_constant_tail(image: Image.Image, *, bottom_up: bool) -> bool:
    """Whether the rows that a file holds last are all of one value, as where they were never written."""
    rows = max(1, image.height // _TAIL)
    tails = [(0, image.height - rows, image.width, image.height)]
    if bottom_up:  # a BMP mostly is
        tails.append((0, 0, image.width, rows))
    return any(is_flat(image.crop(tail)) for tail in tails)


def _ends_like_a_cut_jpeg(image: Image.Image, form: str | None) -> bool:
    """Whether the last row has the grey that libjpeg puts where there are no data."""
    last = image.crop((0, image.height - 1, image.width, image.height))
    return form in ("JPEG", "MPO") and bool((np.asarray(last) == _JPEG_GREY).all())


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image that can be read (" + ", ".join(FORMATS) + ")"
    if isinstance(error, OSError | ValueError):
        return reason_of(error)
    return str(error) or type(error).__name__


def decode_all(
    sources: Iterable[Found], preprocessing: Preprocessing, threads: int
) -> Iterator[Decoded | Unreadable]:
    """Decode ``sources`` in order, at most ``LOOK_AHEAD`` images a thread ahead of whoever consumes them."""
    ahead = max(1, LOOK_AHEAD * threads // preprocessing.tile_count)
    return in_order(lambda source: look_at(source, preprocessing), sources, threads, ahead)


def look_at(source: Found, preprocessing: Preprocessing) -> Decoded | Unreadable:
    """The image, or why it cannot be read."""
    if isinstance(source, Unreadable):
        return source
    try:
        return decode(source.path, preprocessing, source.page)
    except UnreadableImage as error:
        return Unreadable(source.name, str(error))


def every_page(sources: Iterable[Found]) -> Iterator[Found]:
    """The same, with a source for each page or frame of a file that has several."""
    for source in sources:
        count = 1 if isinstance(source, Unreadable) else _count_pages(source.path)
        if isinstance(source, Unreadable) or count == 1:
            yield source
        else:
            yield from (Source(source.path, page) for page in range(1, count + 1))


def _count_pages(path: str) -> int:
    try:
        with storage_of(path).open(path) as file, open_image(file) as image:
            return count_pages(image)
    except (*DECODE_ERRORS, UnreadableImage):  # the decoder will say why
        return 1
