from __future__ import annotations

from itertools import count
from math import comb
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from anomscan.errors import CalibrationTooSmall, ModelDamaged
from anomscan.scoring.base import knn_score
from anomscan.scoring.gallery import Gallery
from anomscan.stats.calibration import CALIBRATION, Calibration, benjamini_hochberg, fewest_discoveries
from anomscan.types import Features
from tests.scoring.features import unit
from tests.scoring.graphs import computed


def calibration(scores: Features, names: list[str] | None = None) -> Calibration:
    paths = [f"/{i}.png" for i in range(len(scores))]
    return Calibration(np.zeros((len(scores), 1), np.float32), scores, names or paths, paths)


def vectors(generator: np.random.Generator, count: int, sessions: Features | None = None) -> Features:
    """Unit vectors around one direction; with ``sessions``, (count, 8), each moved by its session."""
    x = generator.normal(size=(count, 8)) * 0.3 + np.eye(8)[0]
    if sessions is not None:
        x = x + sessions
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def score(gallery: Features, queries: Features) -> Features:
    return knn_score(Gallery.build(gallery).search(queries, 2)[0])


def binomial_limit(trials: int, rate: float, alpha: float = 0.001) -> int:
    """The count that a binomial of ``rate`` exceeds with a probability of at most ``alpha``."""
    below = 0.0
    for successes in count():
        below += comb(trials, successes) * rate**successes * (1 - rate) ** (trials - successes)
        if below >= 1 - alpha:
            return successes
    raise AssertionError


def test_the_p_value_counts_the_held_out_normals_that_score_as_high() -> None:
    held_out = calibration(np.array([0.3, 0.1, 0.2, 0.2], np.float32))
    p_values = held_out.p_values(np.array([0.0, 0.1, 0.15, 0.2, 0.25, 0.3, 0.31], np.float32))
    assert p_values.tolist() == [5 / 5, 5 / 5, 4 / 5, 4 / 5, 2 / 5, 2 / 5, 1 / 5]


def test_what_was_made_of_a_held_out_normal_is_not_compared_with_it_or_its_group() -> None:
    held_out = calibration(np.array([0.3, 0.1, 0.2, 0.25], np.float32), ["a", "b", "b", "c"])
    scores = np.array([0.28, 0.28, 0.15, 0.15, 0.05, 0.31], np.float32)
    found = held_out.p_values_of_changed(scores, ["/0.png", None, "/1.png", "/3.png", "/0.png", "/0.png"])
    assert found.tolist() == [1 / 4, 2 / 4, 3 / 4, 2.5 / 4, 3 / 4, 1 / 4]
    for size in range(10, 100):
        many = calibration(np.arange(size, dtype=np.float32))
        changed = many.p_values_of_changed(np.float32([size - 5.5]), [f"/{size - 1}.png"])
        assert changed.tolist() == [5 / (size + 1)], "a rate that it has is not missed narrowly"


def test_the_limit_is_where_the_p_value_changes() -> None:
    scores = np.random.default_rng(0).random(99).astype(np.float32)
    held_out = calibration(scores)
    for rate in (0.01, 0.05, 0.5):
        above = scores[scores > held_out.limit(rate)]
        assert (held_out.p_values(scores) <= rate).sum() == len(above) == round(rate * 100) - 1
    assert held_out.limit(1.0) == -np.inf


def test_a_group_counts_once() -> None:
    scores = np.array([1, 2, 3, 4, 5], np.float32)
    grouped = calibration(scores, ["a", "a", "b", "b", "b"])
    assert grouped.groups == 2
    assert grouped.p_values(np.array([2, 4, 6], np.float32)) == pytest.approx(
        [(1 + 0.5 + 1) / 3, (1 + 2 / 3) / 3, 1 / 3]
    )


