from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from anomscan.errors import UsageError
from anomscan.images.find import find_images
from anomscan.images.tiles import OVERLAP, tile_size
from anomscan.images.tiling import SEEN, TileChoice, grid_for, parse_defect, parse_grid
from anomscan.types import Part, Preprocessing, Reading, Tiles

RULES = Preprocessing(224, 224, "bicubic", (0.0,) * 3, (1.0,) * 3)


def folder(path: Path, *sizes: tuple[int, int]) -> Path:
    path.mkdir()
    for number, size in enumerate(sizes):
        Image.new("L", size).save(path / f"{number}.png")
    return path


def test_grids_and_sizes_as_on_the_command_line() -> None:
    assert parse_grid("3x4") == parse_grid(" 3X4 ") == (3, 4)
    assert parse_defect("12px") == parse_defect("12") == parse_defect("12 PX") == 12


@pytest.mark.parametrize("text", ["3", "3x", "0x4", "3*4", "-1x2", "21x20", "3x4x5", "1.5x2", ""])
def test_what_is_no_grid(text: str) -> None:
    with pytest.raises(UsageError, match=r"--tiles takes RxC"):
        TileChoice(grid=text)


@pytest.mark.parametrize("text", ["0", "px", "-3", "1.5px", "12mm", ""])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match=r"--defect takes a size"):
        TileChoice(defect=text)


def test_one_of_the_two(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leave --tiles or --defect out"):
        TileChoice("3x4", "12px")


@pytest.mark.parametrize("defect", [6, 8, 12, 20, 50, 300])
@pytest.mark.parametrize("size", [(2000, 1500), (4096, 3000), (640, 480), (300, 3000)])
def test_a_defect_covers_enough_of_the_input_and_no_tile_is_enlarged(
    defect: int, size: tuple[int, int]
) -> None:
    rows, columns = grid_for(defect, size, RULES)
    for count, length in ((columns, size[0]), (rows, size[1])):
        side, _ = tile_size(Tiles(1, count, OVERLAP, size), (length, 1))
        enough = defect * 224 / side >= SEEN - 1e-6
        full = count == 1 or side >= 224 - 1e-6
        finer, _ = tile_size(Tiles(1, count + 1, OVERLAP, size), (length, 1))
        assert full
        assert enough or finer < 224  # more tiles would be enlarged
        if count > 1:
            coarser, _ = tile_size(Tiles(1, count - 1, OVERLAP, size), (length, 1))
            assert defect * 224 / coarser < SEEN  # fewer would not do


def test_the_example_of_the_documents() -> None:
    assert grid_for(12, (2000, 1500), RULES) == (6, 7)
    assert grid_for(60, (2000, 1500), RULES) == (1, 2)


def test_too_many_tiles_are_refused_in_one_sentence() -> None:
    with pytest.raises(UsageError, match=r"take \d+ x \d+ tiles, and 400 are the most"):
        grid_for(2, (8000, 6000), RULES)


def test_most_sources_decide_and_a_region_of_them(tmp_path: Path) -> None:
    sources = find_images(str(folder(tmp_path / "n", (800, 600), (800, 600), (30, 30))))
    assert TileChoice(grid="2x3").decide(sources, RULES) == Tiles(2, 3, OVERLAP, (800, 600))
    tiles = TileChoice(defect="12px").decide(sources, RULES)
    assert tiles == Tiles(2, 3, OVERLAP, (800, 600), 12)
    cut = replace(RULES, reading=Reading(part=Part((800, 600), (0, 0, 336, 600))))
    assert TileChoice(defect="12px").decide(sources, cut) == Tiles(2, 1, OVERLAP, (336, 600), 12)


def test_one_tile_is_the_whole_and_what_was_not_asked_for_stays(tmp_path: Path) -> None:
    sources = find_images(str(folder(tmp_path / "n", (300, 200))))
    before = replace(RULES, tiles=Tiles(5, 5, OVERLAP, (1, 1)))
    assert TileChoice(grid="1x1").decide(sources, before) is None
    assert TileChoice(defect="90").decide(sources, before) is None
    assert TileChoice().decide(sources, before) == before.tiles
    assert TileChoice().decide(sources, RULES) is None


def test_images_that_cannot_be_read_decide_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    sources = find_images(str(tmp_path))
    assert TileChoice(grid="2x2").decide(sources, RULES) == Tiles(2, 2, OVERLAP, (1, 1))
    assert TileChoice(defect="5px").decide(sources, RULES) is None
