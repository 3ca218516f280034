from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomscan.errors import InputError, UsageError
from anomscan.fit.look import Gathering
from anomscan.fit.part import decide_part
from anomscan.images.find import Found, Unreadable, find_images
from anomscan.images.part import mask_text
from anomscan.types import Part
from tests.conftest import draw, silent


@pytest.fixture
def mixed(tmp_path: Path) -> list[Found]:
    """Two images of 96 x 60, three of 60 x 96 (one of them by its EXIF), and what is none."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for seed in range(4):
        draw(seed).crop((0, 0, 96, 60) if seed < 2 else (0, 0, 60, 96)).save(folder / f"{seed}.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    draw(4).crop((0, 0, 96, 60)).save(folder / "4.png", exif=exif)
    (folder / "broken.png").write_bytes(b"broken")
    return [*find_images(str(folder)), Unreadable("x", "denied")]


def mask(path: Path, size: tuple[int, int]) -> str:
    image = Image.new("L", size, 0)
    image.paste(255, (10, 10, 40, 40))
    image.save(path)
    return str(path)


def test_nothing_asked_is_the_whole_and_no_file_is_opened() -> None:
    assert decide_part([], None, None) is None


def test_the_size_is_that_of_most_normals(mixed: list[Found], tmp_path: Path) -> None:
    assert decide_part(mixed, "5,6,30,40", None) == Part((60, 96), (5, 6, 30, 40))
    white = np.zeros((96, 60), np.bool_)
    white[10:40, 10:40] = True
    text, file = mask_text(white), mask(tmp_path / "m.bmp", (60, 96))
    assert decide_part(mixed, None, file) == Part((60, 96), (0, 0, 60, 96), text)
    assert decide_part(mixed, "5,6,30,40", file) == Part((60, 96), (5, 6, 30, 40), text)


def test_what_is_asked_for_replaces_what_a_model_looks_at(mixed: list[Found], tmp_path: Path) -> None:
    known = Part((60, 96), (0, 0, 9, 9))
    assert decide_part(mixed, None, None, known) == known
    assert decide_part(mixed, "5,6,30,40", None, known) == Part((60, 96), (5, 6, 30, 40))
    other = Part((96, 60), (0, 0, 9, 9))
    with pytest.raises(UsageError, match="normals have 60 x 96 pixels, but the model looks at a region of"):
        decide_part(mixed, None, None, other)
    assert decide_part(mixed, "5,6,30,40", None, other) == Part((60, 96), (5, 6, 30, 40))


@pytest.mark.parametrize(
    ("region", "size", "error", "sentence"),
    [
        ("0,0,61,9", None, UsageError, "sticks out of the normals, which have 60 x 96 pixels"),
        ("0,0,9", None, UsageError, "--region takes x,y,w,h"),
        ("0,0,0,9", None, UsageError, "w and h above 0"),
        (None, (96, 60), UsageError, "--mask has 96 x 60 pixels, but the normals have 60 x 96"),
        ("50,50,9,9", (60, 96), UsageError, "--mask is black wherever"),
    ],
)
def test_what_does_not_fit_is_refused(
    mixed: list[Found],
    tmp_path: Path,
    region: str | None,
    size: tuple[int, int] | None,
    error: type[Exception],
    sentence: str,
) -> None:
    file = None if size is None else mask(tmp_path / "m.png", size)
    with pytest.raises(error, match=sentence):
        decide_part(mixed, region, file)


def test_a_mask_that_cannot_be_read_is_said_with_its_name(mixed: list[Found], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--mask .*gone\.png: No such file"):
        decide_part(mixed, None, str(tmp_path / "gone.png"))


def test_of_no_readable_image_nothing_is_decided() -> None:
    known = Part((60, 96), (0, 0, 9, 9))
    assert decide_part([Unreadable("x", "denied")], "0,0,9,9", None, known) == known


def test_a_look_reads_the_images_so(mixed: list[Found]) -> None:
    found = Gathering(region="5,6,30,40").look(mixed, silent)
    assert found.reading.part == Part((60, 96), (5, 6, 30, 40))
    assert Gathering().look(mixed, silent).reading.part is None
