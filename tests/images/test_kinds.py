"""What each kind of file becomes: the first table of ``docs/images.md``, row by row."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from anomscan.errors import UnreadableImage
from anomscan.images.decode import decode
from anomscan.types import Levels, Preprocessing, Reading
from tests.conftest import REPOSITORY
from tests.images.files import DEFLATE, Values, png, pnm, tiff

SIZE = (24, 32)
"""Rows and columns of the images here, which are read as they are."""
PREPROCESSING = Preprocessing(*SIZE, "nearest", (0.0,) * 3, (1.0,) * 3)
GREY: NDArray[np.uint8] = np.arange(24 * 32, dtype=np.uint16).reshape(SIZE).astype(np.uint8)
BLACK_OR_WHITE = GREY % 3 > 0
COLOUR = np.stack([GREY, 255 - GREY, GREY // 2], axis=2)
DEEP = np.linspace(20_000, 24_080, GREY.size).reshape(SIZE).astype(np.uint16)
DEEP_COLOUR = np.stack([DEEP, 44_080 - DEEP, DEEP // 2 + 11_000], axis=2)
TWELVE = np.linspace(0, 4095, GREY.size).reshape(SIZE).astype(np.uint16)

NO_RANGE = Reading(None, beyond_16_bits=True, constant_tail=False)
"""What normals of 8 bits make of it, whose ends are not constant."""

Maker = Callable[[Path], object]


@dataclass(frozen=True)
class Kind:
    """A file, how it is read, and the pixels that it becomes, or why it becomes none."""

    row: str
    suffix: str
    make: Maker
    becomes: Values | str
    reading: Reading = NO_RANGE


def by_range(values: Values, low: float, high: float) -> Values:
    """8 bits of values of more, by hand."""
    return np.floor((values.astype(np.float64) - low) * 255 / (high - low)).clip(0, 255)


def saved(image: Values | Image.Image, **options: Any) -> Maker:
    """What Pillow writes, by the suffix."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return lambda path: picture.save(path, **options)


def ranged(row: str, suffix: str, make: Maker, values: Values, low: float, high: float) -> Kind:
    """A file of more than 8 bits, read by a range."""
    reading = Reading(Levels(low, high), beyond_16_bits=True, constant_tail=False)
    return Kind(row, suffix, make, by_range(values, low, high), reading)


def with_alpha(alpha: int) -> Values:
    return np.dstack([COLOUR, np.full(SIZE, alpha, np.uint8)])


def over_white(alpha: int) -> Values:
    return np.asarray(
        Image.alpha_composite(Image.new("RGBA", SIZE[::-1], "white"), Image.fromarray(with_alpha(alpha)))
    )[..., :3]


def bmp_32(path: Path) -> None:
    """What a frame grabber writes: BGRX, where X is zero, in a header that calls it alpha."""
    data = np.dstack([COLOUR[::-1, :, ::-1], np.zeros(SIZE, np.uint8)]).tobytes()
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, *SIZE[::-1], 1, 32, 3, len(data), 0, 0, 0, 0)
    header += masks + b"BGRs" + bytes(48)
    path.write_bytes(b"BM" + struct.pack("<IHHI", 14 + 108 + len(data), 0, 0, 14 + 108) + header + data)


def bmp_16(path: Path) -> None:
    """Five bits a colour."""
    five = COLOUR[::-1].astype(np.uint16) >> 3
    data = (five[..., 0] << 10 | five[..., 1] << 5 | five[..., 2]).astype("<u2").tobytes()
    header = struct.pack("<IiiHHIIiiII", 40, *SIZE[::-1], 1, 16, 0, len(data), 0, 0, 0, 0)
    path.write_bytes(b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, 54) + header + data)


def transparent_colour(path: Path) -> None:
    image = Image.fromarray(GREY)
    image.save(path, transparency=7)


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    options = {"lossless": True} if path.suffix == ".webp" else {}
    Image.fromarray(np.rot90(COLOUR, 2)).save(path, exif=exif, **options)


def turned_deep(path: Path) -> None:
    tiff(path, np.ascontiguousarray(np.rot90(DEEP, 2)), tags={274: 3})


def broken_exif(block: bytes) -> Maker:
    def make(path: Path) -> None:
        options = {"lossless": True} if path.suffix == ".webp" else {}
        Image.fromarray(COLOUR).save(path, exif=b"Exif\0\0" + block, **options)

    return make


def pages(path: Path) -> None:
    first, *more = (Image.fromarray(np.roll(GREY, i)) for i in range(3))
    first.save(path, save_all=True, append_images=more)


def reduced_first(path: Path) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1
    Image.fromarray(GREY).save(path, tiffinfo=tags)


