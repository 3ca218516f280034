from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from anomscan.errors import UnreadableImage
from anomscan.images.decode import decode, look_at, opened
from anomscan.images.find import Source, Unreadable
from anomscan.images.part import mask_text, part_of
from anomscan.images.region import GREY, shown, squashed
from anomscan.types import Box, Levels, Part, Preprocessing, Reading
from tests.images.files import png

INPUT = (96, 64)
RULES = Preprocessing(INPUT[1], INPUT[0], "bicubic", (0.5,) * 3, (0.5,) * 3)
BICUBIC = Image.Resampling.BICUBIC


def rules(part: Part | None) -> Preprocessing:
    return replace(RULES, reading=Reading(part=part))


def scene(width: int, height: int, seed: int = 0, cell: int = 16) -> Image.Image:
    """Smooth colours without a place that is like another; ``cell`` pixels are about of one."""
    noise = np.random.default_rng(seed).integers(0, 255, (height // cell, width // cell, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), BICUBIC)


def ints(image: Any) -> NDArray[np.int64]:
    return np.asarray(image).astype(np.int64)


def test_a_region_is_cut_out_and_squashed(tmp_path: Path) -> None:
    scene(320, 240).save(tmp_path / "a.png")
    box = (50, 31, 201, 107)
    found = decode(str(tmp_path / "a.png"), rules(Part((320, 240), box))).pixels
    expected = scene(320, 240).crop((50, 31, 251, 138)).resize(INPUT, BICUBIC)
    np.testing.assert_array_equal(found, np.asarray(expected))
    assert found.flags.c_contiguous


def test_the_region_of_all_is_the_whole(tmp_path: Path) -> None:
    scene(320, 240).save(tmp_path / "a.png")
    whole, all_of_it = (
        decode(str(tmp_path / "a.png"), rules(part)).pixels
        for part in (None, Part((320, 240), (0, 0, 320, 240)))
    )
    np.testing.assert_array_equal(whole, all_of_it)


@pytest.mark.parametrize("orientation", [1, 3, 6, 7, 8])
@pytest.mark.parametrize(
    ("box", "scale"), [((705, 501, 801, 603), 4), ((0, 0, 1600, 1200), 8), ((1200, 700, 391, 270), 2)]
)
def test_a_large_jpeg_is_reduced_and_the_region_is_still_in_its_place(
    tmp_path: Path, orientation: int, box: Box, scale: int
) -> None:
    """That of one which is not turned need be no multiple of eight."""
    source = (1607, 1201) if orientation == 1 else (1600, 1200)
    upright = scene(*source, cell=100)
    lying = {
        1: upright,
        3: upright.transpose(Image.Transpose.ROTATE_180),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = str(tmp_path / "a.jpg")
    lying.save(path, quality=97, exif=exif)
    part = Part(source, box)
    with opened(path, INPUT, Reading(), None, part) as (image, _, _):
        assert image.size == (-(-source[0] // scale), -(-source[1] // scale))
        assert box[2] / scale >= 2 * INPUT[0]
        assert box[3] / scale >= 2 * INPUT[1]
    full = ImageOps.exif_transpose(Image.open(path))
    x, y, width, height = box
    expected = ints(full.crop((x, y, x + width, y + height)).resize(INPUT, BICUBIC))
    found = ints(decode(path, rules(part)).pixels)
    assert np.abs(found - expected).mean() < 1.0
    aside = ints(full.crop((x + scale, y, x + scale + width, y + height)).resize(INPUT, BICUBIC))
    if x + scale + width <= source[0]:
        assert np.abs(found - expected).mean() < np.abs(found - aside).mean()


def test_a_long_image_on_its_side_is_reduced_as_far_as_an_upright_one(tmp_path: Path) -> None:
    part = Part((3200, 400), (1000, 0, 400, 400))
    exif = Image.Exif()
    exif[0x0112] = 6
    scene(3200, 400).save(tmp_path / "upright.jpg")
    scene(3200, 400).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "lying.jpg", exif=exif)
    for name in ("upright.jpg", "lying.jpg"):
        with opened(str(tmp_path / name), INPUT, Reading(), None, part) as (image, _, _):
            assert image.size == (1600, 200)


def test_pictures_of_a_model_with_a_region_are_whole(tmp_path: Path) -> None:
    scene(320, 240).save(tmp_path / "a.png")
    reading = Reading(part=Part((99, 99), (9, 9, 9, 9)))
    with opened(str(tmp_path / "a.png"), INPUT, reading, None) as (image, _, _):
        assert image.size == (320, 240)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_nothing_outside_of_the_region_or_behind_the_mask_counts(tmp_path: Path, mode: str) -> None:
    mask = np.zeros((240, 320), np.bool_)
    mask[60:180, 90:210] = True
    box = (80, 50, 180, 150)
    seen = np.zeros_like(mask)
    seen[50:200, 80:260] = True
    first, second = scene(320, 240, 1), scene(320, 240, 2)
    for name, inside in (("region", seen), ("mask", mask), ("both", seen & mask)):
        part = part_of((320, 240), None if name == "mask" else box, None if name == "region" else mask)
        same = Image.composite(first, second, Image.fromarray(inside.astype(np.uint8) * 255))
        pixels = []
        for image in (first, same, second):
            image.convert(mode).save(tmp_path / "a.png")
            pixels.append(decode(str(tmp_path / "a.png"), rules(part)).pixels)
        np.testing.assert_array_equal(pixels[0], pixels[1])
        assert (pixels[0] != pixels[2]).any()


def test_behind_the_mask_all_is_mid_grey(tmp_path: Path) -> None:
    mask = np.zeros((240, 320), np.bool_)
    mask[:, :160] = True
    scene(320, 240).save(tmp_path / "a.png")
    found = ints(decode(str(tmp_path / "a.png"), rules(part_of((320, 240), None, mask))).pixels)
    whole = ints(decode(str(tmp_path / "a.png"), RULES).pixels)
    assert (found[:, 52:] == GREY).all()
    np.testing.assert_array_equal(found[:, :44], whole[:, :44])


def test_a_mask_lies_over_a_reduced_jpeg_as_over_the_whole(tmp_path: Path) -> None:
    y, x = np.mgrid[:1203, :1601]
    part = part_of((1601, 1203), (300, 200, 1000, 800), (x - 800) ** 2 + (y - 600) ** 2 < 300**2)
    scene(1601, 1203, cell=100).save(tmp_path / "a.jpg", quality=97)
    found = ints(decode(str(tmp_path / "a.jpg"), rules(part)).pixels)
    expected = ints(squashed(Image.open(tmp_path / "a.jpg"), INPUT, BICUBIC, part))
    assert np.abs(found - expected).mean() < 1.0
    assert (found[2, 2] == GREY).all()


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_an_image_of_another_size_is_a_row_with_the_reason(tmp_path: Path, suffix: str) -> None:
    part = Part((240, 320), (0, 0, 100, 100), mask_text(np.ones((320, 240), np.bool_)))
    path = tmp_path / f"a.{suffix}"
    scene(320, 240).save(path)
    reason = "320 x 240 pixels, but the model looks at a region of 240 x 320"
    assert look_at(Source(str(path)), rules(part)) == Unreadable(str(path), reason)
    with pytest.raises(UnreadableImage, match=reason):
        decode(str(path), rules(part))
    exif = Image.Exif()
    exif[0x0112] = 8
    scene(320, 240).save(path, exif=exif)
    decode(str(path), rules(part))


def test_of_a_page_its_own_size_counts(tmp_path: Path) -> None:
    first, second = scene(320, 240), scene(160, 240)
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    part = Part((160, 240), (0, 0, 100, 100))
    assert isinstance(look_at(Source(str(tmp_path / "a.tif")), rules(part)), Unreadable)
    found = decode(str(tmp_path / "a.tif"), rules(part), 2).pixels
    np.testing.assert_array_equal(found, np.asarray(second.crop((0, 0, 100, 100)).resize(INPUT, BICUBIC)))


def test_deep_pixels_and_transparent_ones_are_cut_as_well(tmp_path: Path) -> None:
    part = part_of((320, 240), (50, 30, 200, 100), np.ones((240, 320), np.bool_))
    deep = ints(scene(320, 240).convert("L")) * 257
    Image.fromarray(deep.astype(np.uint16)).save(tmp_path / "deep.png")
    scene(320, 240).convert("L").save(tmp_path / "grey.png")
    clear = scene(320, 240).convert("RGBA")
    clear.save(tmp_path / "clear.png")
    scene(320, 240).save(tmp_path / "colour.png")
    for one, other in (("deep", "grey"), ("clear", "colour")):
        found, expected = (decode(str(tmp_path / f"{name}.png"), rules(part)).pixels for name in (one, other))
        np.testing.assert_array_equal(found, expected)


def test_what_a_mask_shows_is_what_is_not_grey(tmp_path: Path) -> None:
    Image.new("RGB", (320, 240), (200, 10, 10)).save(tmp_path / "a.png")
    white = np.zeros((240, 320), np.bool_)
    white[60:130, 70:190] = True
    part = part_of((320, 240), (50, 40, 200, 150), white)
    pixels = decode(str(tmp_path / "a.png"), rules(part)).pixels
    differs = shown(INPUT, part) != (pixels[..., 0] > 180)
    assert differs.mean() < 0.03  # on the edge
    assert shown(INPUT, None).all()
    assert shown(INPUT, part_of((320, 240), (50, 40, 200, 150), None)).all()


@pytest.mark.parametrize("orientation", [1, 6])
def test_the_region_of_a_deep_png_keeps_its_values(tmp_path: Path, orientation: int) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (240, 320, 3)).astype(np.uint16)
    exif = Image.Exif()
    exif[274] = orientation
    turned = [(b"eXIf", exif.tobytes()[6:])] if orientation != 1 else []
    png(tmp_path / "a.png", values, *turned)
    upright = values if orientation == 1 else np.rot90(values, -1)
    levels = Levels(0.0, 4095.0)
    source = (upright.shape[1], upright.shape[0])
    whole = replace(RULES, reading=Reading(levels=levels))
    part = part_of(source, (0, 0, *source), None)
    looked_at = replace(RULES, reading=Reading(levels=levels, part=part))
    expected = decode(str(tmp_path / "a.png"), whole).pixels
    assert expected.std() > 10
    np.testing.assert_array_equal(decode(str(tmp_path / "a.png"), looked_at).pixels, expected)
    other = replace(looked_at, reading=replace(looked_at.reading, part=Part((9, 9), (0, 0, 9, 9))))
    with pytest.raises(UnreadableImage, match=f"{source[0]} x {source[1]} pixels"):
        decode(str(tmp_path / "a.png"), other)
