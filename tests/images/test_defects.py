from __future__ import annotations

import ast
import inspect
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomscan.errors import UnreadableImage
from anomscan.images import defects as module
from anomscan.images.defects import DEFECTS, picture_of, places, whole_image, with_defect, write_image
from anomscan.images.part import part_of
from anomscan.types import Pixels, Reading

PLAIN = Reading()


def part_on_a_table(side: int = 200) -> Pixels:
    """A bright disc with a fine pattern on a dark ground."""
    y, x = np.mgrid[:side, :side]
    disc = (y - side / 2) ** 2 + (x - side / 2) ** 2 < (side / 4) ** 2
    pattern = 15 * ((x // 3 + y // 3) % 2)
    pixels = np.where(disc, 150 + pattern, 40)[..., None] + np.zeros(3)
    return pixels.astype(np.uint8)


@pytest.mark.parametrize("kind", list(DEFECTS))
@pytest.mark.parametrize(("size", "contrast"), [(0.02, 80), (0.1, 20), (0.3, 120)])
def test_a_defect_has_its_size_and_its_contrast(kind: str, size: float, contrast: float) -> None:
    """It changes something, no pixel by more than asked, nothing farther away than asked."""
    pixels = part_on_a_table()
    where = places(pixels, PLAIN)
    reached = 0.0
    for seed in range(5):
        made, (row, column) = with_defect(
            pixels, where, DEFECTS[kind], size, contrast, np.random.default_rng(seed), PLAIN
        )
        change = np.abs(made.astype(int) - pixels).max(axis=2)
        assert change.max() <= contrast + 1
        reached = max(reached, float(change.max()))
        rows, columns = np.nonzero(change)
        far = 0.75 * size * 200 + 3
        assert (np.hypot(rows - row, columns - column) <= far).all()
        if kind != "blur" and size > 0.05:
            assert max(np.ptp(rows), np.ptp(columns)) >= 0.3 * size * 200
    assert reached >= 5


def test_a_defect_is_made_on_the_object() -> None:
    pixels = part_on_a_table()
    where = places(pixels, PLAIN)
    assert 0.15 < where.mean() < 0.25
    for seed in range(20):
        _, (row, column) = with_defect(
            pixels, where, DEFECTS["hole"], 0.05, 80, np.random.default_rng(seed), PLAIN
        )
        assert np.hypot(row - 100, column - 100) < 53


def test_where_there_is_no_object_a_defect_may_be_anywhere() -> None:
    noise = np.random.default_rng(0).integers(100, 140, (90, 150, 3)).astype(np.uint8)
    assert places(noise, PLAIN).all()
    assert places(np.full((50, 50, 3), 7, np.uint8), PLAIN).all()
    assert places(np.full((1, 1, 3), 7, np.uint8), PLAIN).shape == (1, 1)


def test_a_defect_is_made_where_the_model_looks() -> None:
    noise = np.random.default_rng(0).integers(100, 140, (100, 200, 3)).astype(np.uint8)
    region = Reading(part=part_of((200, 100), (100, 0, 100, 100), None))
    where = places(noise, region)
    columns = np.nonzero(where)[1]
    assert columns.min() >= where.shape[1] // 2
    white = np.zeros((100, 200), np.bool_)
    white[:50, :60] = True
    masked = places(noise, Reading(part=part_of((200, 100), None, white)))
    rows, columns = np.nonzero(masked)
    assert rows.max() < masked.shape[0] / 2
    assert columns.max() <= masked.shape[1] * 0.31


@pytest.mark.parametrize("side", [1, 8, 33])
@pytest.mark.parametrize("kind", list(DEFECTS))
def test_the_smallest_images_can_be_damaged(kind: str, side: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (side, side + 3, 3)).astype(np.uint8)
    made, _ = with_defect(
        pixels, places(pixels, PLAIN), DEFECTS[kind], 0.16, 80, np.random.default_rng(0), PLAIN
    )
    assert (made.shape, made.dtype) == (pixels.shape, np.uint8)


def test_the_same_seed_makes_the_same_defect() -> None:
    pixels = part_on_a_table()
    where = places(pixels, PLAIN)
    for defect in DEFECTS.values():
        first, again, other = (
            with_defect(pixels, where, defect, 0.1, 80, np.random.default_rng(seed), PLAIN)[0]
            for seed in (1, 1, 2)
        )
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()


def test_pixels_come_back_from_the_file_and_as_a_picture(tmp_path: Path) -> None:
    pixels = part_on_a_table()
    write_image(pixels, tmp_path / "a.png")
    np.testing.assert_array_equal(whole_image(str(tmp_path / "a.png"), PLAIN), pixels)
    (tmp_path / "p.webp").write_bytes(picture_of(pixels, 50))
    with Image.open(tmp_path / "p.webp") as image:
        assert image.size == (50, 50)
    with pytest.raises(UnreadableImage):
        whole_image(str(tmp_path / "gone.png"), PLAIN)


def test_they_are_not_those_that_choose_a_method() -> None:
    """No code is shared, and those need torch."""
    from anomscan.adapt import made_defects

    tree = ast.parse(inspect.getsource(module))
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not [name for name in names if name and "adapt" in name]
    chosen = {maker.__code__.co_code for maker in made_defects.PATCH.values()}
    assert not chosen & {defect.__code__.co_code for defect in DEFECTS.values()}
