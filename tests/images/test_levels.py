from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from anomscan.errors import UnreadableImage, UsageError
from anomscan.images.levels import Deep, Span, decide, deep, parse_range
from anomscan.images.opening import open_image
from anomscan.types import Levels
from tests.images.files import png, pnm, tiff

RAMP = np.tile(np.linspace(0, 4095, 40), (30, 1)).astype(np.uint16)


def read(path: Path) -> Deep | None:
    with open(path, "rb") as file, open_image(file) as image:
        return deep(image, file)


def test_an_image_of_8_bits_is_not_deep(tmp_path: Path) -> None:
    for mode in ("L", "RGB", "RGBA", "P", "1"):
        Image.new(mode, (8, 8)).save(tmp_path / "a.png")
        assert read(tmp_path / "a.png") is None


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_of_16_bits_is_read_as_it_is(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(RAMP).save(tmp_path / f"a.{suffix}")
    found = read(tmp_path / f"a.{suffix}")
    assert found is not None
    np.testing.assert_array_equal(found.values, RAMP)
    assert (found.declared, found.container) == (None, 65535)


def test_colours_of_16_bits_keep_their_low_bytes(tmp_path: Path) -> None:
    colours = np.stack([RAMP, RAMP + 7, 65535 - RAMP], axis=2)
    found = read(png(tmp_path / "a.png", colours))
    assert found is not None
    np.testing.assert_array_equal(found.values, colours)


def test_a_png_may_say_how_many_bits_count(tmp_path: Path) -> None:
    found = read(png(tmp_path / "a.png", RAMP, (b"sBIT", bytes([12]))))
    assert found is not None
    assert found.declared == 4095


def test_a_tiff_may_say_its_largest_value_and_that_white_is_zero(tmp_path: Path) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[281] = 4095
    Image.fromarray(RAMP).save(tmp_path / "a.tif", tiffinfo=tags)
    found = read(tmp_path / "a.tif")
    assert found is not None
    assert found.declared == 4095
    inverted = read(tiff(tmp_path / "b.tif", RAMP, photometric=0, tags={281: 4095}))
    assert inverted is not None
    np.testing.assert_array_equal(inverted.values, 4095 - RAMP)


def test_what_a_file_says_is_not_believed_where_it_holds_more(tmp_path: Path) -> None:
    """By the standard of PNG the bits of sBIT lie at the upper end; cameras write them at the lower."""
    for path in (
        png(tmp_path / "a.png", RAMP * 16, (b"sBIT", bytes([12]))),
        tiff(tmp_path / "a.tif", RAMP * 16, tags={281: 4095}),
        pnm(tmp_path / "a.pgm", RAMP, 1000),
    ):
        found = read(path)
        assert found is not None
        assert found.declared is None


@pytest.mark.parametrize("maxval", [300, 1023, 4095, 65535])
@pytest.mark.parametrize("plain", [True, False])
def test_a_pgm_or_ppm_is_read_as_it_is(tmp_path: Path, maxval: int, plain: bool) -> None:
    values = np.random.default_rng(0).integers(0, maxval + 1, (7, 9, 3)).astype(np.uint16)
    for some in (values, values[..., 0]):
        found = read(pnm(tmp_path / "a.pnm", some, maxval, plain=plain))
        assert found is not None
        np.testing.assert_array_equal(found.values, some)
        assert (found.declared, found.container) == (maxval if maxval < 65535 else None, maxval)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.int8, np.int16, np.int32, np.float32])
def test_a_tiff_of_any_kind_is_read_to_the_last_bit(
    tmp_path: Path, order: str, compression: int, kind: type
) -> None:
    bits = np.random.default_rng(0).integers(0, 256, (7, 9 * np.dtype(kind).itemsize), np.uint8)
    values = (
        bits.view(kind) if kind is not np.float32 else np.linspace(-1e9, 1e9, 63, dtype=kind).reshape(7, 9)
    )
    found = read(tiff(tmp_path / "a.tif", values, order=order, compression=compression))
    assert found is not None
    np.testing.assert_array_equal(found.values, values)
    if kind is np.uint16:
        colours = np.stack([values, values[::-1], ~values], axis=2)
        made = tiff(tmp_path / "b.tif", colours, order=order, compression=compression, photometric=2)
        found = read(made)
        assert found is not None
        np.testing.assert_array_equal(found.values, colours)


