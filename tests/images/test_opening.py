from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from anomscan.errors import UnreadableImage
from anomscan.images.opening import (
    count_pages,
    is_thumbnail,
    lies_on_its_side,
    open_image,
    turn_of,
    upright_size,
)

SIDE = (60, 40)


def turned(path: Path, orientation: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", SIDE, "red").save(path, exif=exif)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_upright_size_is_known_before_it_is_decoded(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    with open(turned(tmp_path / f"a.{suffix}", orientation), "rb") as file, open_image(file) as image:
        size = upright_size(image)
        assert lies_on_its_side(image) == (orientation > 4)
        if suffix != "tif":
            assert (turn_of(image) is None) == (orientation == 1)
        image.load()
        turn = turn_of(image)
        assert (image if turn is None else image.transpose(turn)).size == size
    assert size == (SIDE if orientation < 5 else SIDE[::-1])


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_is_none_turns_nothing(tmp_path: Path, orientation: int) -> None:
    with open(turned(tmp_path / "a.jpg", orientation), "rb") as file, open_image(file) as image:
        assert (turn_of(image), upright_size(image)) == (None, SIDE)


def test_a_broken_exif_block_turns_nothing(tmp_path: Path) -> None:
    Image.new("RGB", SIDE, "red").save(tmp_path / "a.jpg", exif=b"Exif\0\0broken")
    with open(tmp_path / "a.jpg", "rb") as file, open_image(file) as image:
        assert (turn_of(image), upright_size(image)) == (None, SIDE)


def test_pages_are_counted_and_thumbnails_known(tmp_path: Path) -> None:
    image = Image.new("L", SIDE, 9)
    image.save(tmp_path / "a.tif", save_all=True, append_images=[image, image])
    image.save(tmp_path / "small.tif", tiffinfo={254: 1})
    image.save(tmp_path / "a.png")
    found = {}
    for name in ("a.tif", "small.tif", "a.png"):
        with open(tmp_path / name, "rb") as file, open_image(file) as opened:
            found[name] = (count_pages(opened), is_thumbnail(opened))
    assert found == {"a.tif": (3, False), "small.tif": (1, True), "a.png": (1, False)}


def test_a_tiff_of_an_unknown_kind_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*\0" + bytes(40))
    with open(tmp_path / "a.tif", "rb") as file, pytest.raises(UnreadableImage, match="a TIFF of a kind"):
        open_image(file)
