from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anomscan.errors import ModelDamaged
from anomscan.scoring.bank import Patches
from anomscan.scoring.base import Apart
from anomscan.scoring.focused import Focused
from anomscan.scoring.gallery import Gallery
from anomscan.scoring.knn import Knn
from anomscan.scoring.patches import PatchGallery
from anomscan.scoring.registry import SCORERS, make_scorer, parse_scorer
from anomscan.scoring.rejects import (
    IMAGE_MARGIN,
    MOST_PATCHES,
    WEIGHT,
    Rejects,
    odd_places,
    odd_places_apart,
    raised,
    raised_graph,
    raised_maps,
)
from anomscan.scoring.tiled import tiled
from anomscan.types import Features, Outputs, PatchMaps, Tiles
from tests.scoring.features import LEARNT, fitted, unit
from tests.scoring.graphs import computed
from tests.scoring.test_focused import SIDE, defective, images
from tests.scoring.test_focused import fitted as fitted_to_patches

MARGIN = 0.8


def of(outputs: Outputs, place: tuple[int, int] = (2, 3)) -> Rejects:
    """Rejects that are known by one patch each, or, without patches, as whole images."""
    paths = [f"/missed/{i}.png" for i in range(len(outputs))]
    if outputs.patches is None:
        return Rejects(paths, outputs.image)
    own = np.arange(len(outputs), dtype=np.int32)
    places = np.tile(np.array(place, np.int16), (len(outputs), 1))
    patches = Patches(np.ascontiguousarray(outputs.patches[:, *place]), own, places)
    return Rejects(paths, outputs.image, patches, (SIDE, SIDE), np.full(len(own), -1, np.int64))


def knn(spelled: str = "knn") -> Knn:
    scorer = fitted(spelled, unit(30))
    assert isinstance(scorer, Knn)
    return scorer


def test_only_what_is_nearer_to_a_reject_than_to_the_normals_counts_for_more() -> None:
    distances = np.array([1, 1, 1, 1], np.float32)
    to_rejects = np.array([0, 0.5 / MARGIN, 1 / MARGIN, 9], np.float32)
    np.testing.assert_allclose(
        raised(distances, to_rejects, MARGIN), [1 + WEIGHT, 1 + WEIGHT / 2, 1, 1], rtol=1e-6
    )
    np.testing.assert_array_equal(raised(distances, to_rejects, MARGIN)[2:], distances[2:])


def test_what_is_farther_from_the_normals_never_scores_lower_for_that() -> None:
    """What p-values of normals by each other rest on."""
    generator = np.random.default_rng(0)
    near, by = generator.random((2, 500), np.float32)
    to_rejects = generator.random(500, np.float32)
    assert (raised(near + by, to_rejects, MARGIN) >= raised(near, to_rejects, MARGIN)).all()
    assert (raised(near, to_rejects, MARGIN) >= near).all()


def test_a_graph_raises_as_much(tmp_path: Path) -> None:
    distances, to_rejects = np.random.default_rng(0).random((2, 50, 3)).astype(np.float32)
    found = computed(
        lambda graph, outputs: raised_graph(graph, outputs.image, str(outputs.distances), MARGIN),
        tmp_path,
        distances,
        to_rejects,
    )
    np.testing.assert_allclose(found, raised(distances, to_rejects, MARGIN), rtol=1e-6)


@pytest.mark.parametrize("spelled", ["knn", "knn-euclidean"])
def test_images_like_a_reject_score_higher_and_all_others_what_they_did(spelled: str, tmp_path: Path) -> None:
    scorer, others = knn(spelled), unit(40, seed=1)
    like = others[:4] + 0.05 * unit(4, seed=2)
    like /= np.linalg.norm(like, axis=1, keepdims=True)
    queries = Outputs(np.concatenate([like, others[4:]]))
    before = scorer.score(queries, 2)
    scorer.reject(Rejects(list("abcd"), others[:4]))
    after = scorer.score(queries, 2)
    assert (after[:4] > 1.1 * before[:4]).all()
    away = Gallery.build(others[:4], scorer.info.metric).search(queries.image, 1)[0][:, 0]
    far = 2 * IMAGE_MARGIN * away >= before
    assert far.any()
    np.testing.assert_array_equal(after[far], before[far])
    np.testing.assert_array_equal(scorer.score_and_nearest(queries, 2)[0], after)
    np.testing.assert_allclose(computed(scorer.graph, tmp_path, queries.image), after, rtol=1e-5, atol=1e-6)
    scorer.reject(None)
    np.testing.assert_array_equal(scorer.score(queries, 2), before)