def test_whole_numbers_of_32_bits_and_floats_have_no_range(tmp_path: Path) -> None:
    for kind in (np.int32, np.float32):
        Image.fromarray(RAMP.astype(kind)).save(tmp_path / "a.tif")
        found = read(tmp_path / "a.tif")
        assert found is not None
        assert (found.declared, found.container) == (None, None)
        np.testing.assert_array_equal(found.values, RAMP)


def test_a_range_becomes_0_to_255_and_the_rest_is_clipped() -> None:
    found = Deep(np.array([[0, 100, 150, 200, 300]], np.uint16), None, 65535.0)
    pixels, outside = found.in_8_bits(Levels(100, 200))
    assert pixels.tolist() == [[0, 0, 127, 255, 255]]
    assert outside == pytest.approx(2 / 5)
    declared, _ = Deep(found.values, 300.0, 65535.0).in_8_bits(None)
    assert declared[0, -1] == 255
    with pytest.raises(UnreadableImage, match="its range is unknown"):
        found.in_8_bits(None)


@pytest.mark.parametrize("shape", [(700, 500), (3, 400_000), (400_000, 1), (500, 400, 3)])
def test_a_large_image_is_brought_to_8_bits_part_by_part(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)
    whole = np.floor((values - 1000.0) * 255 / 50_000).clip(0, 255)
    for kind in (np.uint16, np.int32, np.float32):
        pixels, outside = Deep(values.astype(kind), None, 65535.0).in_8_bits(Levels(1000, 51_000))
        np.testing.assert_array_equal(pixels, whole)
        assert outside == pytest.approx(((values < 1000) | (values > 51_000)).mean())


def test_what_is_no_number_is_dark() -> None:
    values = np.array([[np.nan, 0, 1, np.inf]], np.float32)
    pixels, _ = Deep(values, None, None).in_8_bits(Levels(0, 1))
    assert pixels[0, :3].tolist() == [0, 0, 255]
    assert Deep(values, None, None).span().used.high <= 1
    with pytest.raises(UnreadableImage, match="not one pixel is a number"):
        Deep(np.full((2, 2), np.nan, np.float32), None, None).span()


@pytest.mark.parametrize(
    ("text", "levels"),
    [("0:4095", Levels(0, 4095)), ("-5.5:1e3", Levels(-5.5, 1000)), ("file", None)],
)
def test_a_range_on_the_command_line(text: str, levels: Levels | None) -> None:
    assert parse_range(text) == levels


@pytest.mark.parametrize("text", ["", "5", "5:5", "9:1", "a:b", "0:nan", "0:inf", "1:2:3", "full"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--range takes LO:HI"):
        parse_range(text)


def image(low: float, high: float, declared: float | None = None, container: float | None = 65535.0) -> Span:
    values = np.linspace(low, high, 10_000).astype(np.float32).reshape(100, 100)
    return Deep(values, declared, container).span()


def test_the_normals_decide_the_range() -> None:
    assert decide([], by_file=False) is None
    assert decide([image(0, 100, 1023), image(0, 100, 4095)], by_file=False) == Levels(0, 4095)
    decided = decide([image(1000, 2000, 4095), image(1100, 2100)], by_file=False)
    assert decided is not None
    assert 930 < decided.low < 1000
    assert 2100 < decided.high < 2170
    assert decide([image(1000, 2000)], by_file=True) == Levels(0, 65535)
    with pytest.raises(UsageError, match="have no range of their own"):
        decide([image(0, 1, None, None)], by_file=True)


def test_a_few_hot_pixels_do_not_decide_it() -> None:
    values = np.linspace(1000, 2000, 10_000).astype(np.float32).reshape(100, 100)
    values[0, :5] = 65535
    decided = decide([Deep(values, None, 65535.0).span()], by_file=False)
    assert decided is not None
    assert decided.high < 2200


def test_normals_of_one_value_have_a_range_too() -> None:
    decided = decide([image(500, 500)], by_file=False)
    assert decided is not None
    assert decided.low < 500 < decided.high
