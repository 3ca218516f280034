"""Grey levels of more than 8 bits: what a file holds, and the one range that becomes 0 to 255.

Cameras write 10, 12 or 14 bits into 16, thermal ones a narrow band far from 0. What the container could hold
says nothing of them, so the range is decided once, from the normals, and is the same for every image since.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from anomscan.errors import UnreadableImage, UsageError
from anomscan.types import Levels, Pixels

Values = NDArray[np.uint16] | NDArray[np.int32] | NDArray[np.uint32] | NDArray[np.float32]

TAIL = 0.001
"""Share of the darkest, and of the brightest, pixels of an image that its range leaves out: hot pixels."""
MARGIN = 0.05
"""Of the normals' range, added on either side; what remains for the normals is 232 of 256 levels."""
CLIPPED = 0.01
"""Share of an image's pixels outside the range above which it is said to be clipped."""
_BITS_PER_SAMPLE, _MAX_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 281, 262, 339
_WHITE_IS_ZERO, _SIGNED = 0, 2
_PART = 1 << 18
"""Values that are brought to 8 bits at a time."""
_LOW_BYTES = {"16L": "16B", "16B": "16L", "16N": "16B"}
_NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}
"""How pixels lie that libtiff has unpacked, by what Pillow takes those of the other byte order for."""


@dataclass(frozen=True)
class Span:
    """What is known of the range of an image with more than 8 bits, see ``Deep``; ``used`` by its pixels."""

    declared: float | None
    container: float | None
    used: Levels


