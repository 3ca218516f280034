from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anomscan.images.tiles import OVERLAP
from anomscan.scoring.bank import Bank
from anomscan.scoring.base import Apart
from anomscan.scoring.focused import Focused
from anomscan.scoring.patches import peaks
from anomscan.scoring.reduction import Reduction
from anomscan.scoring.registry import make_scorer, parse_scorer
from anomscan.scoring.tiled import Tiled, tiled
from anomscan.types import Outputs, PatchMaps, Tiles
from tests.scoring.features import unit

TILES = Tiles(2, 3, OVERLAP, (300, 200))
COUNT, SIDE = TILES.count, 7


def tiles_of(count: int, seed: int = 0) -> Outputs:
    """Features and patches of the tiles of so many images, a row a tile."""
    rows = count * COUNT
    patches = np.random.default_rng(seed).normal(size=(rows, SIDE, SIDE, 5)).astype(np.float32)
    return Outputs(unit(rows, seed=seed + 1000), patches)


def names(count: int) -> list[str]:
    return [f"/n/{i}.png" for i in range(count)]


def fitted(count: int = 8, scorer: str = "knn", *, patches: bool = False) -> Tiled:
    normals = tiles_of(count).folded(COUNT)
    inner = make_scorer(parse_scorer(scorer))
    if patches:
        bank = Bank(tiles=COUNT)
        assert normals.patches is not None
        bank.add(normals.patches, names(count))
        inner = Focused.of(inner, "both", bank, seed=0)
    found = tiled(inner, TILES)
    found.fit(normals, seed=0)
    assert isinstance(found, Tiled)
    return found


def test_without_tiles_nothing_stands_between() -> None:
    scorer, outputs = make_scorer(parse_scorer("knn")), tiles_of(2)
    assert tiled(scorer, None) is scorer
    assert outputs.folded(1) is outputs
    assert outputs.unfolded(1) is outputs
    maps = PatchMaps(np.zeros((1, 2, 2), np.float32), np.zeros((1, 2, 2), np.int64))
    assert scorer.pictured(maps) is maps
    assert scorer.mean(outputs.image) is outputs.image


def test_outputs_of_tiles_stand_side_by_side_and_come_back() -> None:
    single = tiles_of(3)
    single = replace(
        single, maps=PatchMaps(np.ones((18, 4, 5), np.float32), np.arange(360).reshape(18, 4, 5))
    )
    together = single.folded(COUNT)
    assert len(together) == 3
    assert single.patches is not None
    assert together.patches is not None
    assert together.maps is not None
    assert together.image.shape == (3, COUNT * single.image.shape[1])
    assert together.patches.shape == (3, COUNT * SIDE, SIDE, 5)
    assert together.maps.distances.shape == (3, COUNT * 4, 5)
    again = together.unfolded(COUNT)
    np.testing.assert_array_equal(again.image, single.image)
    np.testing.assert_array_equal(again.patches, single.patches)
    assert again.maps is not None
    np.testing.assert_array_equal(again.maps.nearest, np.arange(360).reshape(18, 4, 5))


@pytest.mark.parametrize("scorer", ["knn", "knn-euclidean", "kmeans:5", "mahalanobis"])
def test_the_score_is_the_largest_of_the_tiles(scorer: str) -> None:
    found, new = fitted(scorer=scorer), tiles_of(4, seed=1)
    each = found.tile.score(new, 2).reshape(4, COUNT)
    np.testing.assert_array_equal(found.score(new.folded(COUNT), 2), each.max(axis=1))


def test_what_is_said_of_an_image_is_that_of_its_farthest_tile() -> None:
    found, new = fitted(patches=True), tiles_of(4, seed=1)
    together = found.compared(new.folded(COUNT))
    judged = found.judge(together, 2)
    apart = found.tile.judge(found.tile.compared(new), 2)
    rows = apart.scores.reshape(4, COUNT).argmax(axis=1) + COUNT * np.arange(4)
    np.testing.assert_array_equal(judged.scores, apart.scores[rows])
    np.testing.assert_array_equal(judged.nearest, apart.nearest[rows])
    np.testing.assert_array_equal(judged.outputs.image, new.image[rows])
    for name in ("image_score", "patch_score"):
        np.testing.assert_array_equal(judged.aspects[name], apart.aspects[name][rows])
    scores, nearest = found.score_and_nearest(together, 2)
    np.testing.assert_array_equal(scores, judged.scores)
    np.testing.assert_array_equal(nearest, judged.nearest)
    assert found.aspects(together, 2).keys() == judged.aspects.keys()
    assert judged.outputs.maps is not None
    assert judged.outputs.maps.distances.shape == (4, 13, 19)  # 2 * 7 - 1 and 3 * 7 - 2


