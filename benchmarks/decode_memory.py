"""Score a folder of images that want more memory than there is, and say what it took.

    python benchmarks/decode_memory.py --model MODEL --work /tmp/bombs

The files are small: palettes, 16 bits and transparency of hundreds of millions of pixels that are all alike,
JPEGs with a header and no data, TIFFs of one strip, of floats and of many pages, GIF and WebP. Each is in the
folder twice, so that two meet. Beside them are ordinary images, whose rows must be there.
"""

from __future__ import annotations

import argparse
import csv
import io
import resource
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(side: int, bits: int, colour: int, row: bytes) -> bytes:
    """A PNG whose rows are all the same."""
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(b"\0" + row) for _ in range(side)) + packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, 0))
    if colour == 3:
        head += chunk(b"PLTE", bytes(range(256)) * 3) + chunk(b"tRNS", b"\0\x80\xff")
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def jpeg_of_a_header(side: int, *, progressive: bool) -> bytes:
    """A JPEG of 16 x 16 pixels that says that it is far larger."""
    buffer = io.BytesIO()
    Image.effect_noise((16, 16), 50).convert("RGB").save(buffer, "JPEG", progressive=progressive)
    content = buffer.getvalue()
    place = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
    return content[: place + 5] + struct.pack(">HH", side, side) + content[place + 9 :]


def saved(mode: str, side: int, form: str, **options: object) -> bytes:
    """What Pillow writes of an empty image."""
    buffer = io.BytesIO()
    Image.new(mode, (side, side)).save(buffer, form, **options)
    return buffer.getvalue()


def pages(side: int, count: int) -> bytes:
    """A TIFF of many pages."""
    page = Image.new("L", (side, side))
    buffer = io.BytesIO()
    page.save(buffer, "TIFF", save_all=True, append_images=[page] * count, compression="tiff_adobe_deflate")
    return buffer.getvalue()


def bombs(side: int) -> dict[str, Callable[[], bytes]]:
    """Files by name, of ``side`` pixels a side or half of it where a pixel takes more."""
    half = side // 2
    return {
        "palette-1.png": lambda: png(side, 1, 3, bytes(-(-side // 8))),
        "palette.png": lambda: png(side, 8, 3, bytes(side)),
        "grey.png": lambda: png(side, 8, 0, bytes(side)),
        "grey-16.png": lambda: png(half, 16, 0, bytes(2 * half)),
        "rgb.png": lambda: png(half, 8, 2, bytes(3 * half)),
        "rgb-16.png": lambda: png(half, 16, 2, bytes(6 * half)),
        "rgba.png": lambda: png(half, 8, 6, b"\1\2\3\4" * half),
        "rgba-16.png": lambda: png(half, 16, 6, bytes(8 * half)),
        "header.jpg": lambda: jpeg_of_a_header(min(side, 65_000), progressive=False),
        "header-progressive.jpg": lambda: jpeg_of_a_header(min(side, 65_000), progressive=True),
        "progressive.jpg": lambda: saved("RGB", half, "JPEG", progressive=True, quality=1),
        "baseline.jpg": lambda: saved("RGB", half, "JPEG", quality=1),
        "strip.tif": lambda: saved("RGB", half, "TIFF", compression="tiff_adobe_deflate", strip_size=1 << 30),
        "floats.tif": lambda: saved("F", half, "TIFF", compression="tiff_adobe_deflate"),
        "pages.tif": lambda: pages(half, 3),
        "frames.gif": lambda: saved("P", half, "GIF"),
        "still.webp": lambda: saved("RGB", min(half, 8000), "WEBP", quality=1, method=0),
    }


def measured(folder: Path, model: Path, further: list[str]) -> tuple[int, list[dict[str, str]], str, int]:
    """Exit code, rows, standard error and the peak of memory of ``anomscan score``, in bytes."""
    out = folder.with_suffix(".csv")
    command = [sys.executable, "-m", "anomscan", "score", str(folder), "--model", str(model), "-o", str(out)]
    done = subprocess.run([*command, *further], capture_output=True, check=False)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    with open(out, newline="", encoding="utf-8") as rows:
        return done.returncode, list(csv.DictReader(rows)), done.stderr.decode("utf-8", "replace"), peak


def main() -> None:
    """Write the folder, score it, print its rows."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--side", type=int, default=22_000)
    arguments, further = parser.parse_known_args()
    folder: Path = arguments.work / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in bombs(arguments.side).items():
        if not (folder / f"1-{name}").exists():
            content = make()
            for number in (1, 2):
                (folder / f"{number}-{name}").write_bytes(content)
    for number in range(10):
        Image.effect_noise((300, 300), 20 + number).convert("RGB").save(folder / f"ordinary-{number}.png")
    began = time.monotonic()
    code, rows, said, peak = measured(folder, arguments.model, further)
    for row in rows:
        print(f"{Path(row['path']).name:28} {row['score'] or row['error']}")
    print(said.strip())
    took = time.monotonic() - began
    print(f"exit code {code}, {len(rows)} rows, {peak / 1e6:.0f} MB at most, {took:.0f} s")


if __name__ == "__main__":
    main()
