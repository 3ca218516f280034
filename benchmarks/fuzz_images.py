"""Score mutated image files by the real command line and count what goes wrong: nothing should.

    python benchmarks/fuzz_images.py --files 20000 --model MODEL --work /tmp/fuzz

Every file starts as one of ``ENCODINGS``, small images in every mode and depth that Pillow writes, and is
changed by one or two of ``MUTATIONS``. Files are scored in batches, each by ``anomscan score`` in a process
of its own; a batch fails where the process crashes, hangs, takes more than ``MEMORY`` bytes, loses a row,
prints anything that is not ours, or ends with another exit code than 0 or 3. A failed batch is scored again
file by file, and what fails alone is kept in WORK/failed. State is in WORK/state.json: run again, it goes on.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, features

MEMORY, SECONDS = 1_500_000_000, 10.0
"""Peak of a process, and how long one file may take, beside the start of the program."""
START = 30.0
SIDE = 48


def picture(mode: str) -> Image.Image:
    """A noisy gradient."""
    y, x = np.mgrid[:SIDE, :SIDE]
    noise = np.random.default_rng(0).integers(0, 60, (SIDE, SIDE, 4))
    pixels = np.stack([2 * x, 2 * y, x + y, 255 - x], axis=2) + noise
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8), "RGBA")
    if mode == "I;16":
        return Image.fromarray((pixels[..., 0] * 200).clip(0, 65535).astype(np.uint16))
    if mode in ("I", "F"):
        return image.convert("L").convert(mode)
    if mode == "P":
        return image.convert("RGB").quantize(32)
    return image.convert("RGB").convert(mode) if mode not in ("RGBA", "LA") else image.convert(mode)


def saved(mode: str, form: str, **options: object) -> bytes:
    """What Pillow writes."""
    buffer = io.BytesIO()
    picture(mode).save(buffer, form, **options)
    return buffer.getvalue()


def several(form: str, mode: str = "L", **options: object) -> bytes:
    """A file with three pages or frames."""
    return saved(
        mode, form, save_all=True, append_images=[picture(mode).rotate(a) for a in (90, 180)], **options
    )


def png_16(colour: int, channels: int) -> bytes:
    """A PNG of 16 bits, which Pillow writes in grey only."""
    import zlib

    values = np.random.default_rng(0).integers(0, 65535, (SIDE, SIDE * channels)).astype(">u2")
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 16, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in values))),
        (b"IEND", b""),
    ]
    chunks = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def exif() -> Image.Exif:
    """An orientation, and a text."""
    made = Image.Exif()
    made[0x0112], made[0x010E] = 6, "x" * 50
    return made


ENCODINGS: dict[str, Callable[[], bytes]] = {
    "png-1": lambda: saved("1", "PNG"),
    "png-8": lambda: saved("L", "PNG"),
    "png-16": lambda: saved("I;16", "PNG"),
    "png-rgb": lambda: saved("RGB", "PNG"),
    "png-rgb16": lambda: png_16(2, 3),
    "png-rgba16": lambda: png_16(6, 4),
    "png-la16": lambda: png_16(4, 2),
    "png-palette": lambda: saved("P", "PNG", transparency=3),
    "png-rgba": lambda: saved("RGBA", "PNG"),
    "png-la": lambda: saved("LA", "PNG"),
    "png-exif": lambda: saved("RGB", "PNG", exif=exif()),
    "png-animated": lambda: several("PNG", "RGB"),
    "jpeg": lambda: saved("RGB", "JPEG"),
    "jpeg-progressive": lambda: saved("RGB", "JPEG", progressive=True),
    "jpeg-cmyk": lambda: saved("CMYK", "JPEG"),
    "jpeg-grey": lambda: saved("L", "JPEG"),
    "jpeg-exif": lambda: saved("RGB", "JPEG", exif=exif()),
    "jpeg-restart": lambda: saved("RGB", "JPEG", restart_marker_blocks=2),
    "mpo": lambda: several("MPO", "RGB"),
    "tiff-raw": lambda: saved("RGB", "TIFF"),
    "tiff-lzw": lambda: saved("RGB", "TIFF", compression="tiff_lzw"),
    "tiff-deflate": lambda: saved("RGBA", "TIFF", compression="tiff_adobe_deflate"),
    "tiff-packbits": lambda: saved("L", "TIFF", compression="packbits"),
    "tiff-jpeg": lambda: saved("RGB", "TIFF", compression="jpeg"),
    "tiff-fax": lambda: saved("1", "TIFF", compression="group4"),
    "tiff-16": lambda: saved("I;16", "TIFF"),
    "tiff-16-lzw": lambda: saved("I;16", "TIFF", compression="tiff_lzw"),
    "tiff-32f": lambda: saved("F", "TIFF"),
    "tiff-32": lambda: saved("I", "TIFF"),
    "tiff-cmyk": lambda: saved("CMYK", "TIFF", compression="tiff_lzw"),
    "tiff-palette": lambda: saved("P", "TIFF"),
    "tiff-pages": lambda: several("TIFF"),
    "tiff-big": lambda: saved("RGB", "TIFF", big_tiff=True),
    "tiff-zstd": lambda: saved("RGB", "TIFF", compression="zstd"),
    "tiff-lzma": lambda: saved("RGB", "TIFF", compression="lzma"),
    "tiff-webp": lambda: saved("RGB", "TIFF", compression="webp"),
    "bmp": lambda: saved("RGB", "BMP"),
    "bmp-palette": lambda: saved("P", "BMP"),
    "bmp-1": lambda: saved("1", "BMP"),
    "gif": lambda: saved("P", "GIF"),
    "gif-frames": lambda: several("GIF", "P"),
    "webp": lambda: saved("RGB", "WEBP"),
    "webp-lossless": lambda: saved("RGBA", "WEBP", lossless=True),
    "webp-frames": lambda: several("WEBP", "RGB"),
    "ppm": lambda: saved("RGB", "PPM"),
    "pgm": lambda: saved("L", "PPM"),
    "pgm-16": lambda: saved("I", "PPM"),
    "pbm": lambda: saved("1", "PPM"),
    "pfm": lambda: saved("F", "PPM"),
    "ppm-plain": lambda: b"P3 8 8 255 " + b" ".join(b"%d" % (i % 256) for i in range(192)),
    "pgm-plain-16": lambda: b"P2 8 8 4095 " + b" ".join(b"%d" % (i * 60) for i in range(64)),
    "tga": lambda: saved("RGB", "TGA", compression="tga_rle"),
    "ico": lambda: saved("RGBA", "ICO"),
    "jpeg2000": lambda: saved("RGB", "JPEG2000"),
    "avif": lambda: saved("RGB", "AVIF"),
}
OPTIONAL = {"jpeg2000": "jpg_2000", "avif": "avif", "webp": "webp"}
SUFFIXES = (".png", ".jpg", ".tif", ".bmp", ".gif", ".webp", ".ppm")

Random = random.Random


def flip_bits(data: bytearray, chance: Random, _: list[bytes]) -> None:
    """Bits here and there."""
    for _bit in range(chance.choice((1, 2, 8, 64))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def set_bytes(data: bytearray, chance: Random, _: list[bytes]) -> None:
    """A few bytes in a row."""
    start = chance.randrange(len(data))
    for place in range(start, min(len(data), start + chance.choice((1, 2, 4, 16)))):
        data[place] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))


def truncate(data: bytearray, chance: Random, _: list[bytes]) -> None:
    """The end is missing."""
    del data[chance.randrange(len(data)) :]


def duplicate(data: bytearray, chance: Random, _: list[bytes]) -> None:
    """A part comes twice, or fifty times."""
    start = chance.randrange(len(data))
    data[start:start] = data[start : start + chance.randrange(1, 400)] * chance.choice((1, 1, 50))


def remove(data: bytearray, chance: Random, _: list[bytes]) -> None:
    """A part is missing."""
    start = chance.randrange(len(data))
    del data[start : start + chance.randrange(1, 200)]


def header(data: bytearray, chance: Random, _: list[bytes]) -> None:
    """A number in the first bytes becomes a large one, or another: sizes, counts, offsets."""
    width = chance.choice(("<H", ">H", "<I", ">I"))
    size = struct.calcsize(width)
    place = chance.randrange(max(1, min(len(data), 400) - size))
    most = 2 ** (8 * size) - 1
    value = chance.choice((0, 1, most, most >> 1, 30_000, 65_500, chance.randrange(most)))
    data[place : place + size] = struct.pack(width, min(value, most))


def splice(data: bytearray, chance: Random, seeds: list[bytes]) -> None:
    """The end is that of another file."""
    other = chance.choice(seeds)
    data[chance.randrange(len(data)) :] = other[chance.randrange(len(other)) :]


def zeros(data: bytearray, chance: Random, _: list[bytes]) -> None:
    """A part was never written."""
    start = chance.randrange(len(data))
    data[start : start + 300] = bytes(min(300, len(data) - start))


MUTATIONS = (flip_bits, set_bytes, truncate, duplicate, remove, header, header, header, splice, zeros)


def seeds() -> dict[str, bytes]:
    """The encodings that this Pillow writes."""
    made = {}
    for name, make in ENCODINGS.items():
        if name in OPTIONAL and not features.check(OPTIONAL[name]):
            continue
        try:
            made[name] = make()
        except (OSError, ValueError, RuntimeError) as error:  # libtiff without that compression
            print(f"not written here: {name} ({error})", file=sys.stderr)
    return made


def mutated(number: int, made: dict[str, bytes]) -> tuple[str, bytes]:
    """The name and the content of one file; they depend on nothing but the number and Pillow."""
    chance = random.Random(number)
    encoding = list(made)[number % len(made)]
    data = bytearray(made[encoding])
    for _ in range(chance.choice((1, 1, 1, 2))):
        if data:
            chance.choice(MUTATIONS)(data, chance, list(made.values()))
    return f"{number:06}-{encoding}{chance.choice(SUFFIXES)}", bytes(data)


@dataclass
class State:
    """What was done: files, rows with a score, rows with a reason; what failed, and the worst of each."""

    next: int = 0
    scored: int = 0
    unreadable: int = 0
    slowest: float = 0.0
    peak: int = 0
    failures: list[str] = field(default_factory=list)


MEASURED = (
    "import resource, subprocess, sys\n"
    "done = subprocess.run(sys.argv[2:], timeout=float(sys.argv[1]))\n"
    "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, file=sys.stderr)\n"
    "sys.exit(done.returncode if done.returncode >= 0 else 100 - done.returncode)\n"
)


def score(
    folder: Path, model: Path, files: int, further: list[str]
) -> tuple[str, list[dict[str, str]], float, int]:
    """Score a folder: what went wrong, if anything, the rows, seconds, and the peak of memory."""
    out = folder.with_suffix(".csv")
    out.unlink(missing_ok=True)
    command = [sys.executable, "-m", "anomscan", "score", folder, "--model", model, "-o", out, *further]
    limit, began = START + SECONDS * (1 + files / 20), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(limit), *map(str, command)], capture_output=True
    )
    seconds = time.monotonic() - began
    *said, last = done.stderr.decode("utf-8", "replace").splitlines() or [""]
    if not last.startswith("peak "):
        return ("hung" if "TimeoutExpired" in last else f"no peak: {last}"), [], seconds, 0
    peak = int(last.split()[1])
    if done.returncode not in (0, 3):
        return f"exit {done.returncode}: {' / '.join(said[-3:])}", [], seconds, peak
    with open(out, encoding="utf-8", errors="surrogateescape", newline="") as rows:
        found = list(csv.DictReader(rows))
    known = ("images", "files", "file", "image", "name", "names", "all", "the", "1")
    foreign = [line for line in said if line.split(" ")[0] not in known and not line.split(" ")[0].isdigit()]
    if foreign:
        return f"prints {foreign[0]!r}", found, seconds, peak
    if {os.path.basename(row["path"]) for row in found} != set(os.listdir(folder)):
        return "a row is missing", found, seconds, peak
    return ("too much memory" if peak > MEMORY else ""), found, seconds, peak


def run(model: Path, work: Path, files: int, batch: int, further: list[str]) -> State:
    """Score ``files`` mutated files, from where the last run stopped."""
    work.mkdir(parents=True, exist_ok=True)
    kept, made = work / "state.json", seeds()
    state = State(**json.loads(kept.read_text())) if kept.exists() else State()
    reasons: Counter[str] = Counter()
    while state.next < files:
        folder, numbers = work / "batch", range(state.next, min(files, state.next + batch))
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for number in numbers:
            name, data = mutated(number, made)
            (folder / name).write_bytes(data)
        wrong, rows, seconds, peak = score(folder, model, len(numbers), further)
        if wrong:
            state.failures.append(f"{numbers.start}-{numbers.stop - 1}: {wrong}")
            print(state.failures[-1], flush=True)
            state.failures += alone(folder, model, work / "failed", further)
        state.next = numbers.stop
        state.scored += sum(not row["error"] for row in rows)
        state.unreadable += sum(bool(row["error"]) for row in rows)
        state.slowest, state.peak = max(state.slowest, seconds), max(state.peak, peak)
        reasons.update(row["error"][:50] for row in rows if row["error"])
        kept.write_text(json.dumps(asdict(state), indent=1))
    for reason, count in reasons.most_common(40):
        print(f"{count:6} {reason}")
    return state


def alone(folder: Path, model: Path, failed: Path, further: list[str]) -> list[str]:
    """The files of a batch that fail without the others, which are kept."""
    found, single = [], folder.with_name("single")
    for path in sorted(folder.iterdir()):
        shutil.rmtree(single, ignore_errors=True)
        single.mkdir()
        shutil.copy(path, single)
        wrong, *_ = score(single, model, 1, further)
        if wrong:
            failed.mkdir(exist_ok=True)
            shutil.copy(path, failed)
            found.append(f"{path.name}: {wrong}")
            print(found[-1], flush=True)
    return found


def main() -> None:
    """Score, and say what failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=400)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    arguments, further = parser.parse_known_args()
    state = run(arguments.model, arguments.work, arguments.files, arguments.batch, further)
    print(json.dumps(asdict(state), indent=1))
    sys.exit(bool(state.failures))


if __name__ == "__main__":
    main()