def test_a_normal_beside_rejects_scores_by_the_others_and_by_those() -> None:
    scorer, normals = knn(), unit(30)
    apart = Apart(np.arange(30), np.arange(30), {})
    before = scorer.apart(Outputs(normals), 2, apart)
    rejects = Rejects(["a"], normals[7:8])
    scorer.reject(rejects)
    after = scorer.apart(Outputs(normals), 2, apart)
    assert after[7] == pytest.approx((1 + WEIGHT) * before[7], rel=1e-4)
    away = 2 * Gallery.build(rejects.features).search(normals, 1)[0][:, 0]
    np.testing.assert_allclose(after, raised(before, away, IMAGE_MARGIN), rtol=1e-6)


def test_patches_like_those_of_a_reject_count_for_more_and_say_whose_they_are() -> None:
    normals, missed, new = images(30), defective(2, seed=5), images(4, seed=1)
    focused = fitted_to_patches("both", normals)
    assert new.patches is not None
    assert missed.patches is not None
    new.patches[0, 4, 4] = missed.patches[1, 2, 3] + 0.1
    before = focused.compared(new)
    scores = focused.score(new, 2)
    focused.reject(of(missed))
    after = focused.compared(new)
    assert before.maps is not None
    assert after.maps is not None
    changed = after.maps.distances != before.maps.distances
    assert changed[0, 4, 4]
    assert (after.maps.distances >= before.maps.distances).all()
    np.testing.assert_array_equal(after.maps.nearest[~changed], before.maps.nearest[~changed])
    position = int(after.maps.nearest[0, 4, 4])
    assert position >= len(focused.patches)
    assert focused.origin(position) == ("/missed/1.png", 2, 3)
    assert focused.origin(int(after.maps.nearest[3, 0, 0]))[0].startswith("/n/")
    assert (focused.score(new, 2) >= scores).all()
    assert focused.score(new, 2)[0] > scores[0] + 0.1
    focused.reject(None)
    np.testing.assert_array_equal(focused.score(new, 2), scores)


def test_patches_are_raised_in_a_graph_too(tmp_path: Path) -> None:
    focused, new = fitted_to_patches("both", images(30)), defective(5, seed=3)
    focused.reject(of(defective(3, seed=5)))
    compared = focused.compared(new)
    assert compared.maps is not None
    found = computed(
        lambda graph, outputs: focused.compared_graph(graph, str(outputs.distances)),
        tmp_path,
        new.image,
        new.patches,
    )
    np.testing.assert_allclose(found, compared.maps.distances, rtol=1e-5)
    scores = computed(focused.graph, tmp_path, new.image, compared.maps.distances)
    np.testing.assert_allclose(scores, focused.score(compared, 2), rtol=1e-5, atol=1e-5)


def test_a_normal_with_patches_is_compared_with_the_others_and_with_rejects() -> None:
    normals = images(30)
    assert normals.patches is not None
    normals.patches[0, 2, 3] += 10
    focused = fitted_to_patches("patch", normals)
    apart = Apart(np.arange(30), np.arange(30), {f"/n/{i}.png": i for i in range(30)})
    before = focused.apart(normals, 2, apart)
    focused.reject(of(Outputs(normals.image[:1], normals.patches[:1])))
    after = focused.apart(normals, 2, apart)
    assert (after >= before).all()
    assert after[0] > before[0]
    doubled = Apart(apart.own, apart.vectors, apart.paths, 2 * np.eye(5, dtype=np.float32))
    measured = focused.apart(normals, 2, doubled)
    deviation = min(focused.patch_info.peak.deviation, focused.patch_info.average.deviation)
    assert (measured >= after).all(), "with a metric both distances are by it"
    assert (measured - after).max() <= np.log(2) / deviation + 1e-3


