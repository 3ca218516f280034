from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anomscan.errors import ModelDamaged
from anomscan.scoring.bank import Bank
from anomscan.scoring.base import INDEX, SCORER, Apart
from anomscan.scoring.focused import Focused
from anomscan.scoring.info import Looks, Spread
from anomscan.scoring.patched import BRIGHT, DARK
from anomscan.scoring.patches import PATCHES, PLACES, averages, peaks
from anomscan.scoring.registry import make_scorer, parse_scorer, scorer_class
from anomscan.types import Features, Outputs, PatchMaps
from tests.scoring.features import unit

SIDE = 6


def images(count: int, seed: int = 0) -> Outputs:
    """Normals: features and patches, (count, 6, 6, 5), of one distribution each."""
    patches = np.random.default_rng(seed).normal(size=(count, SIDE, SIDE, 5)).astype(np.float32)
    return Outputs(unit(count, seed=seed + 1000), patches)


def defective(count: int, seed: int = 0) -> Outputs:
    """The same with one patch that is like none of the normals."""
    given = images(count, seed)
    assert given.patches is not None
    given.patches[:, 2, 3] += 10
    return given


def gathered(outputs: Outputs, most: int = 10_000) -> Bank:
    bank = Bank(most)
    assert outputs.patches is not None
    bank.add(outputs.patches, [f"/n/{i}.png" for i in range(len(outputs))])
    return bank


def fitted(looks: Looks, normals: Outputs, scorer: str = "knn", weight: float = 1.0) -> Focused:
    focused = Focused.of(make_scorer(parse_scorer(scorer)), looks, gathered(normals), 0, weight)
    focused.fit(normals, seed=0)
    return focused


def standard(scores: Features, spread: Spread) -> Features:
    return ((np.log(scores) - spread.mean) / spread.deviation).astype(np.float32)


def by_patches(focused: Focused, outputs: Outputs) -> Features:
    assert outputs.patches is not None
    distances, info = focused.patches.maps(outputs.patches).distances, focused.patch_info
    return np.maximum(standard(peaks(distances), info.peak), standard(averages(distances), info.average))


def test_by_patches_alone_the_score_is_that_of_their_peak_or_their_average() -> None:
    focused, new = fitted("patch", images(30)), images(4, seed=1)
    expected = by_patches(focused, new)
    np.testing.assert_allclose(focused.score(new, 2), expected, rtol=1e-5)
    moved = replace(new, image=-new.image)
    np.testing.assert_allclose(focused.score(moved, 2), expected, rtol=1e-5)


def test_a_small_defect_counts_by_its_peak_and_a_large_one_by_the_average() -> None:
    normals = images(30)
    focused, small, large = fitted("patch", normals), images(1, seed=1), images(1, seed=1)
    assert small.patches is not None
    assert large.patches is not None
    small.patches[0, 2, 3] += 3
    large.patches[:] += 2
    info = focused.patch_info
    for outputs, larger, smaller in ((small, "peak", "average"), (large, "average", "peak")):
        assert outputs.patches is not None
        distances = focused.patches.maps(outputs.patches).distances
        measures = {"peak": peaks(distances), "average": averages(distances)}
        score = focused.score(outputs, 2)
        np.testing.assert_allclose(score, standard(measures[larger], getattr(info, larger)), rtol=1e-5)
        assert score[0] > standard(measures[smaller], getattr(info, smaller))[0] > 0


@pytest.mark.parametrize("weight", [1.0, 0.25])
@pytest.mark.parametrize("scorer", ["knn", "mahalanobis", "knn-euclidean"])
def test_by_both_the_score_is_the_mean_of_both_in_standard_deviations(scorer: str, weight: float) -> None:
    focused, new = fitted("both", images(30), scorer, weight), images(4, seed=1)
    image = standard(focused.whole.score(Outputs(new.image), 2), focused.patch_info.image)
    expected = np.average([image, by_patches(focused, new)], axis=0, weights=[weight, 1])
    np.testing.assert_allclose(focused.score(new, 2), expected, rtol=1e-4, atol=1e-4)


