"""Files that hold less than they declare."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from anomscan.errors import UnreadableImage
from anomscan.images.declared import check_declared, check_unpacked, ends_black, raw_bytes
from anomscan.images.decode import decode
from anomscan.images.opening import open_image
from anomscan.types import FULL_16_BITS, Preprocessing, Reading
from tests.conftest import draw

READING = Reading(FULL_16_BITS, beyond_16_bits=True, constant_tail=False)
PREPROCESSING = Preprocessing(64, 64, "bicubic", (0.0,) * 3, (1.0,) * 3, READING)


def jpeg(side: int, **options: bool) -> bytes:
    buffer = io.BytesIO()
    draw(0, side=side).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def declaring(content: bytes, side: int) -> bytes:
    """A JPEG whose header says that it is larger."""
    place = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
    return content[: place + 5] + struct.pack(">HH", side, side) + content[place + 9 :]


def cut(content: bytes) -> bytes:
    """The first half of a JPEG, closed."""
    return content[: (content.find(b"\xff\xda") + len(content)) // 2] + b"\xff\xd9"


def short_png(path: Path, mode: str, rows: int) -> Path:
    """A PNG of 200 x 200 pixels whose compressed data end, properly, after so many rows."""
    image = draw(0, side=200).convert(mode)
    image.save(path)
    content = path.read_bytes()
    parts, place, data = [content[:8]], 8, b""
    while place < len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        part = content[place : place + 12 + length]
        if part[4:8] == b"IDAT":
            data += part[8:-4]
        else:
            parts.append(part)
        place += len(part)
    raw = zlib.decompress(data)
    body = b"IDAT" + zlib.compress(raw[: len(raw) // 200 * rows])
    parts.insert(-1, struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)))
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("side", [1000, 22_000])
def test_a_jpeg_with_a_huge_header_is_cut_off(tmp_path: Path, side: int, progressive: bool) -> None:
    (tmp_path / "a.jpg").write_bytes(declaring(jpeg(16, progressive=progressive), side))
    with pytest.raises(UnreadableImage, match=f"cannot hold the {side} x {side} pixels"):
        decode(str(tmp_path / "a.jpg"), PREPROCESSING)


def test_a_jpeg_that_was_cut_off_and_closed_is_no_half_grey_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(cut(jpeg(300)))
    with pytest.raises(UnreadableImage, match="cut off"):
        decode(str(tmp_path / "a.jpg"), PREPROCESSING)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
@pytest.mark.parametrize("rows", [1, 199])
def test_a_png_whose_data_end_early_is_cut_off(tmp_path: Path, mode: str, rows: int) -> None:
    with pytest.raises(UnreadableImage, match="cut off"):
        decode(str(short_png(tmp_path / "a.png", mode, rows)), PREPROCESSING)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_a_png_that_ends_black_is_an_image(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (333, 77)).save(tmp_path / "a.png")
    path = tmp_path / "a.png"
    with open(path, "rb") as file, open_image(file) as image:
        needed = raw_bytes(image)
        assert 0 < needed <= 77 * (1 + 333 * 4)
        check_declared(image, path.stat().st_size)
        image.load()
        assert ends_black(image)
        check_unpacked(file, needed)
        with pytest.raises(UnreadableImage, match="data end before its last rows"):
            check_unpacked(file, needed + 333 * 77 * 4)


def test_a_flat_jpeg_of_the_best_compression_is_an_image(tmp_path: Path) -> None:
    for options in ({}, {"progressive": True}):
        Image.new("RGB", (4000, 4000)).save(tmp_path / "a.jpg", quality=1, optimize=True, **options)
        assert decode(str(tmp_path / "a.jpg"), PREPROCESSING).remarks.flat
