from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomscan import images
from anomscan.config import Preprocessing
from anomscan.errors import InputError, UnreadableImage
from anomscan.images import Source, decode, decode_all, find, printable
from tests.conftest import draw

PREPROCESSING = Preprocessing(32, 48, "bilinear", (0.5,) * 3, (0.5,) * 3)
SAME_SIZE = Preprocessing(96, 96, "bicubic", (0.5,) * 3, (0.5,) * 3)


def names(folder: Path) -> list[str]:
    return [os.path.relpath(source.path, folder) for source in find([str(folder)])]


def test_find_walks_in_byte_order_and_takes_image_suffixes_only(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/z.jpeg", "a/B.tif", "a.webp", "notes.txt", "c.gif"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert names(tmp_path) == ["a/B.tif", "a/z.jpeg", "a.webp", "b.PNG", "c.gif"]


def test_find_enters_linked_folders_once_and_no_loop(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.png").touch()
    (tmp_path / "real" / "loop").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "real")
    assert names(tmp_path) == ["again/x.png"]


def test_a_dangling_link_and_a_special_file_are_rows_not_lost(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    decoded = list(decode_all(find([str(tmp_path)]), PREPROCESSING, threads=2))
    assert [image.error for image in decoded] == ["No such file or directory", "not a regular file"]


def test_a_given_file_counts_whatever_its_name(tmp_path: Path) -> None:
    draw(0).save(tmp_path / "frame.dat", "PNG")
    (source,) = find([str(tmp_path / "frame.dat")])
    assert decode(source.path, PREPROCESSING).shape == (32, 48, 3)


def test_a_path_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(InputError, match=r"nowhere: No such file or directory"):
        list(find(["nowhere"]))


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 100, (100, 100, 100)),
        ("LA", (100, 0), (255, 255, 255)),
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
    pixels = decode(str(path), PREPROCESSING)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_a_palette_with_transparency_is_composited_over_white(tmp_path: Path) -> None:
    image = Image.new("P", (40, 40), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "clear.png", transparency=1)
    assert decode(str(tmp_path / "opaque.png"), PREPROCESSING)[0, 0].tolist() == [10, 20, 30]
    assert decode(str(tmp_path / "clear.png"), PREPROCESSING)[0, 0].tolist() == [255, 255, 255]


def test_exif_orientation_is_applied_also_at_reduced_scale(tmp_path: Path) -> None:
    image = Image.new("RGB", (2000, 1000), "black")
    image.paste("white", (0, 0, 1000, 1000))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to show
    image.save(tmp_path / "turned.jpg", exif=exif)
    pixels = decode(str(tmp_path / "turned.jpg"), PREPROCESSING)
    assert pixels[4].min() > 250
    assert pixels[-4].max() < 5


def test_the_border_of_the_image_is_seen(tmp_path: Path) -> None:
    image = Image.new("RGB", (300, 300), "black")
    image.paste("white", (295, 0, 300, 300))
    image.save(tmp_path / "edge.png")
    assert decode(str(tmp_path / "edge.png"), PREPROCESSING)[:, -1].min() > 100


def test_the_first_frame_of_an_animation_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    assert decode(str(tmp_path / "film.gif"), PREPROCESSING)[0, 0].tolist() == [255, 0, 0]


def test_reduced_scale_decoding_stays_close_to_the_full_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.jpg"
    draw(3, side=1600).save(path, quality=95)
    reduced = decode(str(path), SAME_SIZE).astype(int)
    monkeypatch.setattr(Image.Image, "draft", lambda *_: None)
    assert np.abs(reduced - decode(str(path), SAME_SIZE)).mean() < 1.0


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif", "webp", "gif"])
def test_a_file_cut_anywhere_is_unreadable_or_an_image_never_a_crash(tmp_path: Path, suffix: str) -> None:
    draw(1).save(tmp_path / f"whole.{suffix}")
    whole = (tmp_path / f"whole.{suffix}").read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    reasons = []
    for length in range(0, len(whole), max(1, len(whole) // 23)):
        cut.write_bytes(whole[:length])
        (decoded,) = decode_all([Source(str(cut))], PREPROCESSING, threads=1)
        if decoded.pixels is None:
            reasons.append(decoded.error)
    assert len(reasons) > 10
    assert all(reasons)


def test_what_is_no_image_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.png").write_text("hello")
    Image.fromarray(np.zeros((9, 9), np.int32)).save(tmp_path / "deep.tif")
    draw(0).save(tmp_path / "vast.png")
    with pytest.raises(UnreadableImage, match="not an image"):
        decode(str(tmp_path / "text.png"), PREPROCESSING)
    with pytest.raises(UnreadableImage, match="32-bit"):
        decode(str(tmp_path / "deep.tif"), PREPROCESSING)
    monkeypatch.setattr(images, "MAX_PIXELS", 96 * 96 - 1)
    with pytest.raises(UnreadableImage, match="96 x 96 pixels is over the limit"):
        decode(str(tmp_path / "vast.png"), PREPROCESSING)


def test_a_format_that_was_not_promised_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    draw(0).save(buffer, "PPM")
    (tmp_path / "trick.png").write_bytes(buffer.getvalue())
    with pytest.raises(UnreadableImage, match="not an image"):
        decode(str(tmp_path / "trick.png"), PREPROCESSING)


def test_decode_all_keeps_the_order_and_looks_ahead_only_a_little(tmp_path: Path) -> None:
    for seed in range(5):
        draw(seed).save(tmp_path / f"{seed}.png")
    asked = 0

    def sources() -> object:
        nonlocal asked
        for i in range(10_000):
            asked += 1
            yield Source(str(tmp_path / f"{i % 5}.png"))

    decoded = decode_all(sources(), PREPROCESSING, threads=2)  # type: ignore[arg-type]
    paths = [Path(next(decoded).path).name for _ in range(7)]
    decoded.close()  # type: ignore[attr-defined]
    assert paths == ["0.png", "1.png", "2.png", "3.png", "4.png", "0.png", "1.png"]
    assert asked < 60


def test_a_listed_file_that_has_gone_is_a_row(tmp_path: Path) -> None:
    draw(0).save(tmp_path / "there.png")
    sources = list(find([str(tmp_path / "gone.png"), str(tmp_path / "there.png")], strict=False))
    assert [source.error for source in sources] == ["No such file or directory", None]


def test_printable_escapes_what_a_terminal_cannot_show() -> None:
    assert printable(os.fsdecode(b"a\xff\n\x1b[31m\xc3\xa9")) == "a\\xff\\n\\x1b[31mé"