def test_spreads_are_those_of_the_normals_each_among_the_others() -> None:
    normals = images(25)
    assert normals.patches is not None
    info = fitted("both", normals).patch_info
    away = np.sort(1 - normals.image @ normals.image.T, axis=1)[:, 1:3].sum(axis=1)
    sample = normals.patches.astype(np.float16).astype(np.float32)
    patch = [
        np.linalg.norm(image[:, :, None] - np.delete(normals.patches, i, axis=0).reshape(-1, 5), axis=-1)
        for i, image in enumerate(sample)
    ]
    nearest = np.array([distances.min(axis=-1) for distances in patch])
    for spread, scores in (
        (info.image, away),
        (info.peak, peaks(nearest)),
        (info.average, averages(nearest)),
    ):
        logs = np.log(scores)
        assert spread.mean == pytest.approx(logs.mean(), abs=1e-3)
        assert spread.deviation == pytest.approx(logs.std(), rel=1e-2)
    assert info.dark == pytest.approx(np.quantile(nearest.max(axis=(1, 2)), DARK), rel=1e-3)
    assert info.bright == BRIGHT * info.dark
    assert (info.looks, info.gallery.vectors) == ("both", 25 * SIDE**2)


@pytest.mark.parametrize("scorer", ["knn", "mahalanobis", "mean"])
def test_new_normals_score_about_nothing_and_what_is_odd_more(scorer: str) -> None:
    focused = fitted("both", images(200), scorer)
    scores = focused.score(images(100, seed=1), 2)
    assert -0.2 < scores.mean() < 0.6  # the larger of two that are about 0 each
    assert 0.4 < scores.std() < 1.2
    assert np.median(focused.score(defective(20, seed=2), 2)) > np.quantile(scores, 0.9)


def test_patches_become_maps_and_the_score_stays() -> None:
    focused, new = fitted("both", images(30)), images(4, seed=1)
    assert new.patches is not None
    compared = focused.compared(new)
    assert compared.patches is None
    assert compared.maps is not None
    np.testing.assert_array_equal(compared.image, new.image)
    np.testing.assert_array_equal(compared.maps.distances, focused.patches.maps(new.patches).distances)
    np.testing.assert_array_equal(focused.score(compared, 2), focused.score(new, 2))
    assert focused.compared(compared) is compared


@pytest.mark.parametrize("looks", ["patch", "both"])
def test_scores_and_neighbours_do_not_depend_on_other_images(looks: Looks) -> None:
    focused, new = fitted(looks, images(30)), images(6, seed=1)
    scores, nearest = focused.score_and_nearest(new, 2)
    np.testing.assert_array_equal(nearest, focused.gallery.search(new.image, 1)[1][:, 0])
    for i in range(6):
        assert new.patches is not None
        alone = Outputs(new.image[i : i + 1], new.patches[i : i + 1])
        assert focused.score(alone, 2)[0] == pytest.approx(float(scores[i]), abs=1e-5)


def test_both_scores_have_names_and_units_of_their_own() -> None:
    focused, new = fitted("both", images(30)), images(4, seed=1)
    aspects = focused.aspects(new, 2)
    assert list(aspects) == ["image_score", "patch_score"]
    np.testing.assert_array_equal(aspects["image_score"], focused.whole.score(new, 2))
    np.testing.assert_array_equal(aspects["patch_score"], fitted("patch", images(30)).score(new, 2))


def test_without_patches_there_is_no_score() -> None:
    focused = fitted("both", images(10))
    with pytest.raises(ModelDamaged, match="gives no patches"):
        focused.score(Outputs(unit(2)), 2)
    assert focused.compared(Outputs(unit(2))).maps is None