def test_an_image_is_a_normal_where_all_of_its_tiles_are() -> None:
    found, normals = fitted(), tiles_of(8)
    together = normals.folded(COUNT)
    assert found.known(together.image).all()
    assert found.judge(Outputs(together.image), 2).known.all()
    mixed = normals.image.reshape(8, COUNT, -1).copy()
    mixed[3, 5] = tiles_of(1, seed=9).image[0]
    mixed = mixed.reshape(8, -1)
    assert found.known(mixed).tolist() == [i != 3 for i in range(8)]
    assert found.judge(Outputs(mixed), 2).known.tolist() == [i != 3 for i in range(8)]


def test_vectors_of_the_gallery_are_tiles_and_rows_are_images() -> None:
    normals = tiles_of(8).folded(COUNT)
    found = tiled(make_scorer(parse_scorer("knn")), TILES)
    indexed = found.fit(normals, seed=0)
    assert len(found.gallery) == 8 * COUNT
    assert indexed.rows.tolist() == [i for i in range(8) for _ in range(COUNT)]
    few = tiled(make_scorer(parse_scorer("knn")), TILES)
    reduced = few.fit(normals, seed=0, reduction=Reduction.parse("coreset:10"))
    assert len(few.gallery) == len(reduced.rows) == 10
    assert set(reduced.rows.tolist()) <= set(range(8))


def test_the_other_tiles_of_a_normal_are_no_other_normals() -> None:
    """All tiles of an image look the same here: only those of other images may count."""
    generator = np.random.default_rng(5)
    own = unit(8, seed=3)
    each = np.repeat(own, COUNT, axis=0) + 1e-4 * generator.normal(size=(8 * COUNT, own.shape[1]))
    each = (each / np.linalg.norm(each, axis=1, keepdims=True)).astype(np.float32)
    scorer = make_scorer(parse_scorer("knn"))
    indexed = scorer.fit(Outputs(each), seed=0)
    away = 1 - each @ each.T
    image = np.arange(len(each)) // COUNT
    away[image[:, None] == image] = np.inf
    expected = np.sort(away, axis=1)[:, :2].sum(axis=1)
    found = scorer.among_others(Outputs(each), COUNT, indexed.rows)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (found > 0.1).all()
    assert (scorer.among_others(Outputs(each), 1, indexed.rows) < 0.01).all()
    reduced = make_scorer(parse_scorer("knn"))
    some = reduced.fit(Outputs(each), seed=0, reduction=Reduction.parse("coreset:12"))
    assert (reduced.among_others(Outputs(each), COUNT, some.rows) > 0.1).all()


def test_spreads_of_normals_are_those_of_tiles_among_other_images() -> None:
    """Every image has patches of its own kind, the same in all of its tiles."""
    count = 10
    patches = np.random.default_rng(1).normal(size=(count, 1, SIDE, SIDE, 5)).astype(np.float32)
    patches = np.repeat(patches, COUNT, axis=1)
    patches += 0.001 * np.random.default_rng(2).normal(size=patches.shape).astype(np.float32)
    normals = Outputs(unit(count * COUNT), patches.reshape(-1, SIDE, SIDE, 5)).folded(COUNT)
    bank = Bank(tiles=COUNT)
    assert normals.patches is not None
    bank.add(normals.patches, names(count))
    positions, sample = bank.sample()
    assert sample.shape == (count, SIDE, SIDE, 5)
    assert positions.tolist() == list(range(count))
    focused = Focused.of(make_scorer(parse_scorer("knn")), "both", bank, seed=0)
    alone = np.array(
        [peaks(focused.patches.maps(patches[i, i % COUNT][None]).distances)[0] for i in range(count)]
    )
    assert np.log(alone).mean() < focused.patch_info.peak.mean - 2


