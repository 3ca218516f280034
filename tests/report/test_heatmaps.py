from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomscan.errors import OutputError
from anomscan.report.heatmaps import (
    MOST_REGIONS,
    Scale,
    heat,
    heatmap_name,
    hottest,
    patch_box,
    regions,
    write_heatmaps,
)
from anomscan.types import Features, Reading
from tests.conftest import draw, silent

SCALE = Scale(1.0, 3.0)


def distances(*hot: tuple[int, int, float], shape: tuple[int, int] = (8, 10)) -> Features:
    made = np.full(shape, 0.5, np.float32)
    for row, column, value in hot:
        made[row, column] = value
    return made


def test_heat_rises_from_dark_to_bright() -> None:
    found = heat(np.array([[0, 1, 2], [2.5, 3, 9]], np.float32), SCALE)
    assert found.tolist() == [[0, 0, 0.5], [0.75, 1, 1]]
    assert found.dtype == np.float32
    assert heat(np.array([[0, 1, 2]], np.float32), Scale(1, 1)).tolist() == [[0, 0, 1]]


def test_regions_are_boxes_of_touching_patches_the_hottest_first() -> None:
    found = distances((0, 0, 2), (1, 1, 3), (1, 2, 2), (7, 9, 5), (4, 5, 1))
    assert regions(found, 1.0, (0, 0, 100, 160)) == [(90, 140, 10, 20), (0, 0, 30, 40)]
    assert regions(distances(), 1.0, (0, 0, 100, 160)) == []
    assert regions(found, 0.1, (0, 0, 100, 160)) == [(0, 0, 100, 160)]


def test_boxes_lie_where_the_distances_do() -> None:
    found = distances((0, 0, 2), (7, 9, 5))
    assert regions(found, 1.0, (30, 50, 100, 160)) == [(120, 190, 10, 20), (30, 50, 10, 20)]
    assert patch_box(3, 4, found.shape, (30, 50, 100, 160)) == (60, 90, 30, 60)
    assert patch_box(7, 9, found.shape, (30, 50, 3, 2)) == (32, 51, 1, 1)


def test_of_many_regions_the_hottest_are_shown() -> None:
    found = np.zeros((10, 20), np.float32)
    found[::2, ::2] = np.arange(1, 51).reshape(5, 10)
    boxes = regions(found, 0.5, (0, 0, 200, 100))
    assert len(boxes) == MOST_REGIONS
    assert boxes[0] == (180, 80, 10, 10)
    assert boxes[1] == (160, 80, 10, 10)


def test_the_hottest_patch_and_what_is_around_it() -> None:
    found = distances((3, 4, 2), (5, 1, 2))
    assert hottest(found) == (3, 4)
    assert patch_box(3, 4, found.shape, (0, 0, 100, 160)) == (30, 40, 30, 60)
    assert patch_box(0, 9, found.shape, (0, 0, 100, 160)) == (80, 0, 20, 40)
    assert patch_box(3, 4, found.shape, (0, 0, 100, 160), patches=1) == (40, 60, 10, 20)
    assert patch_box(3, 4, found.shape, (0, 0, 3, 2)) == (1, 0, 1, 1)  # finer than the picture
    assert patch_box(7, 9, found.shape, (0, 0, 3, 2))[2:] == (1, 1)


def test_a_heat_map_an_image_named_by_its_rank(tmp_path: Path) -> None:
    names = [os.fsdecode(b"caf\xe9 \xff.png"), "b.jpg", "gone.png"]
    for seed, name in enumerate(names[:2]):
        draw(seed).resize((90, 70)).save(tmp_path / name)
    Image.new("L", (40, 40), 9).save(
        tmp_path / "scan.tif", save_all=True, append_images=[Image.new("L", (30, 20), 90)]
    )
    told: list[tuple[int, int | None]] = []
    images = [(str(tmp_path / name), distances((2, 3, 4))) for name in [*names, "scan.tif#2"]]
    count = write_heatmaps(
        str(tmp_path / "new" / "heat"), images, SCALE, Reading(), lambda _, i, n, __: told.append((i, n))
    )
    out = tmp_path / "new" / "heat"
    assert sorted(os.listdir(out)) == [
        os.fsdecode(b"0001_caf\xe9 \xff.jpg"),
        "0002_b.jpg",
        "0004_scan-2.jpg",
    ]
    assert count == 3
    assert told == [(i, 4) for i in (1, 2, 3, 4)]
    with Image.open(out / "0002_b.jpg") as first, Image.open(out / "0004_scan-2.jpg") as second:
        assert (first.size, second.size) == ((90, 70), (30, 20))


def test_images_may_come_one_after_the_other(tmp_path: Path) -> None:
    draw(0).save(tmp_path / "a.png")

    def images() -> Iterator[tuple[str, Features]]:
        for _ in range(5):
            yield str(tmp_path / "a.png"), distances()

    assert write_heatmaps(str(tmp_path / "out"), images(), SCALE, Reading(), silent) == 5
    assert len(os.listdir(tmp_path / "out")) == 5


def test_heat_maps_are_written_anew_but_nothing_else_is(tmp_path: Path) -> None:
    """The folder may be that of the images, with one of the name of a heat map in it."""
    draw(0).save(tmp_path / "a.jpg")
    images = [(str(tmp_path / "a.jpg"), distances((2, 3, 4)))]
    for _ in range(2):
        assert write_heatmaps(str(tmp_path), images, SCALE, Reading(), silent) == 1
    draw(1).save(tmp_path / "0001_a.jpg")
    before = (tmp_path / "0001_a.jpg").read_bytes()
    with pytest.raises(OutputError, match="that is no heat map"):
        write_heatmaps(str(tmp_path), images, SCALE, Reading(), silent)
    assert (tmp_path / "0001_a.jpg").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["0001_a.jpg", "a.jpg"]


def test_a_folder_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="cannot write"):
            write_heatmaps(str(folder), [], SCALE, Reading(), silent)


def test_long_names_are_cut(tmp_path: Path) -> None:
    assert heatmap_name(3, "x/" + "é" * 120 + ".png") == "0003_" + "é" * 100 + ".jpg"
    assert heatmap_name(12345, "x.tar.png") == "12345_x.tar.jpg"
    draw(0).save(tmp_path / ("y" * 250 + ".png"))
    images = [(str(tmp_path / ("y" * 250 + ".png")), distances())]
    assert write_heatmaps(str(tmp_path / "out"), images, SCALE, Reading(), silent) == 1
