from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from anomscan.report.pictures import Pictures
from anomscan.types import Part, Reading
from tests.conftest import draw


def opened(url: str | None) -> Image.Image:
    assert url is not None
    kind, _, content = url.partition(",")
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_each_picture_is_drawn_once_in_the_order_of_the_numbers(tmp_path: Path) -> None:
    draw(0).resize((80, 60)).save(tmp_path / "a.png")
    path, gone = str(tmp_path / "a.png"), str(tmp_path / "gone.png")
    heat = np.eye(6, 8, dtype=np.float32)
    pictures, told = Pictures(Reading()), []
    asked = [
        pictures.whole(path, 40),
        pictures.whole(gone, 40),
        pictures.heated(path, heat, 40),
        pictures.around(path, (2, 3), (6, 8), 24),
        pictures.whole(path, 40),
        pictures.around(path, (0, 0), (6, 8), 24),
        pictures.around(gone, (0, 0), (6, 8), 24),
        pictures.around(path, (2, 3), (6, 8), 24),
    ]
    assert asked == [0, 1, 2, 3, 0, 4, 5, 3]
    drawn = pictures.drawn(lambda *what: told.append(what[1:3]))
    assert [url is None for url in drawn] == [False, True, False, False, False, True]
    assert [opened(drawn[i]).size for i in (0, 2, 3, 4)] == [(40, 30), (40, 30), (24, 24), (24, 24)]
    assert told == [(i, 6) for i in range(1, 7)]


def test_what_is_around_a_cell_is_cut_from_there(tmp_path: Path) -> None:
    image = Image.new("RGB", (80, 60), "black")
    image.paste("white", (20, 10, 50, 40))
    image.save(tmp_path / "a.png")
    pictures = Pictures(Reading())
    pictures.around(str(tmp_path / "a.png"), (2, 3), (6, 8), 24)
    (url,) = pictures.drawn(lambda *_: None)
    assert np.asarray(opened(url)).min() > 250


def test_of_a_region_the_cell_lies_in_it_and_the_whole_is_shown(tmp_path: Path) -> None:
    image = Image.new("RGB", (180, 160), "black")
    image.paste("white", (120, 110, 150, 140))
    image.save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    pictures = Pictures(Reading(part=Part((180, 160), (100, 100, 80, 60))))
    pictures.around(path, (2, 3), (6, 8), 24)
    pictures.whole(path, 90)
    pictures.heated(path, np.ones((6, 8), np.float32), 90)
    seen, whole, heated = (opened(url) for url in pictures.drawn(lambda *_: None))
    assert np.asarray(seen).min() > 250
    assert whole.size == heated.size == (90, 80)
    lit = np.asarray(heated.convert("RGB")).max(axis=2)
    assert lit[:48, :88].max() < 30  # black, as it was
    assert lit[52:, 52:].min() > 100
