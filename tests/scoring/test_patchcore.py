"""PatchCore's equations by brute force, and the whole as a scorer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anomscan.errors import ModelDamaged, UsageError
from anomscan.network.graph import GraphOutputs
from anomscan.scoring import bank as bank_module
from anomscan.scoring.base import INDEX, SCORER
from anomscan.scoring.patchcore import NEIGHBOURS, CoresetBank, PatchCore
from anomscan.scoring.patches import PATCHES, PLACES
from anomscan.scoring.registry import make_scorer, parse_scorer, scorer_class
from anomscan.types import Features, Outputs
from tests.scoring.features import unit

SIDE, LENGTH = 6, 5


def images(count: int, seed: int = 0) -> Outputs:
    """Features and patches, (count, 6, 6, 5), all alike but by chance."""
    patches = np.random.default_rng(seed).normal(size=(count, SIDE, SIDE, LENGTH)).astype(np.float32)
    return Outputs(unit(count, seed=seed + 1000), patches)


def patches_of(outputs: Outputs) -> Features:
    assert outputs.patches is not None
    return outputs.patches


def fitted(normals: Outputs, most: int = 10_000) -> PatchCore:
    gathered = CoresetBank(most)
    gathered.add(patches_of(normals), [f"/n/{i}.png" for i in range(len(normals))])
    scorer = PatchCore.of(make_scorer(parse_scorer("knn-euclidean")), "patch", gathered, seed=0)
    scorer.fit(normals, seed=0)
    return scorer


def by_hand(patches: Features, memory: Features, b: int) -> float:
    """Eq. 6 and 7 as they stand, for the patches of an image, (P, C), and the memory bank, (M, C)."""
    away = np.linalg.norm(patches[:, None].astype(np.float64) - memory, axis=2)
    test = int(away.min(axis=1).argmax())
    star = int(away[test].argmin())
    s_star = away[test, star]
    nearest = np.argsort(np.linalg.norm(memory - memory[star], axis=1))[:b]
    weight = 1 - np.exp(s_star) / np.exp(away[test, nearest]).sum()
    return float(weight * s_star)


def test_the_score_is_that_of_the_paper() -> None:
    scorer, new = fitted(images(30)), images(6, seed=1)
    memory = scorer.patches.held().features
    expected = [by_hand(image.reshape(-1, LENGTH), memory, NEIGHBOURS) for image in patches_of(new)]
    np.testing.assert_allclose(scorer.score(new, 2), expected, rtol=1e-5)
    maps = scorer.compared(new).maps
    assert maps is not None
    away = np.linalg.norm(patches_of(new).reshape(6, -1, 1, LENGTH) - memory, axis=3).min(axis=2)
    np.testing.assert_allclose(maps.distances.reshape(6, -1), away, rtol=1e-4)
    assert (scorer.score(new, 2) < maps.distances.max(axis=(1, 2))).all()


def test_large_distances_do_not_overflow() -> None:
    scorer, new = fitted(images(30)), images(2, seed=1)
    patches_of(new)[:, 2, 3] += 1e4
    scores = scorer.score(new, 2)
    assert (scores > 1e4).all()
    assert np.isfinite(scores).all()


def test_a_memory_smaller_than_the_neighbourhood_is_all_of_it() -> None:
    scorer, new = fitted(images(2)), images(3, seed=1)
    memory = scorer.patches.held().features
    assert len(memory) == 7 < NEIGHBOURS
    expected = [by_hand(image.reshape(-1, LENGTH), memory, len(memory)) for image in patches_of(new)]
    np.testing.assert_allclose(scorer.score(new, 2), expected, rtol=1e-5)


def test_a_tenth_of_all_patches_is_kept_and_no_more_than_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(fitted(images(30)).patches) == round(0.1 * 30 * SIDE**2)
    assert len(fitted(images(30), most=50).patches) == 50
    monkeypatch.setattr(bank_module, "WAITING", 100)
    gathered = CoresetBank()
    for part in np.split(patches_of(images(30)), 10):
        gathered.add(part, ["x"] * len(part))
        assert len(gathered.patches()) <= 0.1 * len(gathered.paths) * SIDE**2 + 1
    assert len(gathered.patches()) == 108


def test_what_was_kept_stands_for_ten_times_as_many() -> None:
    """Normals that are added bring a tenth of theirs, and what was there stays."""
    before = fitted(images(30)).patches
    again = CoresetBank.of(before.held(), before.paths, before.grid, 10_000, 0)
    again.add(patches_of(images(10, seed=1)), ["y"] * 10)
    assert len(again.patches()) == 108 + 36


def test_an_image_has_the_same_score_alone_and_among_others() -> None:
    scorer, new = fitted(images(30)), images(6, seed=1)
    together = scorer.score(new, 2)
    for i in range(6):
        alone = Outputs(new.image[i : i + 1], patches_of(new)[i : i + 1])
        assert scorer.score(alone, 2)[0] == pytest.approx(float(together[i]), rel=1e-6)


def test_normals_are_compared_with_those_of_others() -> None:
    normals = images(30)
    scorer = fitted(normals)
    own = np.arange(30)
    apart = scorer.patches_apart(own, own, patches_of(normals))
    memory, origins = scorer.patches.held().features, scorer.patches.images
    for i, image in enumerate(patches_of(normals)):
        away = np.linalg.norm(image.reshape(-1, 1, LENGTH) - memory[origins != i], axis=2)
        assert apart[i] == pytest.approx(away.min(axis=1).max(), rel=1e-4)
    assert scorer.patch_info.dark == pytest.approx(np.quantile(apart, 0.95), rel=0.01)


def test_aspects_are_both_scores_and_the_score_is_that_of_the_patches() -> None:
    scorer, new = fitted(images(30)), images(4, seed=1)
    aspects = scorer.aspects(new, 2)
    np.testing.assert_array_equal(aspects["image_score"], scorer.whole.score(new, 2))
    np.testing.assert_array_equal(aspects["patch_score"], scorer.score(new, 2))


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    scorer, new = fitted(images(30)), images(4, seed=1)
    files = scorer.save(tmp_path)
    assert set(files) == {INDEX, SCORER, *PatchCore.roles} == {INDEX, SCORER, PATCHES, PLACES}
    image = scorer_class(scorer.info.name).load(scorer.info, files)
    again = PatchCore.over(image, scorer.patch_info, files)
    np.testing.assert_array_equal(again.score(new, 2), scorer.score(new, 2))


def test_a_patch_that_is_no_number_makes_a_score_that_is_none() -> None:
    scorer, new = fitted(images(30)), images(2, seed=1)
    assert new.patches is not None
    new.patches[1, 0, 0] = np.nan
    scores = scorer.score(new, 2)
    assert np.isfinite(scores[0])
    assert np.isnan(scores[1])
    with pytest.raises(ModelDamaged, match="no numbers"):
        scorer.judge(new, 2)


def test_it_is_not_written_as_onnx_and_needs_patches() -> None:
    scorer = fitted(images(10))
    with pytest.raises(UsageError, match="of patchcore cannot be written as ONNX; leave --with-scorer"):
        scorer.graph(None, GraphOutputs("image"))  # type: ignore[arg-type]
    with pytest.raises(ModelDamaged, match="gives no patches"):
        scorer.score(Outputs(unit(2)), 2)