def test_a_reject_is_known_by_its_odd_patches() -> None:
    distances = np.zeros((20, 20), np.float32)
    distances[3, 4:9] = [5, 9, 7, 8, 6]
    assert odd_places(distances, 4.0, None).tolist() == [65, 67, 66, 68, 64]
    assert odd_places(distances, 6.5, None).tolist() == [65, 67, 66]
    assert odd_places(distances, 99.0, None).tolist() == [], "it is known as a whole"
    assert len(odd_places(distances + 50, 4.0, None)) == MOST_PATCHES


def test_in_a_box_the_hottest_quarter_counts() -> None:
    distances = np.arange(400, dtype=np.float32).reshape(20, 20)
    inside = np.zeros((20, 20), np.bool_)
    inside[2:4, 2:5] = True
    assert odd_places(distances, 1e6, inside).tolist() == [64, 63]
    assert odd_places(distances, 43.5, inside).tolist() == [64, 63, 62, 44]
    inside[:] = False
    inside[5, 5] = True
    assert odd_places(distances, 1e6, inside).tolist() == [105]


def test_where_all_calibrate_only_the_limit_chooses() -> None:
    distances, others = np.zeros((20, 20), np.float32), np.zeros((20, 20), np.float32)
    distances[3, 4:9] = [5, 9, 7, 8, 6]
    others[:] = distances
    others[4, 4:6] = [7, 9]
    odd, hidden = odd_places_apart(distances, others, 6.5, None)
    assert (odd.tolist(), hidden.tolist()) == ([65, 67, 66], [84, 85])
    assert [len(places) for places in odd_places_apart(distances, distances, 99.0, None)] == [0, 0]
    inside = np.zeros((20, 20), np.bool_)
    inside[0, :3] = True
    odd, hidden = odd_places_apart(distances, others, 6.5, inside)
    assert (odd.tolist(), hidden.tolist()) == ([0, 1, 2], [])
    assert len(odd_places_apart(distances, others, 6.5, inside | True)[0]) == MOST_PATCHES


def test_a_patch_may_count_beside_one_normal_only() -> None:
    rejects = of(defective(3))
    rejects = replace(rejects, owners=np.array([-1, 1, 0]), normals=["/n/4.png", "/n/7.png"])
    numbers = {f"/n/{i}.png": i for i in range(10)}

    def known(found: PatchGallery | None) -> list[str]:
        assert found is not None
        return [found.origin(i)[0] for i in range(len(found))]

    assert known(rejects.counting) == ["/missed/0.png"]
    assert known(rejects.beside(numbers, 5)) == ["/missed/0.png"]
    assert known(rejects.beside(numbers, 7)) == ["/missed/0.png", "/missed/1.png"]
    assert known(rejects.beside(numbers, 4)) == ["/missed/0.png", "/missed/2.png"]
    assert known(rejects.beside({}, 4)) == ["/missed/0.png"]
    left = rejects.without({"/missed/0.png"})
    assert left is not None
    assert left.counting is None
    again = left.and_(rejects)
    assert known(again.beside(numbers, 7)) == ["/missed/1.png", "/missed/0.png", "/missed/1.png"]
    focused, new = fitted_to_patches("both", images(30)), images(4, seed=1)
    before, hidden = focused.compared(new).maps, replace(left, owners=left.owners)
    focused.reject(hidden)
    after = focused.compared(new).maps
    assert before is not None
    assert after is not None
    np.testing.assert_array_equal(after.distances, before.distances)


@pytest.mark.parametrize("outputs", [defective(3), Outputs(unit(3))])
def test_they_are_read_as_they_were_written(outputs: Outputs, tmp_path: Path) -> None:
    rejects = of(outputs)
    again = Rejects.load(rejects.save(tmp_path)["rejects"])
    same(again, rejects)


def same(one: Rejects, other: Rejects) -> None:
    assert one.paths == other.paths
    np.testing.assert_array_equal(one.features, other.features)
    assert (one.patches is None) == (other.patches is None)
    assert (one.grid, one.normals) == (other.grid, other.normals)
    if one.patches is not None and other.patches is not None:
        for each in ("features", "images", "places"):
            np.testing.assert_array_equal(getattr(one.patches, each), getattr(other.patches, each))
    np.testing.assert_array_equal(one.owners, other.owners)


