"""SPADE's equations by brute force, and the whole as a scorer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anomscan.errors import ModelDamaged, UsageError
from anomscan.scoring import spade as module
from anomscan.scoring.every_patch import WholeBank
from anomscan.scoring.reduction import Reduction
from anomscan.scoring.registry import make_scorer, parse_scorer, scorer_class
from anomscan.scoring.spade import NORMALS, Spade
from anomscan.types import Features, Outputs

SIDE, LENGTH = 4, 5


def images(count: int, seed: int = 0) -> Outputs:
    """Features, (count, 8), and patches, (count, 4, 4, 5), that fit into 16 bits."""
    generator = np.random.default_rng(seed)
    patches = generator.normal(size=(count, SIDE, SIDE, LENGTH)).astype(np.float16).astype(np.float32)
    return Outputs(generator.normal(size=(count, 8)).astype(np.float32), patches)


def patches_of(outputs: Outputs) -> Features:
    assert outputs.patches is not None
    return outputs.patches


def fitted(normals: Outputs) -> Spade:
    bank = WholeBank()
    bank.add(patches_of(normals), [f"/n/{i}.png" for i in range(len(normals))])
    scorer = Spade.of(make_scorer(parse_scorer("knn-euclidean")), "patch", bank, seed=0)
    scorer.fit(normals, seed=0)
    return scorer


@pytest.mark.parametrize(("k", "kappa"), [(50, 1), (7, 1), (7, 5)])
def test_score_and_map_are_those_of_the_paper(k: int, kappa: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NORMALS", k)
    monkeypatch.setattr(module, "NEIGHBOURS", kappa)
    normals, new = images(60), images(5, seed=1)
    scorer = fitted(normals)
    maps = scorer.compared(new).maps
    assert maps is not None
    for i in range(5):
        away = np.linalg.norm(normals.image - new.image[i], axis=1)
        nearest = np.argsort(away)[:k]
        assert scorer.score(new, 2)[i] == pytest.approx(away[nearest].mean(), rel=1e-5)
        gallery = patches_of(normals)[nearest].reshape(-1, LENGTH)
        for row in range(SIDE):
            for column in range(SIDE):
                distances = np.linalg.norm(gallery - patches_of(new)[i, row, column], axis=1)
                expected = np.sort(distances)[:kappa].mean()
                assert maps.distances[i, row, column] == pytest.approx(expected, rel=1e-3)
                path, *place = scorer.origin(int(maps.nearest[i, row, column]))
                found = patches_of(normals)[int(Path(path).stem), place[0], place[1]]
                assert np.linalg.norm(found - patches_of(new)[i, row, column]) == pytest.approx(
                    distances.min(), rel=1e-3
                )


def test_with_fewer_normals_all_are_neighbours() -> None:
    normals, new = images(3), images(2, seed=1)
    scorer = fitted(normals)
    assert scorer.info.k == 3
    away = np.linalg.norm(normals.image - new.image[:, None], axis=2)
    np.testing.assert_allclose(scorer.score(new, 2), away.mean(axis=1), rtol=1e-5)
    assert np.isfinite(fitted(images(1)).score(new, 1)).all()
    assert fitted(images(80)).info.k == NORMALS


def test_pictures_are_dark_by_the_nearest_others() -> None:
    normals = images(20)
    scorer = fitted(normals)
    hottest = []
    for i in range(16):
        others = np.delete(patches_of(normals), i, axis=0).reshape(-1, LENGTH)
        away = np.linalg.norm(patches_of(normals)[i][..., None, :] - others, axis=3)
        hottest.append(away.min(axis=2).max())
    assert scorer.patch_info.dark == pytest.approx(np.quantile(hottest, 0.95), rel=1e-3)
    assert fitted(images(1)).patch_info.dark > 0


def test_it_is_read_as_it_was_written_and_goes_with_its_gallery(tmp_path: Path) -> None:
    scorer, new = fitted(images(10)), images(3, seed=1)
    files = scorer.save(tmp_path)
    image = scorer_class(scorer.info.name).load(scorer.info, files)
    again = Spade.over(image, scorer.patch_info, files)
    before, after = scorer.compared(new), again.compared(new)
    assert before.maps is not None
    assert after.maps is not None
    np.testing.assert_array_equal(after.maps.distances, before.maps.distances)
    np.testing.assert_array_equal(again.score(new, 2), scorer.score(new, 2))
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ModelDamaged, match="of other normals than the gallery's; adapt again"):
        Spade.over(image, scorer.patch_info, fitted(images(9)).save(other))


def test_normals_are_ranked_as_whole_images() -> None:
    scorer = fitted(images(4))
    assert not scorer.ranks_by_patches
    assert not scorer.patches_apart(np.arange(4), np.arange(4), patches_of(images(4))).any()


def test_a_reduced_gallery_is_refused() -> None:
    Spade.check(None)
    with pytest.raises(UsageError, match="leave --reduce out"):
        Spade.check(Reduction("coreset", 10))


def test_an_image_has_the_same_map_alone_and_among_others() -> None:
    scorer, new = fitted(images(10)), images(5, seed=1)
    together = scorer.compared(new).maps
    alone = scorer.compared(replace(new, image=new.image[2:3], patches=patches_of(new)[2:3])).maps
    assert together is not None
    assert alone is not None
    np.testing.assert_array_equal(alone.distances[0], together.distances[2])