@dataclass(frozen=True)
class Deep:
    """Pixels of more than 8 bits: ``values`` is (H, W) or (H, W, 3).

    ``declared`` is the largest value by what the file says, where that is less than its container could hold;
    ``container`` the largest that this holds, None where there is no such thing (signed, 32 bits, float).
    ``alpha`` is (H, W) uint8, how opaque they are, if the file says so.
    """

    values: Values
    declared: float | None
    container: float | None
    alpha: Pixels | None = None

    def in_8_bits(self, levels: Levels | None) -> tuple[Pixels, float]:
        """The pixels by a range, (H, W), (H, W, 3) or with alpha (H, W, 4), and the share outside of it.

        Raises:
            UnreadableImage: there is no range: none from the normals, the command line or the file.
        """
        if levels is None:
            if self.declared is None:
                raise UnreadableImage(
                    "it has more than 8 bits and the model's normals have 8, so that its range is unknown; "
                    "index normals of this kind, or state it with --range"
                )
            levels = Levels(0.0, self.declared)
        pixels, outside = np.empty(self.values.shape, np.uint8), 0
        of_16_bits = _in_8_bits(np.arange(1 << 16), levels)
        step = max(1, _PART // max(1, self.values[:1].size))
        for rows in (slice(i, i + step) for i in range(0, len(pixels), step)):  # memory, for line scans
            part = self.values[rows]
            outside += int(((part < levels.low) | (part > levels.high)).sum())
            pixels[rows] = of_16_bits[part] if part.dtype == np.uint16 else _in_8_bits(part, levels)
        share = outside / max(1, pixels.size)
        return (pixels if self.alpha is None else np.dstack([pixels, self.alpha])), share

    def span(self) -> Span:
        """The range that nearly all of its pixels use, and what the file says."""
        finite = self.values[np.isfinite(self.values)]
        if not finite.size:
            raise UnreadableImage("not one pixel is a number")
        low, high = np.quantile(finite, (TAIL, 1 - TAIL))
        return Span(self.declared, self.container, Levels(float(low), float(high)))


def _in_8_bits(values: NDArray[Any], levels: Levels) -> Pixels:
    scaled = (values.astype(np.float64) - levels.low) * 255.0 / (levels.high - levels.low)
    return np.nan_to_num(scaled).clip(0, 255).astype(np.uint8)


@lru_cache(1)
def know_more_tiffs() -> None:
    """Tell Pillow of TIFFs that it can unpack and knows only in the other byte order, or where zero is black.

    Not before one is met: importing what reads them takes as long as reading a photograph.
    """
    from PIL import TiffImagePlugin

    for order, photometric, bits, modes in (
        (b"MM", 0, 16, ("I;16B", "I;16B")),
        (b"II", 0, 12, ("I;16", "I;12")),
        (b"MM", 0, 12, ("I;16", "I;12")),
        (b"MM", 1, 12, ("I;16", "I;12")),
        (b"MM", 1, 32, ("I", "I;32BS")),
    ):
        TiffImagePlugin.OPEN_INFO.setdefault((order, photometric, (1,), 1, (bits,), ()), modes)


def deep(image: ImageFile, file: BinaryIO) -> Deep | None:
    """The pixels of an opened image that has more than 8 bits, or signed ones; None of any other.

    Raises:
        UnreadableImage: the bits beyond the eighth cannot be had.
    """
    raw = _raw_mode(image)
    if image.format == "PPM":
        maxval = _maxval(image)
        return _pnm(image, file, maxval) if maxval > 255 else _whole_or_float(image)
    if image.mode.startswith("I;16"):
        return _grey_16(image, file)
    if raw is not None and ";16" in raw and image.mode not in "IF":
        return _colour_16(image, raw, file)
    return _whole_or_float(image)


def _whole_or_float(image: ImageFile) -> Deep | None:
    """Signed pixels, whole numbers of 32 bits and floats, which have no largest value to count from."""
    tags = getattr(image, "tag_v2", {})
    signed = _SIGNED in tags.get(_SAMPLE_FORMAT, ())
    if image.mode == "L" and signed:
        return Deep(np.asarray(image).view(np.int8).astype(np.int32), None, None)
    if image.mode not in "IF":
        return None
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        raise UnreadableImage("its zero is white, and from which number on it is black is unknown")
    if image.tile and image.tile[0][0] == "libtiff":
        raw = _raw_mode(image) or ""
        _set_raw_mode(image, _NATIVE.get(raw, raw))
    values = np.asarray(image)
    unsigned = image.mode == "I" and tags.get(_BITS_PER_SAMPLE) == (32,) and not signed
    return Deep(values.view(np.uint32) if unsigned else values, None, None)


def _maxval(image: ImageFile) -> int:
    """The largest value by the header of a PGM or PPM, 255 where Pillow needs not scale it."""
    if not image.tile:
        return 255
    arguments = image.tile[0][3]
    if arguments == "I;16B":
        return 65535
    return arguments[1] if isinstance(arguments, tuple) and isinstance(arguments[1], int) else 255


def _pnm(image: ImageFile, file: BinaryIO, maxval: int) -> Deep:
    """Pillow scales such numbers, colours even to 8 bits, one by one; here they stay what they are."""
    decoder, _, offset, _ = image.tile[0]
    shape = (image.height, image.width, 3) if image.mode == "RGB" else (image.height, image.width)
    count = int(np.prod(shape))
    file.seek(offset)
    if decoder == "ppm_plain":
        numbers = np.array(re.sub(rb"#[^\r\n]*", b"", file.read()).split()[:count]).astype(np.uint16)
    else:
        data = file.read(2 * count)
        numbers = np.frombuffer(data[: len(data) // 2 * 2], ">u2").astype(np.uint16)
    if len(numbers) < count:
        raise UnreadableImage(f"image file is truncated ({count - len(numbers)} values are missing)")
    values = numbers.reshape(shape)
    return Deep(values, _believed(float(maxval) if maxval < 65535 else None, values), float(maxval))


def _grey_16(image: ImageFile, file: BinaryIO) -> Deep:
    values = np.asarray(image).astype(np.uint16, copy=False)
    declared = _believed(_declared(image, file), values)
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        values = np.uint16(declared or 65535) - values
    return Deep(values, declared, 65535.0)


def _colour_16(image: ImageFile, raw: str, file: BinaryIO) -> Deep:
    """Pillow reads one byte of every value; so the image is read twice, for the high and for the low ones."""
    base, order = raw.split(";")
    if base not in ("RGB", "RGBA", "RGBX") or order not in _LOW_BYTES:
        raise UnreadableImage(f"16-bit pixels of a kind that is not supported ({raw}); save it with 8 bits")
    page, has_alpha = image.tell(), image.mode == "RGBA"
    high = np.asarray(image)
    values, alpha = high[..., :3].astype(np.uint16), high[..., 3].copy() if has_alpha else None
    del high  # no more than two of these arrays are there at a time
    values <<= 8
    file.seek(0)
    with Image.open(file, formats=[str(image.format)]) as again:
        again.seek(page)
        _set_raw_mode(again, f"{base};{_LOW_BYTES[order]}")
        values |= np.asarray(again)[..., :3]
    declared = _believed(_declared(image, file), values)
    return Deep(values, declared, 65535.0, alpha)


def _believed(declared: float | None, values: Values) -> float | None:
    """What the file says, unless it holds more: then its few bits lie at the upper end, or it is wrong."""
    return declared if declared is not None and values.max(initial=0) <= declared else None


def _raw_mode(image: ImageFile) -> str | None:
    """How the bytes of the file lie; before the image is loaded."""
    if not image.tile:
        return None
    arguments = image.tile[0][3]
    raw = arguments if isinstance(arguments, str) else arguments[0] if arguments else None
    return raw if isinstance(raw, str) else None


def _set_raw_mode(image: ImageFile, raw: str) -> None:
    tiles = []
    for codec, extents, offset, arguments in image.tile:
        changed = (raw, *arguments[1:]) if isinstance(arguments, tuple) else raw
        tiles.append(type(image.tile[0])(codec, extents, offset, changed))
    image.tile = tiles


def _declared(image: Image.Image, file: BinaryIO) -> float | None:
    """The largest value by what the file says, if that is less than 16 bits."""
    if image.format == "TIFF":
        tags = getattr(image, "tag_v2", {})
        bits, largest = tags.get(_BITS_PER_SAMPLE, (16,)), tags.get(_MAX_SAMPLE)
        stated = [2 ** max(bits) - 1]
        if largest is not None:
            stated.append(max(largest) if isinstance(largest, tuple) else largest)
        return float(min(stated)) if 255 < min(stated) < 65535 else None
    if image.format == "PNG":
        bits = _significant_bits(file)
        return float(2**bits - 1) if bits and bits < 16 else None
    return None


def _significant_bits(file: BinaryIO) -> int | None:
    """The largest number in a PNG's sBIT chunk, which stands before the pixels."""
    file.seek(8)
    while len(header := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        if kind == b"sBIT":
            return max(file.read(length), default=None)
        if kind in (b"IDAT", b"IEND"):
            return None
        file.seek(length + 4, 1)
    return None


def parse_range(text: str) -> Levels | None:
    """``LO:HI`` as on the command line, or None for ``file``, what the format says; raises UsageError."""
    if text == "file":
        return None
    low, colon, high = text.partition(":")
    try:
        levels = Levels(float(low), float(high))
    except ValueError:
        levels = Levels(0.0, 0.0)
    if not colon or not np.isfinite([levels.low, levels.high]).all() or levels.low >= levels.high:
        raise UsageError(f"--range takes LO:HI, two numbers with LO below HI, or 'file', not {text!r}")
    return levels


def decide(images: Iterable[Span], *, by_file: bool) -> Levels | None:
    """The range for all images, from the normals that have more than 8 bits; None where there are none.

    What the files declare is taken where they all do, else what nearly all pixels use, and a margin.

    Args:
        images: those normals.
        by_file: take what the format says, and nothing else.

    Raises:
        UsageError: ``by_file``, and the format says nothing.
    """
    declared: list[float | None] = []
    lows: list[float] = []
    highs: list[float] = []
    for image in images:
        if by_file and image.container is None:
            raise UsageError("--range file: signed pixels, 32-bit ones and floats have no range of their own")
        declared.append(image.declared or (image.container if by_file else None))
        lows.append(image.used.low)
        highs.append(image.used.high)
    if not lows:
        return None
    if None not in declared:
        return Levels(0.0, max(value for value in declared if value is not None))
    low, high = float(np.quantile(lows, 0.01)), float(np.quantile(highs, 0.99))
    margin = MARGIN * (high - low) or 1.0
    return Levels(low - margin, high + margin)
