"""PaDiM's equations by brute force, and the whole as a scorer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomscan.errors import ModelDamaged
from anomscan.scoring.base import INDEX, SCORER
from anomscan.scoring.every_patch import WholeBank
from anomscan.scoring.padim import GAUSSIANS, REGULAR, Gaussians, Padim
from anomscan.scoring.patches import PATCHES, PLACES
from anomscan.scoring.registry import make_scorer, parse_scorer, scorer_class
from anomscan.types import Features, Outputs
from tests.scoring.features import unit

ROWS, COLUMNS, LENGTH = 3, 4, 5


def images(count: int, seed: int = 0) -> Outputs:
    """Features and patches, (count, 3, 4, 5), that differ by place and fit into 16 bits."""
    generator = np.random.default_rng(seed)
    places = np.random.default_rng(7).normal(size=(ROWS, COLUMNS, LENGTH)) * 5
    patches = (places + generator.normal(size=(count, ROWS, COLUMNS, LENGTH))).astype(np.float16)
    return Outputs(unit(count, seed=seed + 1000), patches.astype(np.float32))


def patches_of(outputs: Outputs) -> Features:
    assert outputs.patches is not None
    return outputs.patches


def fitted(normals: Outputs) -> Padim:
    bank = WholeBank()
    bank.add(patches_of(normals), [f"/n/{i}.png" for i in range(len(normals))])
    scorer = Padim.of(make_scorer(parse_scorer("knn-euclidean")), "patch", bank, seed=0)
    scorer.fit(normals, seed=0)
    return scorer


def by_hand(normals: Features, image: Features, regular: float = REGULAR) -> Features:
    """Eq. 1 and 2 as they stand: of (n, rows, columns, C) and (rows, columns, C)."""
    found = np.empty(image.shape[:2])
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            own = normals[:, row, column].astype(np.float64)
            mean = own.sum(axis=0) / len(own)
            covariance = sum(np.outer(x - mean, x - mean) for x in own) / (len(own) - 1)
            covariance = covariance + regular * np.eye(own.shape[1])
            away = image[row, column] - mean
            found[row, column] = np.sqrt(away @ np.linalg.inv(covariance) @ away)
    return found.astype(np.float32)


def test_map_and_score_are_those_of_the_paper() -> None:
    normals, new = images(30), images(4, seed=1)
    scorer = fitted(normals)
    maps = scorer.compared(new).maps
    assert maps is not None
    expected = np.array([by_hand(patches_of(normals), image) for image in patches_of(new)])
    np.testing.assert_allclose(maps.distances, expected, rtol=1e-4)
    np.testing.assert_allclose(scorer.score(new, 2), expected.max(axis=(1, 2)), rtol=1e-4)
    assert (maps.nearest == -1).all()


def test_what_is_right_elsewhere_is_wrong_here() -> None:
    scorer, new = fitted(images(30)), images(1, seed=1)
    before = scorer.score(new, 2)[0]
    patches_of(new)[0, 0, 0] = patches_of(new)[0, 2, 3]
    assert scorer.score(new, 2)[0] > 2 * before


def test_fewer_normals_than_components_are_enough() -> None:
    for count in (1, 2, 3):
        scorer = fitted(images(count))
        assert np.isfinite(scorer.score(images(2, seed=1), scorer.info.k)).all()
        assert np.isfinite(scorer.patch_info.dark)


@pytest.mark.parametrize("count", [4, 12, 40])
def test_a_normal_is_compared_with_gaussians_of_the_others(count: int) -> None:
    normals = images(count)
    scorer, own = fitted(normals), np.arange(count)
    apart = scorer.patches_apart(own, own, patches_of(normals))
    for i, image in enumerate(patches_of(normals)):
        others = np.delete(patches_of(normals), i, axis=0)
        exact = by_hand(others, image, REGULAR * (count - 1) / (count - 2)).max()
        assert apart[i] == pytest.approx(float(exact), rel=2e-2)
    new = images(3, seed=1)
    unknown = scorer.patches_apart(-1 - np.arange(3), own, patches_of(new))
    np.testing.assert_array_equal(unknown, scorer.score(new, 2))


def test_gaussians_are_those_of_their_places() -> None:
    patches = patches_of(images(20)).astype(np.float16)
    gaussians = Gaussians.of(patches)
    flat = patches.reshape(20, -1, LENGTH).astype(np.float64)
    np.testing.assert_allclose(gaussians.means, flat.mean(axis=0), rtol=1e-4)
    for place, factor in enumerate(gaussians.factors.astype(np.float64)):
        covariance = np.cov(flat[:, place].T) + REGULAR * np.eye(LENGTH)
        np.testing.assert_allclose(factor.T @ factor @ covariance, np.eye(LENGTH), atol=1e-3)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    scorer, new = fitted(images(10)), images(3, seed=1)
    files = scorer.save(tmp_path)
    assert set(files) == {INDEX, SCORER, PATCHES, PLACES, GAUSSIANS} == {INDEX, SCORER, *Padim.roles}
    image = scorer_class(scorer.info.name).load(scorer.info, files)
    again = Padim.over(image, scorer.patch_info, files)
    np.testing.assert_array_equal(again.score(new, 2), scorer.score(new, 2))
    own = np.arange(10)
    normals = patches_of(images(10))
    np.testing.assert_array_equal(
        again.patches_apart(own, own, normals), scorer.patches_apart(own, own, normals)
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("means", None),
        ("factors", None),
        ("means", np.zeros((ROWS * COLUMNS, LENGTH))),
        ("means", np.zeros((ROWS * COLUMNS, LENGTH + 1), np.float32)),
        ("factors", np.zeros((ROWS * COLUMNS - 1, LENGTH, LENGTH), np.float32)),
        ("factors", np.full((ROWS * COLUMNS, LENGTH, LENGTH), np.nan, np.float32)),
        ("factors", np.array(["x"])),
    ],
)
def test_gaussians_that_do_not_fit_are_damage(tmp_path: Path, name: str, value: Any) -> None:
    scorer = fitted(images(10))
    files = scorer.save(tmp_path)
    with np.load(files[GAUSSIANS]) as arrays:
        content = {**arrays, name: value}
    np.savez(files[GAUSSIANS], **{key: array for key, array in content.items() if array is not None})
    with pytest.raises(ModelDamaged, match=r"gaussians\.npz does not go with the patches"):
        Padim.over(scorer.whole, scorer.patch_info, files)


def test_patches_of_another_length_are_damage() -> None:
    scorer = fitted(images(10))
    with pytest.raises(ModelDamaged, match="patches of another length than 5; adapt again"):
        scorer.score(Outputs(unit(1), np.zeros((1, ROWS, COLUMNS, 6), np.float32)), 2)
