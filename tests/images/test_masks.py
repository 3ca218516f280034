from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import anomscan.images.masks as module
from anomscan.errors import UnreadableImage
from anomscan.images.masks import read_mask

SQUARE = np.zeros((12, 20), np.bool_)
SQUARE[2:6, 3:9] = True


def picture(mode: str) -> Image.Image:
    white = Image.fromarray((255 * SQUARE).astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray((65535 * SQUARE).astype(np.uint16))
    if mode == "F":
        return Image.fromarray((255 * SQUARE).astype(np.float32))
    if mode == "RGBA":  # painted on a transparent ground, whatever colour that has
        painted = Image.new("RGBA", white.size, (255, 255, 255, 0))
        painted.paste("white", mask=white)
        return painted
    return white.convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
def test_white_is_the_defect_in_every_mode(tmp_path: Path, mode: str) -> None:
    picture(mode).save(tmp_path / "mask.png")
    mask = read_mask(str(tmp_path / "mask.png"))
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, SQUARE)


def test_a_mask_of_floats_and_one_that_a_jpeg_has_blurred(tmp_path: Path) -> None:
    picture("F").save(tmp_path / "mask.tif")
    np.testing.assert_array_equal(read_mask(str(tmp_path / "mask.tif")), SQUARE)
    picture("L").save(tmp_path / "mask.jpg")
    assert (read_mask(str(tmp_path / "mask.jpg")) ^ SQUARE).sum() < 5


def test_a_mask_stands_upright_as_its_image_does(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture("L").save(tmp_path / "mask.png", exif=exif)
    np.testing.assert_array_equal(read_mask(str(tmp_path / "mask.png")), np.rot90(SQUARE, -1))


def test_what_is_no_mask_says_so_without_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.png").write_text("hello")
    picture("L").save(tmp_path / "mask.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "mask.png").read_bytes()[:60])
    with pytest.raises(UnreadableImage, match=r"^not an image that can be read$"):
        read_mask(str(tmp_path / "text.png"))
    with pytest.raises(UnreadableImage, match=r"^No such file or directory$"):
        read_mask(str(tmp_path / "gone.png"))
    with pytest.raises(UnreadableImage, match="not a regular file"):
        read_mask(str(tmp_path))
    with pytest.raises(UnreadableImage):
        read_mask(str(tmp_path / "cut.png"))
    monkeypatch.setattr(module, "MAX_PIXELS", 239)
    with pytest.raises(UnreadableImage, match="20 x 12 pixels are over the limit"):
        read_mask(str(tmp_path / "mask.png"))
