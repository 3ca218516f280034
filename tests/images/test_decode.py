from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from anomscan.errors import UnreadableImage
from anomscan.files.storage import Identity
from anomscan.images import decode as module
from anomscan.images.budget import Budget
from anomscan.images.decode import (
    Decoded,
    decode,
    decode_all,
    every_page,
    thumbnail,
)
from anomscan.images.find import Found, Source, Unreadable, find
from anomscan.images.tiles import areas
from anomscan.types import Levels, Part, Preprocessing, Reading, Tiles
from tests.conftest import draw

PREPROCESSING = Preprocessing(32, 48, "bilinear", (0.5,) * 3, (0.5,) * 3)


def reading(**options: Any) -> Preprocessing:
    """The same, of files that are read otherwise."""
    return replace(PREPROCESSING, reading=Reading(**options))


SAME_SIZE = Preprocessing(96, 96, "bicubic", (0.5,) * 3, (0.5,) * 3)


def test_a_dangling_link_and_a_special_file_are_rows_not_lost(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    decoded = list(decode_all(find([str(tmp_path)]), PREPROCESSING, threads=2))
    assert decoded == [
        Unreadable(str(tmp_path / "gone.jpg"), "No such file or directory"),
        Unreadable(str(tmp_path / "pipe.png"), "not a regular file"),
    ]


def test_a_given_file_counts_whatever_its_name(tmp_path: Path) -> None:
    draw(0).save(tmp_path / "frame.dat", "PNG")
    (source,) = find([str(tmp_path / "frame.dat")])
    assert isinstance(source, Source)
    assert decode(source.path, PREPROCESSING).pixels.shape == (32, 48, 3)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 100, (100, 100, 100)),
        ("LA", (100, 128), (177, 177, 177)),
        ("LA", (100, 0), (100, 100, 100)),
        ("RGBA", (200, 0, 0, 128), (227, 127, 127)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("1", 1, (255, 255, 255)),
        ("I;16", 25700, (100, 100, 100)),
    ],
)
def test_every_mode_becomes_rgb_by_its_rule(
    tmp_path: Path, mode: str, colour: int | tuple[int, ...], expected: tuple[int, ...]
) -> None:
    path = tmp_path / "image.tif"
    Image.new(mode, (40, 40), colour).save(path)
    pixels = decode(str(path), PREPROCESSING).pixels
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_transparency_is_composited_over_white(tmp_path: Path) -> None:
    image = Image.new("P", (40, 40), 1)
    image.putpalette([10, 20, 30] * 2)
    image.paste(0, (20, 0, 40, 40))
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "clear.png", transparency=1)
    opaque, clear = (
        decode(str(tmp_path / f"{name}.png"), PREPROCESSING).pixels for name in ("opaque", "clear")
    )
    assert opaque[0, 0].tolist() == opaque[0, -1].tolist() == clear[0, -1].tolist() == [10, 20, 30]
    assert clear[0, 0].tolist() == [255, 255, 255]


def test_an_alpha_channel_that_hides_everything_was_never_meant_as_one(tmp_path: Path) -> None:
    rgba = draw(0).convert("RGBA")
    rgba.putalpha(0)
    rgba.save(tmp_path / "hidden.png")
    draw(0).save(tmp_path / "plain.png")
    hidden, plain = (
        decode(str(tmp_path / f"{name}.png"), PREPROCESSING).pixels for name in ("hidden", "plain")
    )
    np.testing.assert_array_equal(hidden, plain)


def test_exif_orientation_is_applied_also_at_reduced_scale(tmp_path: Path) -> None:
    image = Image.new("RGB", (2000, 1000), "black")
    image.paste("white", (0, 0, 1000, 1000))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to show
    image.save(tmp_path / "turned.jpg", exif=exif)
    pixels = decode(str(tmp_path / "turned.jpg"), PREPROCESSING).pixels
    assert pixels[4].min() > 250
    assert pixels[-4].max() < 5


def test_the_border_of_the_image_is_seen(tmp_path: Path) -> None:
    image = Image.new("RGB", (300, 300), "black")
    image.paste("white", (295, 0, 300, 300))
    image.save(tmp_path / "edge.png")
    assert decode(str(tmp_path / "edge.png"), PREPROCESSING).pixels[:, -1].min() > 100


def test_the_first_frame_of_an_animation_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    assert decode(str(tmp_path / "film.gif"), PREPROCESSING).pixels[0, 0].tolist() == [255, 0, 0]


