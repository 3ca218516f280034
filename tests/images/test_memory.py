from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomscan.errors import UnreadableImage
from anomscan.images.memory import LIMIT, bytes_needed, check_memory, memory_limit
from anomscan.images.opening import open_image
from tests.conftest import REPOSITORY, draw
from tests.images.files import DEFLATE, png, tiff

SIDE = 2000
MEASURED = """
import sys
from anomscan.images.decode import opened
from anomscan.types import FULL_16_BITS, Reading
def memory(what):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(what)) * 1024
reading = Reading(FULL_16_BITS, beyond_16_bits=True)
with opened(sys.argv[1], (64, 64), reading, None):  # imports what it needs
    pass
before = memory("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
with opened(sys.argv[2], (64, 64), reading, None) as (image, _, _):
    image.resize((64, 64))
print(memory("VmHWM") - before)
"""


def needed(path: Path, *, kept: bool = False, later: bool = False) -> int:
    with open(path, "rb") as file, open_image(file) as image:
        whole = image.size
        image.draft(None, (128, 128))
        return bytes_needed(image, whole, path.stat().st_size, kept=kept, later=later)


def made(kind: str, path: Path, side: int) -> Path:
    """A file of one kind."""
    deep = np.random.default_rng(0).integers(0, 4000, (side, side, 3), np.uint16)
    if kind == "16-bit colour":
        return png(path, deep)
    if kind == "16-bit grey":
        return png(path, deep[..., 0])
    if kind == "floats":
        return tiff(path, deep[..., 0].astype(np.float32), compression=DEFLATE)
    mode, form = kind.split(" ")
    options = {"progressive": True} if form == "JPEG" else {"transparency": 1} if mode == "P" else {}
    draw(0).convert(mode).resize((side, side)).save(path, form, **options)
    return path


KINDS = [
    "L PNG",
    "RGB PNG",
    "P PNG",
    "RGBA PNG",
    "16-bit colour",
    "16-bit grey",
    "floats",
    "RGB WEBP",
    "RGB JPEG",
]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="there is no peak of memory to read")
@pytest.mark.parametrize("kind", KINDS)
def test_no_image_takes_more_than_was_said(kind: str, tmp_path: Path) -> None:
    small, large = made(kind, tmp_path / "small", 64), made(kind, tmp_path / "large", SIDE)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, small, large], cwd=REPOSITORY, capture_output=True, check=True
    )
    took, said = int(done.stdout), needed(large)
    assert took < said + 6_000_000, (took / SIDE**2, said / SIDE**2)
    assert said < 2 * took + 6_000_000


def test_too_much_is_refused_with_what_would_allow_it(tmp_path: Path) -> None:
    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    with open(tmp_path / "a.png", "rb") as file, open_image(file) as image:
        check_memory(image, LIMIT, 1)
        with pytest.raises(
            UnreadableImage, match=r"take 1\.2 GB of memory, over the limit of 1\.0 GB; "
        ) as said:
            check_memory(image, 1_200_000_001, 500_000_000)
        assert str(said.value).endswith("--max-pixels 600000001 allows it")
        check_memory(image, 1_200_000_001, 600_000_001)
    assert memory_limit(10) == 1_000_000_000


def test_a_later_frame_takes_those_before_it_too(tmp_path: Path) -> None:
    frames = [Image.new("L", (50, 50), value) for value in (1, 2)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    assert needed(tmp_path / "a.gif", later=True) > needed(tmp_path / "a.gif")
    assert needed(tmp_path / "a.tif", later=True) == needed(tmp_path / "a.tif")


def test_a_large_palette_is_reduced_on_its_way_unless_all_is_kept(tmp_path: Path) -> None:
    Image.new("P", (5000, 4000)).save(tmp_path / "a.png")
    assert needed(tmp_path / "a.png") < 3 * 5000 * 4000 < needed(tmp_path / "a.png", kept=True)