def test_the_p_value_of_a_normal_is_uniform() -> None:
    """One p-value of every split; Kolmogorov-Smirnov against the uniform distribution, alpha = 1 %."""
    generator = np.random.default_rng(0)
    p_values = []
    for _ in range(400):
        x = vectors(generator, 120)
        held_out = calibration(score(x[:60], x[60:119]))
        p_values.append(held_out.p_values(score(x[:60], x[119:]))[0])
    ordered = np.sort(np.array(p_values) - generator.random(400) / 60)  # spread over the 60 steps
    distance = np.abs(ordered - (np.arange(400) + 0.5) / 400).max() + 0.5 / 400
    assert distance < 1.63 / np.sqrt(400)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1])
def test_over_fifty_splits_the_alarms_keep_to_their_bound(rate: float) -> None:
    generator = np.random.default_rng(1)
    alarms = sum(
        int((calibration(score(x[:100], x[100:299])).p_values(score(x[:100], x[299:])) <= rate).sum())
        for x in (vectors(generator, 300) for _ in range(50))
    )
    assert alarms <= binomial_limit(50, rate)
    many = []
    for _ in range(50):
        x = vectors(generator, 499)
        held_out = calibration(score(x[:100], x[100:299]))
        many.append((held_out.p_values(score(x[:100], x[299:])) <= rate).mean())
    # given a split, the rate is Beta(rate * 200, (1 - rate) * 200) and its count binomial around it
    deviation = np.sqrt(rate * (1 - rate) * (1 / 201 + 1 / 200) / 50)
    assert abs(np.mean(many) - rate) < 3.3 * deviation


