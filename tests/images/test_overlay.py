from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import anomscan.images.overlay as module
from anomscan.errors import OutputError, UnreadableImage
from anomscan.images.overlay import crop, is_overlay, overlay, overlay_thumbnail, source_size
from anomscan.types import Features, Part, Reading
from tests.conftest import draw

COLD = np.zeros((4, 4), np.float32)


def hot(rows: int = 4, columns: int = 4, *, row: int = 1, column: int = 2) -> Features:
    heat = np.zeros((rows, columns), np.float32)
    heat[row, column] = 1
    return heat


def pixels(file: Path | bytes) -> NDArray[np.int64]:
    return np.asarray(Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)).astype(np.int64)


def turned(path: Path, orientation: int, **options: Any) -> str:
    """40 x 20 pixels as they lie in the file, the left half white."""
    image = Image.new("RGB", (40, 20), "black")
    image.paste("white", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif, **options)
    return str(path)


def pages(path: Path) -> str:
    first, *more = (Image.new("L", (40, 20 + value), value) for value in (10, 20, 30))
    first.save(path, save_all=True, append_images=more)
    return str(path)


def test_where_nothing_is_hot_a_picture_stays_as_it_is(tmp_path: Path) -> None:
    draw(0).save(tmp_path / "a.png")
    overlay(str(tmp_path / "a.png"), COLD, [], Reading(), tmp_path / "out.png")
    np.testing.assert_array_equal(pixels(tmp_path / "out.png"), pixels(tmp_path / "a.png"))


def test_hot_places_turn_yellow_and_can_be_seen_through(tmp_path: Path) -> None:
    ground = Image.new("RGB", (400, 400), (40, 60, 120))
    ground.paste((90, 110, 170), (240, 140, 260, 160))  # a defect in the middle of the hot cell
    ground.save(tmp_path / "a.png")
    overlay(str(tmp_path / "a.png"), hot(), [], Reading(), tmp_path / "out.png")
    out, before = pixels(tmp_path / "out.png"), pixels(tmp_path / "a.png")
    red, green, blue = out[145, 245]
    assert red > green > blue
    assert out[145, 245, 0] - out[145, 235, 0] > 15  # the defect, 50 levels brighter
    np.testing.assert_array_equal(out[:, :140], before[:, :140])
    np.testing.assert_array_equal(out[260:], before[260:])
    warmth = out[150, 150:250:10, 0]
    assert (np.diff(warmth[2:]) >= 0).all()


def test_bands_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(0, side=300).resize((300, 217)).save(tmp_path / "a.png")
    heat = np.random.default_rng(0).random((7, 9)).astype(np.float32)
    overlay(str(tmp_path / "a.png"), heat, [], Reading(), tmp_path / "whole.png")
    monkeypatch.setattr(module, "_BAND", 13)
    overlay(str(tmp_path / "a.png"), heat, [], Reading(), tmp_path / "bands.png")
    assert np.abs(pixels(tmp_path / "whole.png") - pixels(tmp_path / "bands.png")).max() <= 3


def test_heat_lies_over_what_the_model_looks_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(0, side=300).resize((300, 217)).save(tmp_path / "a.png")
    draw(0, side=300).resize((300, 217)).crop((120, 60, 260, 180)).save(tmp_path / "part.png")
    heat = np.random.default_rng(0).random((7, 9)).astype(np.float32)
    reading = Reading(part=Part((300, 217), (120, 60, 140, 120)))
    monkeypatch.setattr(module, "_BAND", 50)
    overlay(str(tmp_path / "a.png"), heat, [], reading, tmp_path / "whole.png")
    overlay(str(tmp_path / "part.png"), heat, [], Reading(), tmp_path / "alone.png")
    expected = pixels(tmp_path / "a.png")
    expected[60:180, 120:260] = pixels(tmp_path / "alone.png")
    np.testing.assert_array_equal(pixels(tmp_path / "whole.png"), expected)


def test_an_outline_lies_around_its_box_and_inside_the_picture(tmp_path: Path) -> None:
    Image.new("RGB", (100, 60), (90, 90, 90)).save(tmp_path / "a.png")
    boxes = [(20, 10, 30, 20), (0, 0, 100, 60), (90, 50, 50, 50)]
    overlay(str(tmp_path / "a.png"), COLD, boxes[:1], Reading(), tmp_path / "one.png")
    out = pixels(tmp_path / "one.png")
    assert (out[10:30, 20:50] == 90).all()
    assert (out[9, 19:51] == 255).all()
    assert (out[9:31, 50] == 255).all()
    assert (out[8, 18:52] == 0).all()
    assert (out[:7] == 90).all()
    overlay(str(tmp_path / "a.png"), COLD, boxes, Reading(), tmp_path / "all.png")
    assert pixels(tmp_path / "all.png").shape == (60, 100, 3)


