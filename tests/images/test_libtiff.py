from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

from anomscan.errors import UnreadableImage
from anomscan.images.libtiff import errors_are_raised
from tests.conftest import REPOSITORY, draw


def damaged(path: Path, compression: str) -> Path:
    """A TIFF in whose pixels some bytes are others."""
    draw(0).convert("1").save(path, compression=compression)
    content = bytearray(path.read_bytes())
    content[20:60] = b"\xff\x00" * 20
    path.write_bytes(content)
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="libtiff is a part of Pillow there")
@pytest.mark.parametrize("compression", ["group4", "tiff_lzw", "tiff_adobe_deflate"])
def test_what_libtiff_says_is_the_reason_and_nothing_is_printed(compression: str, tmp_path: Path) -> None:
    path = damaged(tmp_path / "a.tif", compression)
    script = (
        "import sys; from anomscan.images.libtiff import errors_are_raised; from PIL import Image\n"
        "from anomscan.errors import UnreadableImage\n"
        "try:\n"
        "    with errors_are_raised(), Image.open(sys.argv[1]) as image:\n"
        "        image.load()\n"
        "except UnreadableImage as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, path], cwd=REPOSITORY, capture_output=True, check=True
    )
    assert done.stderr == b""
    assert done.stdout.startswith(b"a damaged TIFF: ")


def test_what_another_thread_meets_is_not_this_ones(tmp_path: Path) -> None:
    path = damaged(tmp_path / "a.tif", "group4")
    draw(1).save(tmp_path / "b.tif", compression="tiff_lzw")
    seen: list[str] = []

    def read() -> None:
        try:
            with errors_are_raised(), Image.open(path) as image:
                image.load()
        except UnreadableImage as error:
            seen.append(str(error))

    with errors_are_raised(), Image.open(tmp_path / "b.tif") as image:
        other = threading.Thread(target=read)
        other.start()
        other.join()
        image.load()
    assert len(seen) == 1


def test_an_error_of_pillow_stays_what_it_is() -> None:
    with pytest.raises(OSError, match="of Pillow"), errors_are_raised():
        raise OSError("of Pillow")