def half_written(share: float = 0.5, form: str | None = None, **options: Any) -> Maker:
    """A real file, cut, and filled with zeros to its length: its blocks on the disk were reserved."""

    def make(path: Path) -> None:
        picture = Image.fromarray(np.random.default_rng(0).integers(1, 255, (*SIZE, 3), np.uint8))
        picture.save(path, form, **options)
        whole = path.read_bytes()
        cut = int(len(whole) * share)
        path.write_bytes(whole[:cut] + bytes(len(whole) - cut))

    return make


def cut(path: Path) -> None:
    Image.fromarray(COLOUR).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def short_pgm(path: Path) -> None:
    pnm(path, DEEP, 65535).write_bytes(path.read_bytes()[:-201])


OTHER_MODES = "greyscale, black and white, palette, CMYK"
OTHER_16_BITS = "of 16 bits, of another kind"
CMYK = Image.fromarray(COLOUR).convert("CMYK")
PALETTE = Image.fromarray(COLOUR).convert("P", palette=Image.Palette.ADAPTIVE)
SIGNED = np.linspace(-900, 900, GREY.size).reshape(SIZE)
UNKNOWN = "its range is unknown"
CUT = "(?i)truncated|end of|cannot load|cut off|unrecognized|not an image"
UNFINISHED = "cut off, or still being written"