@pytest.mark.parametrize("looks", ["patch", "both"])
def test_a_copy_of_a_normal_scores_lowest_of_all(looks: Looks) -> None:
    normals, new = images(30), images(50, seed=1)
    assert normals.patches is not None
    focused = fitted(looks, normals)
    copies = focused.score(Outputs(normals.image[:3], normals.patches[:3]), 2)
    assert np.isfinite(copies).all()
    assert copies.min() >= -12  # in standard deviations
    assert copies.max() < focused.score(new, 2).min()


def test_what_is_infinitely_like_the_normals_has_a_finite_score() -> None:
    """All normals are the same image, and a patch is never far from one of its own."""
    one = images(1)
    assert one.patches is not None
    normals = Outputs(np.repeat(one.image, 5, axis=0), np.repeat(one.patches, 5, axis=0))
    focused = fitted("both", normals)
    assert np.isfinite(focused.score(normals, 2)).all()
    assert np.isfinite(focused.score(images(3, seed=1), 2)).all()
    assert focused.patch_info.dark > 0


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    focused, new = fitted("both", images(30)), images(4, seed=1)
    files = focused.save(tmp_path)
    assert set(files) == {INDEX, SCORER, PATCHES, PLACES}
    image = scorer_class(focused.info.name).load(focused.info, files)
    again = Focused.over(image, focused.patch_info, files)
    np.testing.assert_array_equal(again.score(new, 2), focused.score(new, 2))
    assert again.looks == "both"
    assert again.whole is image
    assert again.gallery is image.gallery
    assert again.info == focused.info


def test_other_normals_may_say_what_is_dark() -> None:
    focused = fitted("both", images(30))
    before, new = focused.patch_info, images(4, seed=1)
    distances = np.zeros((100, SIDE, SIDE), np.float32)
    distances[:, 1, 1] = np.arange(100)
    scores = focused.score(new, 2)
    focused.look_normal(PatchMaps(distances, np.zeros((100, SIDE, SIDE), np.int64)))
    assert focused.patch_info.dark == pytest.approx(np.quantile(range(100), DARK))
    assert focused.patch_info == replace(
        before, dark=focused.patch_info.dark, bright=BRIGHT * focused.patch_info.dark
    )
    np.testing.assert_array_equal(focused.score(new, 2), scores)


def test_what_is_known_is_not_measured_again() -> None:
    normals, more = images(30), images(40, seed=7)
    known = replace(fitted("both", normals).patch_info, dark=3.0, bright=9.0, weight=0.3)
    scorer = make_scorer(parse_scorer("knn"))
    focused = Focused.of(scorer, "both", gathered(more, most=500), seed=0, known=known)
    focused.fit(more, seed=0)
    assert focused.patch_info == replace(known, gallery=focused.patch_info.gallery)
    assert focused.patch_info.gallery.vectors == len(focused.patches) == 500


def test_a_scorer_of_few_normals_has_fewer_neighbours() -> None:
    for count in (1, 2, 3):
        focused = fitted("both", images(count))
        assert focused.info.k == min(count, 2)
        assert np.isfinite(focused.score(images(2, seed=1), focused.info.k)).all()


@pytest.mark.parametrize("looks", ["both", "patch"])
def test_each_normal_is_scored_without_its_own_patches(looks: Looks) -> None:
    """As by galleries of the others, on the scale that was measured on all."""
    normals = images(12)
    assert normals.patches is not None
    focused = fitted(looks, normals)
    numbers = np.arange(12) // 2
    paths = {f"/n/{i}.png": int(number) for i, number in enumerate(numbers)}
    found = focused.apart(normals, 2, Apart(numbers, numbers, paths))
    for i in range(12):
        stay = np.flatnonzero(numbers != numbers[i])
        others = fitted(looks, Outputs(normals.image[stay], normals.patches[stay]))
        others.patch_info = replace(focused.patch_info, gallery=others.patch_info.gallery)
        own = Outputs(normals.image[i : i + 1], normals.patches[i : i + 1])
        assert found[i] == pytest.approx(others.score(own, 2)[0], rel=1e-3)
    with pytest.raises(ModelDamaged, match="gives no patches"):
        focused.apart(Outputs(normals.image), 2, Apart(numbers, numbers, paths))
