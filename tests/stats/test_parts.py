from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from anomscan.stats.calibration import Calibration
from anomscan.stats.parts import HeldParts


def images(scores: NDArray[np.float32], names: list[str]) -> Calibration:
    return Calibration(
        np.zeros((len(scores), 1), np.float32), scores, names, [str(i) for i in range(len(scores))]
    )


def views(generator: np.random.Generator, parts: int) -> NDArray[np.float32]:
    """Scores, (parts, 3), of views that share most of what makes a part differ, one of them always higher."""
    shared = generator.normal(size=(parts, 1))
    return (shared + 0.5 * generator.normal(size=(parts, 3)) + [0, 0, 0.7]).astype(np.float32)


def held(scores: NDArray[np.float32], *, by_part: bool = True) -> HeldParts:
    """Held-out parts, one row each, held out whole or image by image."""
    parts = [str(i) for i in range(len(scores)) for _ in range(scores.shape[1])]
    names = parts if by_part else [str(i) for i in range(scores.size)]
    return HeldParts.of(images(scores.ravel(), names), parts, ())


def p_value(parts: HeldParts, scores: NDArray[np.float32]) -> float:
    least = float(parts.images.p_values(scores).min())
    return parts.p_value(float(scores.max()), least, len(scores))


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3])
def test_the_bound_is_kept_with_three_views_that_depend_on_each_other(rate: float) -> None:
    """By the part's own maximum it is met, and by Bonferroni, where views agree, more than kept."""
    generator = np.random.default_rng(0)
    own: list[float] = []
    few: list[float] = []
    for _ in range(1500):
        parts = held(views(generator, 39))
        new = views(generator, 1)[0]
        own.append(p_value(parts, new))
        assert parts.are_enough(3)
        few.append(min(1.0, 3 * float(parts.images.p_values(new).min())))
    error = 3 * np.sqrt(rate * (1 - rate) / 1500)
    assert abs(np.mean(np.array(own) <= rate) - rate) < error
    assert np.mean(np.array(few) <= rate) < rate + error
    assert np.mean(np.array(few) <= rate) < np.mean(np.array(own) <= rate)


def test_single_images_would_not_keep_it() -> None:
    """Why the views are combined: the smallest p-value of three is below the rate too often."""
    generator = np.random.default_rng(1)
    smallest = [
        float(held(views(generator, 39)).images.p_values(views(generator, 1)[0]).min()) for _ in range(500)
    ]
    assert np.mean(np.array(smallest) <= 0.1) > 0.13


def test_fewer_views_are_compared_with_parts_of_at_least_as_many() -> None:
    scores = np.array([1, 2, 3, 4, 5, 6, 9], np.float32)
    parts = ["a", "a", "b", "b", "c", "c", "d"]
    found = HeldParts.of(images(scores, parts), parts, ())
    assert found.of_views(2).scores.tolist() == [2, 4, 6]
    assert found.p_value(5.0, 0.5, 2) == (1 + 1) / 4
    assert found.how(2) == "maximum against 3 held-out parts"
    assert found.smallest(2) == 1 / 4


def test_where_too_few_parts_are_held_out_the_views_are_corrected() -> None:
    scores = np.arange(12, dtype=np.float32)
    names = [str(i) for i in range(12)]
    found = HeldParts.of(images(scores, names), ["a", "a", *names[2:]], ["a"])
    assert not found.are_enough(2)
    assert found.p_value(99.0, 1 / 13, 2) == found.smallest(2) == 2 / 13
    assert found.p_value(99.0, 0.7, 2) == 1.0
    assert found.how(2) == "Bonferroni: 0 held-out parts are too few"
    alone = HeldParts.of(images(scores, names), ["a", "a", *names[2:]], ())
    assert (alone.how(2), alone.smallest(2)) == ("Bonferroni: 1 held-out part is too few", 2 / 13)
    assert (alone.p_value(99.0, 1 / 13, 1), alone.how(1)) == (1 / 13, "12 held-out normals")


def test_a_part_with_a_view_in_the_gallery_was_not_held_out() -> None:
    scores = np.arange(6, dtype=np.float32)
    found = HeldParts.of(images(scores, list("aabbcc")), list("aabbcc"), ["b"])
    assert found.of_views(2).scores.tolist() == [1, 5]


def test_parts_of_one_session_count_together() -> None:
    scores = np.array([1, 2, 3, 4, 9, 9], np.float32)
    found = HeldParts.of(images(scores, ["mon"] * 4 + ["tue"] * 2), list("aabbcc"), ())
    assert found.of_views(2).groups == 2
    assert found.p_value(3.0, 0.1, 2) == pytest.approx((1 + 1 / 2 + 1) / 3)