@pytest.mark.parametrize("outputs", [defective(5), Outputs(unit(5))])
def test_some_leave_and_others_come(outputs: Outputs) -> None:
    rejects = of(outputs)
    left = rejects.without({"/missed/1.png", "/missed/3.png", "/else.png"})
    assert left is not None
    assert left.paths == ["/missed/0.png", "/missed/2.png", "/missed/4.png"]
    np.testing.assert_array_equal(left.features, outputs.image[[0, 2, 4]])
    others = rejects.without(set(left.paths))
    assert others is not None
    both = left.and_(others)
    assert both.paths == [*left.paths, *others.paths]
    if both.patches is not None and rejects.patches is not None:
        assert both.counting is not None
        assert both.counting.origin(3) == ("/missed/1.png", 2, 3)
        order = [0, 2, 4, 1, 3]
        np.testing.assert_array_equal(both.patches.features, rejects.patches.features[order])
    assert rejects.without(set(rejects.paths)) is None


def test_a_copy_of_a_reject_is_known() -> None:
    features = unit(5)
    rejects = Rejects(list("abc"), features[:3])
    assert rejects.holds(features * np.float32(1 + 1e-6)).tolist() == [True] * 3 + [False] * 2


def test_those_of_another_network_are_refused() -> None:
    with pytest.raises(ModelDamaged, match="do not go with its gallery"):
        knn().reject(Rejects(["a"], unit(1, dim=9)))
    focused = fitted_to_patches("both", images(10))
    with pytest.raises(ModelDamaged, match="do not go with its patches"):
        focused.reject(Rejects(["a"], images(1).image))


def broken(path: Path, **changed: Features | None) -> Path:
    """The file of rejects with other arrays; None leaves one out."""
    with np.load(of(defective(2)).save(path)["rejects"]) as arrays:
        held = {**arrays, **changed}
    out = path / "broken.npz"
    np.savez(out, **{name: array for name, array in held.items() if array is not None})
    return out


@pytest.mark.parametrize(
    "changed",
    [
        {"features": None},
        {"features": np.full((2, 5), np.nan, np.float32)},
        {"features": np.zeros((3, 5), np.float32)},
        {"features": np.zeros((2, 5), np.float64)},
        {"patches": np.zeros((2, 0), np.float32)},
        {"images": np.array([0, 2], np.int32)},
        {"places": np.array([[0, 0], [0, SIDE]], np.int16)},
        {"owners": None},
        {"owners": np.array([0, -1])},
        {"owners": np.array([-1, -2])},
        {"normals": np.frombuffer(b"[1]", np.uint8)},
        {"normals": np.frombuffer(b"{", np.uint8)},
        {"texts": np.frombuffer(b"[1, 2]", np.uint8)},
        {"texts": np.frombuffer(b"[]", np.uint8), "features": np.zeros((0, 5), np.float32)},
    ],
)
def test_what_makes_no_sense_is_refused(changed: dict[str, Features | None], tmp_path: Path) -> None:
    with pytest.raises(ModelDamaged):
        Rejects.load(broken(tmp_path, **changed))


def test_who_cannot_learn_from_rejects_says_why() -> None:
    for name in SCORERS:
        spelled = {"kmeans": "kmeans:3"}.get(name, name)
        scorer = make_scorer(parse_scorer(spelled), {**LEARNT})
        why = scorer.why_no_rejects()
        assert (why is None) == (name == "knn")
        assert why is None or name in why
    over = Focused.why_no_rejects(fitted_to_patches("both", images(10), "mahalanobis"))
    assert over is not None
    assert "mahalanobis" in over
    in_tiles = tiled(knn(), Tiles(1, 2, 0.0, (2, 1))).why_no_rejects()
    assert in_tiles is not None
    assert "in tiles" in in_tiles


def test_a_patch_is_like_a_reject_where_no_normal_is_nearer() -> None:
    """What is far from both may be raised, and is not said to be like the reject."""
    normals = PatchMaps(np.array([[[5.0, 2.0, 2.0]]], np.float32), np.array([[[7, 8, 9]]], np.int32))
    missed = PatchMaps(np.array([[[5.5, 1.0, 9.0]]], np.float32), np.array([[[0, 1, 0]]], np.int32))
    maps = raised_maps(normals, missed, 100)
    assert (maps.distances > normals.distances).tolist() == [[[True, True, False]]]
    assert maps.nearest.tolist() == [[[7, 101, 9]]]