def sessions_of(generator: np.random.Generator, count: int, each: int) -> tuple[Features, list[str]]:
    """Normals in sessions that differ more from each other than the images within one."""
    shift = np.repeat(generator.normal(size=(count, 8)) * 0.5, each, axis=0)
    return vectors(generator, count * each, shift), [str(i // each) for i in range(count * each)]


def test_with_sessions_images_break_the_bound_and_groups_keep_it() -> None:
    generator = np.random.default_rng(2)
    alone, grouped = [], []
    for _ in range(60):
        x, names = sessions_of(generator, 30, 10)
        new = vectors(generator, 20, np.tile(generator.normal(size=8) * 0.5, (20, 1)))
        order = generator.permutation(300)  # images at random: every session is in the gallery
        gallery, held_out = x[order[:150]], x[order[150:]]
        alone.append((calibration(score(gallery, held_out)).p_values(score(gallery, new)) <= 0.1).mean())
        gallery, held_out = x[:150], x[150:]  # whole sessions
        rule = calibration(score(gallery, held_out), names[150:])
        grouped.append((rule.p_values(score(gallery, new)) <= 0.1).mean())
    assert np.mean(alone) > 0.3
    assert np.mean(grouped) <= 0.1 + 2 * np.std(grouped) / np.sqrt(60)


@pytest.mark.parametrize(
    ("rate", "needed"), [(0.05, "needs 19 held-out normals and the model has 9"), (0.01, "needs 99")]
)
def test_a_rate_that_no_p_value_reaches_is_refused(rate: float, needed: str) -> None:
    held_out = calibration(np.arange(9, dtype=np.float32))
    with pytest.raises(CalibrationTooSmall, match=needed):
        held_out.require(rate, "--fpr")
    held_out.require(0.1, "--fpr")
    groups = calibration(np.arange(9, dtype=np.float32), list("aaabbbccc"))
    with pytest.raises(CalibrationTooSmall, match="needs 9 held-out groups of normals and the model has 3"):
        groups.require(0.1, "--fpr")


def test_benjamini_hochberg() -> None:
    p_values = np.array([0.01, 0.02, 0.03, 0.5])
    ones = np.ones(4, np.int64)
    assert benjamini_hochberg(p_values, ones, 0.05) == 0.03
    assert benjamini_hochberg(p_values, ones, 0.03) == 0.0
    assert benjamini_hochberg(p_values, np.array([1, 1, 1, 97]), 0.05) == 0.0
    assert benjamini_hochberg(p_values, np.array([30, 1, 1, 68]), 0.05) == 0.01
    assert benjamini_hochberg(np.empty(0), np.empty(0, np.int64), 0.05) == 0.0
    assert fewest_discoveries(0.1, 1000, 99) == 100


def test_the_false_discovery_rate_is_kept() -> None:
    generator = np.random.default_rng(3)
    false = []
    for _ in range(200):
        held_out = calibration(generator.normal(size=999).astype(np.float32))
        truth = np.repeat([False, True], [90, 10])
        scores = (generator.normal(size=100) + 4 * truth).astype(np.float32)
        p_values = held_out.p_values(scores)
        called = p_values <= benjamini_hochberg(*np.unique(p_values, return_counts=True), 0.2)
        false.append((called & ~truth).sum() / max(called.sum(), 1))
    assert np.mean(false) <= 0.2 * 0.9 + 2 * np.std(false) / np.sqrt(200)


def test_a_calibration_comes_back_from_its_file(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    features: NDArray[np.float32] = generator.normal(size=(4, 3)).astype(np.float32)
    paths = ["/a", "/b\udcff\n", "/c", "/d"]
    written = Calibration(features, np.arange(4, dtype=np.float32), ["x", "x", "y", "z"], paths)
    files = written.save(tmp_path)
    assert files == {CALIBRATION: tmp_path / "calibration.npz"}
    read = Calibration.load(files[CALIBRATION])
    np.testing.assert_array_equal(read.features, features)
    np.testing.assert_array_equal(read.scores, written.scores)
    assert (read.names, read.paths, read.groups) == (written.names, paths, 3)
    fewer = read.at([1, 3])
    assert (fewer.paths, fewer.names, fewer.scores.tolist()) == (["/b\udcff\n", "/d"], ["x", "z"], [1.0, 3.0])
    assert read.holds(np.concatenate([features[2:3], -features[2:3]])).tolist() == [True, False]


@pytest.mark.parametrize("texts", [b"[", b"[1]", b"5", b"[[], [], []]", b'[["a"],["a"],0]', b'["a",["a"]]'])
def test_what_is_no_calibration_is_a_damaged_model(tmp_path: Path, texts: bytes) -> None:
    (file,) = calibration(np.arange(4, dtype=np.float32)).save(tmp_path).values()
    numbers = {"features": np.zeros((1, 1), np.float32), "scores": np.zeros(1, np.float32)}
    arrays = {**numbers, "texts": np.frombuffer(texts, np.uint8)}
    for content in (arrays, {"other": np.zeros(1)}):
        np.savez(file, **content)  # type: ignore[arg-type]
        with pytest.raises(ModelDamaged, match=r"calibration\.npz does not hold held-out normals"):
            Calibration.load(file)
    file.write_bytes(b"nonsense")
    with pytest.raises(ModelDamaged, match=r"calibration\.npz does not hold arrays"):
        Calibration.load(file)


def test_other_scores_are_of_the_same_images() -> None:
    before = calibration(np.arange(4, dtype=np.float32), list("aabb"))
    after = before.rescored(np.array([9, 9, 9, 0], np.float32))
    assert (after.paths, after.names, after.groups) == (before.paths, before.names, 2)
    assert before.p_values(np.array([5], np.float32)).tolist() == [1 / 3]
    assert after.p_values(np.array([5], np.float32)).tolist() == pytest.approx([(1 + 1.5) / 3])


def test_its_graph_gives_the_same_p_values(tmp_path: Path) -> None:
    features, scores = unit(12), np.arange(12, dtype=np.float32)
    calibration = Calibration(features, scores, list("aabbccddeffg"), [""] * 12)
    queries = np.concatenate([features[5:6], unit(25, seed=3)])
    asked = np.linspace(-1, 13, 26, dtype=np.float32).round(1)
    asked[3] = 7.0
    known = np.zeros(26, np.bool_)
    known[9] = True
    found = computed(
        lambda graph, outputs: calibration.graph(
            graph, graph.constant(asked), outputs.image, graph.constant(known)
        ),
        tmp_path,
        queries,
    )
    expected = np.where(known | calibration.holds(queries), 1.0, calibration.p_values(asked))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert (found <= expected).all()
    assert expected[0] == expected[9] == 1


def full(normals: Features, names: list[str], query: Features, own: str) -> float:
    """The p-value of full conformal prediction: every one is scored in the set of all and the query."""
    everything, groups = np.concatenate([normals, query[None]]), np.array([*names, own])
    distances = np.linalg.norm(everything[:, None] - everything[None], axis=2).astype(np.float32)
    distances[groups[:, None] == groups[None]] = np.inf
    scores = np.sort(distances, axis=1)[:, :2].sum(axis=1)
    sizes = {name: names.count(name) for name in names}
    above = sum(1 / sizes[name] for name, s in zip(names, scores[:-1], strict=True) if s >= scores[-1])
    return (1 + above) / (len(sizes) + 1)


def among(normals: Features, names: list[str]) -> tuple[Calibration, Gallery]:
    """All normals calibrate, each scored by those that are not of its group."""
    gallery = Gallery.build(normals, "euclidean")
    every = Calibration(normals, normals[:, 0], names, [str(i) for i in range(len(names))], names)
    apart = every.apart(every.paths)
    return every.rescored(knn_score(gallery.search_apart(normals, 2, apart.own, apart.vectors)[0])), gallery


@pytest.mark.parametrize("kind", ["continuous", "ties", "groups"])
def test_scored_by_the_others_no_p_value_is_below_that_of_full_conformal_prediction(kind: str) -> None:
    generator, equal, total = np.random.default_rng(3), 0, 0
    for _ in range(30):
        count = int(generator.integers(6, 30))
        x = generator.normal(size=(count + 20, 3))
        x = (x.round() if kind == "ties" else x).astype(np.float32)
        names = [str(i // 2 if kind == "groups" else i) for i in range(count)]
        every, gallery = among(x[:count], names)
        p_values = every.p_values(knn_score(gallery.search(x[count:], 2)[0]))
        expected = [full(x[:count], names, query, "new") for query in x[count:]]
        assert (p_values >= np.array(expected) - 1e-9).all()
        equal, total = equal + int(np.isclose(p_values, expected).sum()), total + 20
    assert equal > 0.6 * total


@pytest.mark.parametrize("rate", [0.05, 0.1])
def test_where_all_calibrate_the_alarms_keep_to_their_bound(rate: float) -> None:
    generator = np.random.default_rng(4)
    alarms = 0
    for _ in range(200):
        x = vectors(generator, 41)
        every, gallery = among(x[:40], [str(i) for i in range(40)])
        alarms += int((every.p_values(knn_score(gallery.search(x[40:], 2)[0])) <= rate).sum())
    assert alarms <= binomial_limit(200, rate)
    assert alarms > 0


def test_normals_that_are_in_the_gallery_are_told_by_it_and_come_back(tmp_path: Path) -> None:
    x = vectors(np.random.default_rng(5), 9)
    every, _ = among(x, [str(i // 3) for i in range(9)])
    assert not every.holds(x).any()
    read = Calibration.load(every.save(tmp_path)[CALIBRATION])
    assert (read.gallery, read.names) == (every.gallery, every.names)
    np.testing.assert_array_equal(read.scores, every.scores)
    assert read.at([1, 4]).gallery == every.gallery
    with pytest.raises(CalibrationTooSmall, match="needs 19 groups of normals and the model has 3"):
        every.require(0.05, "--fpr")
    with pytest.raises(CalibrationTooSmall, match="let all normals calibrate with --holdout 0"):
        calibration(every.scores).require(0.05, "--fpr")
