"""Image files byte by byte, of kinds that Pillow does not write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]

DEFLATE = 8
_KINDS = {"u": 1, "i": 2, "f": 3}


def packed(values: Values, bits: int) -> bytes:
    """Rows of whole numbers of so many bits, one behind the other, each row from a byte on."""
    shifts = np.arange(bits - 1, -1, -1)
    rows = (values.reshape(len(values), -1)[..., None] >> shifts & 1).astype(np.uint8)
    return np.packbits(rows.reshape(len(values), -1), axis=1).tobytes()


def tiff(
    path: Path,
    values: Values,
    *,
    bits: int | None = None,
    order: str = "<",
    photometric: int = 1,
    compression: int = 1,
    extra: int | None = None,
    tags: Mapping[int, int] | None = None,
) -> Path:
    """A TIFF of one strip, (H, W) or (H, W, C), by the type of its values.

    Args:
        path: the file.
        values: the pixels.
        bits: of a sample, packed; by default those of the type.
        order: ``<`` or ``>``.
        photometric: 0 where white is zero, 1, or 2 for RGB.
        compression: 1 for none, or ``DEFLATE``.
        extra: what the fourth of the samples is: 0 nothing, 1 premultiplied alpha, 2 alpha.
        tags: further ones, whole numbers.
    """
    height, width = values.shape[:2]
    samples = values.shape[2] if values.ndim == 3 else 1
    own = values.dtype.itemsize * 8
    data = packed(values, bits) if bits else values.astype(values.dtype.newbyteorder(order)).tobytes()
    data = zlib.compress(data) if compression == DEFLATE else data
    entries: dict[int, tuple[int, list[int]]] = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [bits or own] * samples),
        259: (3, [compression]),
        262: (3, [photometric]),
        273: (4, [8]),
        277: (3, [samples]),
        278: (4, [height]),
        279: (4, [len(data)]),
        339: (3, [_KINDS[values.dtype.kind]] * samples),
        **{tag: (4, [value]) for tag, value in (tags or {}).items()},
    }
    if extra is not None:
        entries[338] = (3, [extra])
    data += bytes(len(data) % 2)
    directory, further = b"", b""
    after = 8 + len(data) + 2 + 12 * len(entries) + 4
    for tag, (kind, numbers) in sorted(entries.items()):
        value = struct.pack(f"{order}{len(numbers)}{'HI'[kind == 4]}", *numbers)
        if len(value) > 4:
            further, value = further + value, struct.pack(f"{order}I", after + len(further))
        directory += struct.pack(f"{order}HHI", tag, kind, len(numbers)) + value.ljust(4, b"\0")
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8 + len(data))
    path.write_bytes(head + data + struct.pack(f"{order}H", len(entries)) + directory + bytes(4) + further)
    return path


def png(path: Path, values: Values, *chunks: tuple[bytes, bytes]) -> Path:
    """A PNG of 16 bits, (H, W) or (H, W, C) with C from 2 to 4, and further chunks before the pixels."""
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[values.shape[2] if values.ndim == 3 else 1]
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in values), 1)
    written = b"\x89PNG\r\n\x1a\n"
    for name, content in ((b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")):
        written += struct.pack(">I", len(content)) + name + content
        written += struct.pack(">I", zlib.crc32(name + content))
    path.write_bytes(written)
    return path


def pnm(path: Path, values: Values, maxval: int, *, plain: bool = False) -> Path:
    """A PGM, (H, W), or PPM, (H, W, 3); the numbers are text if it is ``plain``."""
    kind = (2 if values.ndim == 2 else 3) if plain else (5 if values.ndim == 2 else 6)
    head = f"P{kind}\n# a comment\n{values.shape[1]} {values.shape[0]}\n{maxval}\n".encode()
    binary = values.astype(">u2" if maxval > 255 else "u1").tobytes()
    path.write_bytes(head + (" ".join(map(str, values.ravel())).encode() if plain else binary))
    return path