def test_a_large_picture_keeps_its_resolution_and_stands_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    draw(0, side=1600).resize((1600, 800)).save(tmp_path / "large.jpg", exif=exif)
    overlay(str(tmp_path / "large.jpg"), hot(), [], Reading(), tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as out:
        assert (out.format, out.size, out.getexif().get(0x0112)) == ("JPEG", (800, 1600), None)


def test_a_page_can_be_asked_for(tmp_path: Path) -> None:
    path = pages(tmp_path / "a.tif")
    overlay(f"{path}#2", COLD, [], Reading(), tmp_path / "out.png")
    assert (pixels(tmp_path / "out.png") == 20).all()
    assert source_size(f"{path}#3") == (40, 50)
    assert pixels(crop(f"{path}#3", (0, 0, 9, 9), 9, Reading()))[4, 4, 0] == pytest.approx(30, abs=2)
    assert pixels(overlay_thumbnail(f"{path}#2", COLD, 20, Reading())).shape == (20, 20, 3)
    with pytest.raises(UnreadableImage):
        overlay(f"{path}#9", COLD, [], Reading(), tmp_path / "nine.png")


def test_an_overlay_appears_whole_or_not_at_all_and_is_known_again(tmp_path: Path) -> None:
    draw(0).save(tmp_path / "a.png")
    (tmp_path / "text.png").write_text("hello")
    for suffix in ("jpg", "png"):
        overlay(str(tmp_path / "a.png"), hot(), [], Reading(), tmp_path / f"out.{suffix}")
        assert is_overlay(tmp_path / f"out.{suffix}")
    assert not is_overlay(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match="not an image"):
        overlay(str(tmp_path / "text.png"), hot(), [], Reading(), tmp_path / "none.jpg")
    with pytest.raises(OutputError, match="No such file"):
        overlay(str(tmp_path / "a.png"), hot(), [], Reading(), tmp_path / "gone" / "a.jpg")
    assert sorted(os.listdir(tmp_path)) == ["a.png", "out.jpg", "out.png", "text.png"]


def test_a_picture_longer_than_a_jpeg_can_be_becomes_shorter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONGEST_JPEG", 50)
    draw(0).save(tmp_path / "a.png")
    overlay(str(tmp_path / "a.png"), hot(), [], Reading(), tmp_path / "out.jpg")
    assert pixels(tmp_path / "out.jpg").shape == (50, 50, 3)


def test_a_thumbnail_is_the_same_in_small(tmp_path: Path) -> None:
    draw(0, side=600).resize((600, 300)).save(tmp_path / "a.jpg")
    small = overlay_thumbnail(str(tmp_path / "a.jpg"), hot(), 80, Reading())
    assert Image.open(io.BytesIO(small)).format == "WEBP"
    overlay(str(tmp_path / "a.jpg"), hot(), [], Reading(), tmp_path / "out.png")
    large = np.asarray(Image.open(tmp_path / "out.png").resize((80, 40))).astype(int)
    assert pixels(small).shape == (40, 80, 3)
    assert np.abs(pixels(small) - large).mean() < 8


def test_a_map_finer_than_the_thumbnail_is_no_trouble(tmp_path: Path) -> None:
    draw(0).save(tmp_path / "a.png")
    assert pixels(overlay_thumbnail(str(tmp_path / "a.png"), hot(90, 90), 32, Reading())).shape == (32, 32, 3)


def test_a_crop_shows_the_pixels_of_the_source(tmp_path: Path) -> None:
    image = Image.new("RGB", (400, 300), "black")
    image.paste((200, 40, 40), (100, 50, 130, 70))
    image.save(tmp_path / "a.jpg", quality=95)
    part = pixels(crop(str(tmp_path / "a.jpg"), (100, 50, 30, 20), 90, Reading()))
    assert part.shape == (60, 90, 3)
    assert np.abs(part[10:-10, 10:-10] - (200, 40, 40)).max() < 25
    wide = pixels(crop(str(tmp_path / "a.jpg"), (0, 0, 400, 300), 80, Reading()))
    assert wide.shape == (60, 80, 3)


def test_a_crop_beyond_the_picture_is_cut_off(tmp_path: Path) -> None:
    draw(0).save(tmp_path / "a.png")
    for box in ((-10, -10, 20, 20), (90, 90, 20, 20), (500, 500, 9, 9), (3, 3, 0, 0)):
        assert max(pixels(crop(str(tmp_path / "a.png"), box, 24, Reading())).shape) == 24
    with pytest.raises(UnreadableImage, match="No such file"):
        crop(str(tmp_path / "gone.png"), (0, 0, 9, 9), 24, Reading())


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_the_size_is_that_of_the_upright_image(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = turned(tmp_path / f"a.{suffix}", orientation)
    overlay(path, COLD, [], Reading(), tmp_path / "out.png")
    height, width, _ = pixels(tmp_path / "out.png").shape
    assert source_size(path) == (width, height)


def test_the_size_of_what_is_no_image_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match=r"^No such file or directory$"):
        source_size(str(tmp_path / "gone.png"))
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(UnreadableImage):
        source_size(str(tmp_path / "text.png"))