def test_reduced_scale_decoding_stays_close_to_the_full_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.jpg"
    draw(3, side=1600).save(path, quality=95)
    reduced = decode(str(path), SAME_SIZE).pixels.astype(int)
    monkeypatch.setattr(JpegImageFile, "draft", lambda *_: None)
    assert np.abs(reduced - decode(str(path), SAME_SIZE).pixels).mean() < 1.0


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif", "webp", "gif"])
def test_a_file_cut_anywhere_is_unreadable_or_an_image_never_a_crash(tmp_path: Path, suffix: str) -> None:
    draw(1).save(tmp_path / f"whole.{suffix}")
    whole = (tmp_path / f"whole.{suffix}").read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    reasons = []
    for length in range(0, len(whole), max(1, len(whole) // 23)):
        cut.write_bytes(whole[:length])
        (decoded,) = decode_all([Source(str(cut))], PREPROCESSING, threads=1)
        if isinstance(decoded, Unreadable):
            reasons.append(decoded.reason)
    assert len(reasons) > 10
    assert all(reasons)


def test_what_is_no_image_says_so(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    Image.fromarray(np.zeros((9, 9), np.int32)).save(tmp_path / "deep.tif")
    draw(0).save(tmp_path / "vast.png")
    with pytest.raises(UnreadableImage, match="not an image"):
        decode(str(tmp_path / "text.png"), PREPROCESSING)
    with pytest.raises(UnreadableImage, match="its range is unknown"):
        decode(str(tmp_path / "deep.tif"), reading(levels=None))
    with pytest.raises(UnreadableImage, match="96 x 96 pixels are over the limit"):
        decode(str(tmp_path / "vast.png"), reading(max_pixels=96 * 96 - 1))
    decode(str(tmp_path / "vast.png"), reading(max_pixels=96 * 96))


def test_a_format_that_was_not_promised_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    draw(0).save(buffer, "TGA")
    (tmp_path / "trick.png").write_bytes(buffer.getvalue())
    with pytest.raises(UnreadableImage, match="not an image"):
        decode(str(tmp_path / "trick.png"), PREPROCESSING)


def test_decode_all_keeps_the_order_and_looks_ahead_only_a_little(tmp_path: Path) -> None:
    for seed in range(5):
        draw(seed).save(tmp_path / f"{seed}.png")
    asked = 0

    def sources() -> Iterator[Found]:
        nonlocal asked
        for i in range(10_000):
            asked += 1
            yield Source(str(tmp_path / f"{i % 5}.png"))

    decoded = decode_all(sources(), PREPROCESSING, threads=2)
    paths = [Path(next(decoded).path).name for _ in range(7)]
    decoded.close()  # type: ignore[attr-defined]
    assert paths == ["0.png", "1.png", "2.png", "3.png", "4.png", "0.png", "1.png"]
    assert asked < 60


def test_what_cannot_be_looked_at_stays_in_its_place(tmp_path: Path) -> None:
    draw(0).save(tmp_path / "a.png")
    found: list[Found] = [
        Source(str(tmp_path / "a.png")),
        Unreadable("b", "gone"),
        Source(str(tmp_path / "c")),
    ]
    decoded = list(decode_all(found, PREPROCESSING, threads=2))
    assert [type(image) for image in decoded] == [Decoded, Unreadable, Unreadable]
    assert decoded[1] is found[1]
    assert decoded[2] == Unreadable(str(tmp_path / "c"), "No such file or directory")


def test_a_name_that_no_file_can_have_is_unreadable() -> None:
    with pytest.raises(UnreadableImage, match="null"):
        decode("a\0b.png", PREPROCESSING)
    with pytest.raises(UnreadableImage, match="File name too long"):
        decode("x" * 300, PREPROCESSING)


def test_a_thumbnail_keeps_the_shape_and_is_small(tmp_path: Path) -> None:
    draw(0, side=600).resize((600, 300)).save(tmp_path / "wide.jpg")
    image = Image.open(io.BytesIO(thumbnail(str(tmp_path / "wide.jpg"), 80, Reading())))
    assert (image.format, image.size) == ("WEBP", (80, 40))
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(UnreadableImage, match="not an image"):
        thumbnail(str(tmp_path / "text.jpg"), 80, Reading())


def grey_16(path: Path, low: int, high: int) -> str:
    """A ramp of 16 bits, dark on the left."""
    Image.fromarray(np.tile(np.linspace(low, high, 48), (32, 1)).astype(np.uint16)).save(path)
    return str(path)


def test_deep_pixels_become_8_bits_by_the_range_of_the_normals(tmp_path: Path) -> None:
    path = grey_16(tmp_path / "a.png", 1000, 2000)
    ramp = decode(path, reading(levels=Levels(1000, 2000)))
    assert (ramp.pixels[0, 0, 0], ramp.pixels[0, -1, 0], ramp.remarks.clipped) == (0, 255, False)
    clipped = decode(path, reading(levels=Levels(1500, 2000)))
    assert clipped.remarks.clipped
    assert clipped.pixels[0, :20].max() == 0
    assert decode(path, PREPROCESSING).pixels.max() <= 8  # as before 0.2: by all that 16 bits can hold
    with pytest.raises(UnreadableImage, match="more than 8 bits and the model's normals have 8"):
        decode(path, reading(levels=None))


def test_a_decoded_image_knows_its_file_and_its_state(tmp_path: Path) -> None:
    draw(0).save(tmp_path / "a.png")
    decoded = decode(str(tmp_path / "a.png"), PREPROCESSING)
    assert decoded.path == decoded.file == str(tmp_path / "a.png")
    assert decoded.identity == Identity.of(os.stat(tmp_path / "a.png"))
    assert not decoded.remarks.flat
    assert decoded.pixels.flags.c_contiguous
    for flat in (Image.new("RGB", (40, 40), "red"), Image.new("L", (40, 40), 7)):
        flat.save(tmp_path / "flat.png")
        assert decode(str(tmp_path / "flat.png"), PREPROCESSING).remarks.flat


def pages(path: Path) -> str:
    first, *more = (Image.new("L", (40, 40), value) for value in (10, 20, 30))
    first.save(path, save_all=True, append_images=more)
    return str(path)


def test_further_pages_are_remarked_or_looked_at(tmp_path: Path) -> None:
    path = pages(tmp_path / "a.tif")
    first = decode(path, PREPROCESSING)
    assert (first.pixels[0, 0, 0], first.remarks.pages, first.path) == (10, 2, path)
    second = decode(path, PREPROCESSING, page=2)
    assert (second.pixels[0, 0, 0], second.remarks.pages, second.path, second.file) == (
        20,
        0,
        f"{path}#2",
        path,
    )
    draw(0).save(tmp_path / "one.png")
    found = [Source(path), Unreadable("b", "gone"), Source(str(tmp_path / "one.png"))]
    assert list(every_page(found)) == [*(Source(path, page) for page in (1, 2, 3)), *found[1:]]
    with pytest.raises(UnreadableImage):
        decode(path, PREPROCESSING, page=9)
    assert Image.open(io.BytesIO(thumbnail(f"{path}#3", 8, Reading()))).convert("L").getpixel((0, 0)) == 30


def test_threads_decode_no_more_at_a_time_than_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight threads, room for two images; one that is larger than all is decoded alone."""
    for seed in range(12):
        draw(seed, side=40).save(tmp_path / f"{seed:02}.png")
    draw(12, side=90).save(tmp_path / "wide.png")
    monkeypatch.setattr(module, "MEMORY_IN_FLIGHT", Budget(2 * 40 * 40))
    monkeypatch.setattr(module, "bytes_needed", lambda image, *_, **__: image.width * image.height)
    inside: list[int] = []
    together: list[int] = []

    def read(image: Image.Image, *arguments: Any) -> Any:
        inside.append(image.width * image.height)
        together.append(sum(inside))
        time.sleep(0.01)
        try:
            return own(image, *arguments)
        finally:
            inside.remove(image.width * image.height)

    own = module._read
    monkeypatch.setattr(module, "_read", read)
    decoded = list(decode_all(find([str(tmp_path)]), PREPROCESSING, threads=8))
    assert all(isinstance(image, Decoded) for image in decoded)
    assert (len(decoded), sorted(set(together))) == (13, [40 * 40, 2 * 40 * 40, 90 * 90])


@pytest.mark.parametrize("suffix", ["bmp", "tif"])
def test_a_file_whose_end_was_never_written_is_unreadable(tmp_path: Path, suffix: str) -> None:
    """Such as is copied into a folder that is watched: the size is there, the last rows are zeros yet."""
    image = draw(0)
    image.paste("black", (0, 80, 96, 96))
    image.save(tmp_path / f"a.{suffix}")
    path = str(tmp_path / f"a.{suffix}")
    assert decode(path, PREPROCESSING).pixels[-1].max() < 80
    with pytest.raises(UnreadableImage, match="cut off, or still being written"):
        decode(path, reading(constant_tail=False))
    draw(0).save(path)
    decode(path, reading(constant_tail=False))


TILES = Tiles(3, 4, 1 / 7, (1600, 1200))


def test_tiles_are_what_lies_there_at_the_size_of_the_input(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8))
    image.save(tmp_path / "a.png")
    rules = replace(PREPROCESSING, tiles=TILES)
    pixels = decode(str(tmp_path / "a.png"), rules).pixels
    assert pixels.shape == rules.shape == (12, 32, 48, 3)
    assert pixels.flags.c_contiguous
    for tile, area in zip(pixels, areas(TILES, (0, 0, 160, 120)), strict=True):
        expected = np.asarray(image.resize((48, 32), Image.Resampling.BILINEAR, box=area))
        np.testing.assert_array_equal(tile, expected)


def test_one_tile_is_the_whole(tmp_path: Path) -> None:
    draw(0).save(tmp_path / "a.png")
    whole = decode(str(tmp_path / "a.png"), PREPROCESSING)
    one = decode(str(tmp_path / "a.png"), replace(PREPROCESSING, tiles=Tiles(1, 1, 1 / 7, (96, 96))))
    np.testing.assert_array_equal(one.pixels, whole.pixels[None])
    assert one.remarks == whole.remarks


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("grid", "size"), [((1, 8), (1600, 1200)), ((8, 1), (1600, 1200)), ((5, 1), (3200, 800))]
)
def test_a_reduced_scale_leaves_every_tile_its_pixels(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    grid: tuple[int, int],
    size: tuple[int, int],
    orientation: int,
) -> None:
    """Stripes of six pixels: seen in a tile, and others at the scale that would do for the whole."""
    places = np.indices(size[::-1])[1 if grid[0] == 1 else 0]
    stripes = np.where(places // 6 % 2, 255, 0).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    lying = stripes if orientation == 1 else np.rot90(stripes)
    Image.fromarray(np.ascontiguousarray(lying)).save(tmp_path / "a.jpg", quality=95, exif=exif)
    rules = replace(PREPROCESSING, tiles=Tiles(*grid, 1 / 7, size))
    reduced = decode(str(tmp_path / "a.jpg"), rules).pixels.astype(int)
    monkeypatch.setattr(JpegImageFile, "draft", lambda *_: None)
    full = decode(str(tmp_path / "a.jpg"), rules).pixels.astype(int)
    assert full.std() > 30
    assert np.abs(reduced - full).mean() < 0.2 * full.std()


def test_tiles_of_a_region_lie_in_it_and_see_nothing_else(tmp_path: Path) -> None:
    image = Image.new("RGB", (400, 300), (255, 0, 0))
    inside = np.random.default_rng(0).integers(0, 255, (100, 200, 3), np.uint8)
    image.paste(Image.fromarray(inside), (50, 60))
    image.save(tmp_path / "a.png")
    part = Part((400, 300), (50, 60, 200, 100))
    rules = replace(reading(part=part), tiles=replace(TILES, rows=2, columns=2))
    Image.fromarray(inside).save(tmp_path / "b.png")
    alone = replace(PREPROCESSING, tiles=rules.tiles)
    pixels = decode(str(tmp_path / "a.png"), rules).pixels
    np.testing.assert_array_equal(pixels, decode(str(tmp_path / "b.png"), alone).pixels)


def test_no_more_images_of_many_tiles_are_decoded_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(0).save(tmp_path / "a.png")
    seen: list[int] = []

    def counted(source: Found, preprocessing: Preprocessing) -> Decoded | Unreadable:
        seen.append(1)
        return Unreadable("x", "y")

    monkeypatch.setattr(module, "look_at", counted)
    rules = replace(PREPROCESSING, tiles=Tiles(10, 10, 1 / 7, (1600, 1200)))
    images = decode_all((Source(str(tmp_path / "a.png")) for _ in range(100)), rules, threads=2)
    next(images)
    time.sleep(0.1)
    assert len(seen) <= 3
    del images