@pytest.mark.parametrize("overlap", [0.0, OVERLAP, 0.2, 0.5])
@pytest.mark.parametrize("side", [5, 8, 14, 21])
@pytest.mark.parametrize("grid", [(1, 2), (2, 3), (5, 4)])
def test_a_hot_patch_is_hot_at_its_place_in_the_image(
    grid: tuple[int, int], side: int, overlap: float
) -> None:
    shape = Tiles(*grid, overlap, (1, 1))
    scorer = Tiled(make_scorer(parse_scorer("knn")), shape)
    for tile in range(shape.count):
        for row, column in ((0, 0), (side // 2, side - 1), (side - 1, 1)):
            distances = np.zeros((1, shape.count * side, side), np.float32)
            distances[0, tile * side + row, column] = 2
            nearest = np.arange(distances.size).reshape(distances.shape)
            whole = scorer.pictured(PatchMaps(distances, nearest))
            found = np.argwhere(whole.distances[0] == 2)
            assert len(found) >= 1
            high, wide = (count - (count - 1) * overlap for count in grid)
            y = (tile // grid[1] * (1 - overlap) + (row + 0.5) / side) / high
            x = (tile % grid[1] * (1 - overlap) + (column + 0.5) / side) / wide
            for down, across in found:
                assert abs((down + 0.5) / whole.distances.shape[1] - y) <= 0.75 / (side * high)
                assert abs((across + 0.5) / whole.distances.shape[2] - x) <= 0.75 / (side * wide)
                assert whole.nearest[0, down, across] == nearest[0, tile * side + row, column]


def test_where_tiles_overlap_patches_lie_on_each_other_and_the_larger_distance_counts() -> None:
    scorer = Tiled(make_scorer(parse_scorer("knn")), Tiles(1, 2, OVERLAP, (1, 1)))
    distances = np.random.default_rng(0).uniform(size=(3, 2 * 14, 14)).astype(np.float32)
    whole = scorer.pictured(PatchMaps(distances, np.zeros(distances.shape, np.int64))).distances
    assert whole.shape == (3, 14, 26)
    left, right = distances[:, :14], distances[:, 14:]
    np.testing.assert_array_equal(whole[:, :, :12], left[:, :, :12])
    np.testing.assert_array_equal(whole[:, :, 14:], right[:, :, 2:])
    np.testing.assert_array_equal(whole[:, :, 12:14], np.maximum(left[:, :, 12:], right[:, :, :2]))


def test_a_patch_of_the_gallery_is_found_on_the_grid_of_its_image() -> None:
    found = fitted(patches=True)
    assert found.patches is not None
    for position in range(0, len(found.patches), 97):
        path, row, column = found.origin(position)
        inner, tall, across = found.patches.origin(position)
        assert path == inner
        distances = np.zeros((1, COUNT * SIDE, SIDE), np.float32)
        distances[0, tall, across] = 1
        whole = found.pictured(PatchMaps(distances, np.zeros(distances.shape, np.int64))).distances
        assert whole[0, row, column] == 1


def test_the_feature_of_a_whole_image_is_the_mean_of_its_tiles() -> None:
    found, new = fitted(), tiles_of(3, seed=1)
    expected = new.image.reshape(3, COUNT, -1).mean(axis=1)
    np.testing.assert_allclose(found.mean(new.folded(COUNT).image), expected, rtol=1e-6)


def test_its_files_are_those_of_the_scorer_of_tiles(tmp_path: Path) -> None:
    found = fitted(patches=True)
    assert found.save(tmp_path).keys() == {"index", "scorer", "patches", "places"}


@pytest.mark.parametrize("patches", [False, True])
def test_an_images_tiles_leave_together(patches: bool) -> None:
    scorer, normals = fitted(5, patches=patches), tiles_of(5).folded(COUNT)
    assert scorer.compares_apart
    numbers = np.arange(5)
    apart = Apart(numbers, np.repeat(numbers, COUNT), dict(zip(names(5), range(5), strict=True)))
    found = scorer.apart(normals, 2, apart)
    assert found.shape == (5,)
    assert (found > scorer.score(scorer.compared(normals), 2)).all()
    if not patches:
        distances = 1 - tiles_of(5).image @ tiles_of(5).image.T
        distances[np.repeat(numbers, COUNT)[:, None] == np.repeat(numbers, COUNT)] = np.inf
        expected = np.sort(distances, axis=1)[:, :2].sum(axis=1).reshape(5, COUNT).max(axis=1)
        np.testing.assert_allclose(found, expected, atol=1e-5)