KINDS = [
    Kind("of 8 bits", "png", saved(COLOUR), COLOUR),
    Kind("of 8 bits", "tif", saved(COLOUR, compression="tiff_lzw"), COLOUR),
    Kind("of 8 bits", "bmp", saved(COLOUR), COLOUR),
    Kind("of 8 bits", "webp", saved(COLOUR, lossless=True), COLOUR),
    Kind("of 8 bits", "ppm", saved(COLOUR), COLOUR),
    Kind("of 8 bits", "ppm", lambda path: pnm(path, COLOUR, 255, plain=True), COLOUR),
    Kind("of 8 bits", "pgm", lambda path: pnm(path, GREY // 4, 63), np.rint(GREY // 4 * (255 / 63))),
    Kind(OTHER_MODES, "png", saved(GREY), GREY),
    Kind(OTHER_MODES, "bmp", saved(GREY), GREY),
    Kind(OTHER_MODES, "gif", saved(GREY), GREY),
    Kind(OTHER_MODES, "pgm", saved(GREY), GREY),
    Kind(OTHER_MODES, "bmp", saved(BLACK_OR_WHITE), 255 * BLACK_OR_WHITE),
    Kind(OTHER_MODES, "tif", saved(BLACK_OR_WHITE), 255 * BLACK_OR_WHITE),
    Kind(OTHER_MODES, "png", saved(PALETTE), np.asarray(PALETTE.convert("RGB"))),
    Kind(OTHER_MODES, "tif", saved(CMYK), np.asarray(CMYK.convert("RGB"))),
    Kind(OTHER_MODES, "bmp", bmp_16, np.floor((COLOUR >> 3) * (255 / 31))),
    Kind("with an alpha channel or a transparent colour", "png", saved(with_alpha(60)), over_white(60)),
    Kind("with an alpha channel or a transparent colour", "tif", saved(with_alpha(200)), over_white(200)),
    Kind(
        "with an alpha channel or a transparent colour",
        "webp",
        saved(with_alpha(200), lossless=True, exact=True),
        over_white(200),
    ),
    Kind(
        "with an alpha channel or a transparent colour",
        "png",
        transparent_colour,
        np.where(GREY == 7, 255, GREY),
    ),
    Kind("with an alpha channel that is zero everywhere", "png", saved(with_alpha(0)), COLOUR),
    Kind("with an alpha channel that is zero everywhere", "tif", saved(with_alpha(0)), COLOUR),
    Kind("with an alpha channel that is zero everywhere", "bmp", bmp_32, COLOUR),
    *(Kind("with an EXIF orientation", suffix, turned, COLOUR) for suffix in ("png", "webp", "tif")),
    ranged("with an EXIF orientation", "tif", turned_deep, DEEP, 19_000, 25_000),
    *(
        Kind("with an EXIF block that is broken", suffix, broken_exif(block), COLOUR)
        for suffix in ("png", "webp")
        for block in (b"", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x09\x01\x12", bytes(range(200)))
        if suffix == "png" or block
    ),
    *(
        ranged("of more than 8 bits, greyscale", suffix, make, DEEP, 19_000, 25_000)
        for suffix, make in (
            ("png", saved(DEEP)),
            ("tif", saved(DEEP)),
            ("tif", lambda path: tiff(path, DEEP, order=">", compression=DEFLATE)),
            ("pgm", lambda path: pnm(path, DEEP, 65535)),
            ("pgm", lambda path: pnm(path, DEEP, 65535, plain=True)),
        )
    ),
    Kind("of more than 8 bits, greyscale", "png", saved(DEEP), UNKNOWN),
    *(
        Kind("that says how many of its bits count", suffix, make, by_range(TWELVE, 0, 4095))
        for suffix, make in (
            ("tif", lambda path: tiff(path, TWELVE, bits=12)),
            ("tif", lambda path: tiff(path, TWELVE, bits=12, order=">", compression=DEFLATE)),
            ("tif", lambda path: tiff(path, TWELVE, tags={281: 4095})),
            ("png", lambda path: png(path, TWELVE, (b"sBIT", bytes([12])))),
            ("pgm", lambda path: pnm(path, TWELVE, 4095)),
        )
    ),
    Kind(
        "that says how many of its bits count",
        "pgm",
        lambda path: pnm(path, TWELVE // 4, 1023),
        by_range(TWELVE // 4, 0, 1023),
    ),
    Kind(
        "that says how many of its bits count",
        "ppm",
        lambda path: pnm(path, np.stack([TWELVE, 4095 - TWELVE, TWELVE // 2], 2), 4095),
        by_range(np.stack([TWELVE, 4095 - TWELVE, TWELVE // 2], 2), 0, 4095),
    ),
    Kind("TIFF in which zero is white", "tif", lambda path: tiff(path, GREY, photometric=0), 255 - GREY),
    *(
        Kind("TIFF in which zero is white", "tif", make, by_range(4095 - TWELVE, 0, 4095))
        for make in (
            lambda path: tiff(path, TWELVE, bits=12, photometric=0),
            lambda path: tiff(path, TWELVE, tags={281: 4095}, photometric=0),
        )
    ),
    *(
        ranged("TIFF in which zero is white", "tif", make, 65_535 - DEEP, 40_000, 46_000)
        for make in (
            lambda path: tiff(path, DEEP, photometric=0),
            lambda path: tiff(path, DEEP, photometric=0, order=">"),
        )
    ),
    *(
        ranged("of 16 bits a colour", suffix, make, DEEP_COLOUR, 19_000, 25_000)
        for suffix, make in (
            ("png", lambda path: png(path, DEEP_COLOUR)),
            ("tif", lambda path: tiff(path, DEEP_COLOUR, photometric=2)),
            ("tif", lambda path: tiff(path, DEEP_COLOUR, photometric=2, order=">", compression=DEFLATE)),
            ("ppm", lambda path: pnm(path, DEEP_COLOUR, 65535)),
            ("png", lambda path: png(path, np.dstack([DEEP_COLOUR, np.full(SIZE, 65535, np.uint16)]))),
            ("png", lambda path: png(path, np.dstack([DEEP_COLOUR, np.zeros(SIZE, np.uint16)]))),
            (
                "tif",
                lambda path: tiff(
                    path, np.dstack([DEEP_COLOUR, np.zeros(SIZE, np.uint16)]), photometric=2, extra=0
                ),
            ),
        )
    ),
    *(
        ranged("with signed pixels, of 32 bits, or floats", "tif", make, SIGNED.astype(kind), -1000.5, 1000)
        for kind in (np.int16, np.int32, np.float32)
        for make in (
            lambda path, kind=kind: tiff(path, SIGNED.astype(kind)),
            lambda path, kind=kind: tiff(path, SIGNED.astype(kind), order=">"),
            lambda path, kind=kind: tiff(path, SIGNED.astype(kind), order=">", compression=DEFLATE),
        )
    ),
    ranged(
        "with signed pixels, of 32 bits, or floats",
        "tif",
        lambda path: tiff(path, (SIGNED / 10).astype(np.int8)),
        (SIGNED / 10).astype(np.int8),
        -100,
        100,
    ),
    ranged(
        "with signed pixels, of 32 bits, or floats",
        "tif",
        lambda path: tiff(path, DEEP.astype(np.uint32) << 16),
        DEEP.astype(np.uint32) << 16,
        0,
        2**32 - 1,
    ),
    ranged(
        "with signed pixels, of 32 bits, or floats",
        "pfm",
        lambda path: Image.fromarray(SIGNED.astype(np.float32)).save(path, "PPM"),
        SIGNED.astype(np.float32),
        -1000,
        1000,
    ),
    *(
        Kind(
            "with signed pixels, of 32 bits, or floats",
            "tif",
            lambda path, kind=kind: tiff(path, SIGNED.astype(kind)),
            UNKNOWN,
            reading,
        )
        for kind in (np.int16, np.int32, np.float32)
        for reading in (Reading(None, beyond_16_bits=True), Reading())
    ),
    Kind(OTHER_16_BITS, "png", lambda path: png(path, np.dstack([DEEP, DEEP])), "not supported"),
    Kind(
        OTHER_16_BITS,
        "tif",
        lambda path: tiff(path, np.dstack([DEEP_COLOUR, DEEP]), photometric=5),
        "not supported",
    ),
    Kind(
        OTHER_16_BITS,
        "tif",
        lambda path: tiff(path, np.dstack([DEEP_COLOUR, DEEP]), photometric=2, extra=1),
        "not supported",
    ),
    *(
        Kind("TIFF of another kind", "tif", make, "a TIFF of a kind that cannot be read")
        for make in (
            lambda path: tiff(path, TWELVE // 4, bits=10),
            lambda path: tiff(path, TWELVE * 2, bits=14),
            lambda path: tiff(path, SIGNED),
        )
    ),
    Kind(
        "TIFF of another kind",
        "tif",
        lambda path: tiff(path, SIGNED.astype(np.float32), photometric=0),
        "its zero is white",
    ),
    Kind("of several pages or frames", "tif", pages, GREY),
    Kind("of several pages or frames", "gif", pages, GREY),
    Kind("TIFF with a thumbnail as its first page", "tif", reduced_first, GREY),
    Kind(
        "of more pixels than `--max-pixels`",
        "png",
        saved(GREY),
        "32 x 24 pixels are over the limit; see --max-pixels",
        Reading(max_pixels=767),
    ),
    Kind("of more pixels than `--max-pixels`", "png", saved(GREY), GREY, Reading(max_pixels=768)),
    *(
        Kind("BMP, TIFF, PGM, PPM of which the end is not written", suffix, half_written(share), UNFINISHED)
        for suffix in ("bmp", "tif", "ppm")
        for share in (0.3, 0.88)
    ),
    *(
        Kind("PNG, WebP that end in zeros", "png", half_written(share), UNFINISHED)
        for share in (0.3, 0.6, 0.9)
    ),
    *(
        Kind("PNG, WebP that end in zeros", "webp", half_written(share, lossless=lossless), UNFINISHED)
        for share in (0.3, 0.6, 0.9)
        for lossless in (True, False)
    ),
    *(
        Kind(
            "broken, cut off, or no image",
            suffix,
            cut,
            CUT,
        )
        for suffix in ("png", "jpg", "bmp", "tif", "ppm", "gif")
    ),
    Kind("broken, cut off, or no image", "jpg", half_written(0.5), "(?i)truncated|cannot load|cut off"),
    Kind("broken, cut off, or no image", "png", lambda path: path.write_text("hello"), "not an image"),
    Kind("broken, cut off, or no image", "png", lambda path: path.touch(), "not an image"),
    Kind("broken, cut off, or no image", "pgm", short_pgm, "truncated"),
]


def test_a_reduced_version_and_further_pages_are_remarked(tmp_path: Path) -> None:
    preprocessing = replace(PREPROCESSING, reading=NO_RANGE)
    for make, thumbnail, further in ((reduced_first, True, 0), (pages, False, 2)):
        make(tmp_path / "a.tif")
        remarks = decode(str(tmp_path / "a.tif"), preprocessing).remarks
        assert (remarks.thumbnail, remarks.pages) == (thumbnail, further)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # ``__main__`` does so
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.row}, {kind.suffix}")
def test_what_a_file_becomes(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / f"file.{kind.suffix}"
    kind.make(path)
    preprocessing = replace(PREPROCESSING, reading=kind.reading)
    if isinstance(kind.becomes, str):
        with pytest.raises(UnreadableImage, match=kind.becomes):
            decode(str(path), preprocessing)
        return
    wanted = kind.becomes if kind.becomes.ndim == 3 else np.stack([kind.becomes] * 3, axis=2)
    pixels = decode(str(path), preprocessing).pixels
    np.testing.assert_array_equal(pixels, wanted)


ELSEWHERE = {
    "that would take more than 1 GB of memory to decode": "test_memory.py",
    "whose data are too few for the pixels that it declares": "test_declared.py",
    "PNG whose compressed data end before its last rows": "test_declared.py",
    "JPEG of which the end is missing, though it is closed": "test_declared.py",
    "TIFF in which libtiff finds an error": "test_libtiff.py",
    "JPEG much larger than the input": "test_decode.py",
}
"""Rows that are tested beside this file."""


def test_the_table_of_the_docs_has_these_rows() -> None:
    text = (REPOSITORY / "docs" / "images.md").read_text(encoding="utf-8")
    table = text[text.index("| a file |") :].split("\n\n")[0]
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", table, re.MULTILINE)[1:]
    tested = list(dict.fromkeys(kind.row for kind in KINDS))
    assert [row for row in rows if row not in ELSEWHERE] == tested
    assert set(rows) > ELSEWHERE.keys()
    assert all((Path(__file__).parent / name).exists() for name in ELSEWHERE.values())
