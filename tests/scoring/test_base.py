from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anomscan.errors import GalleryTooSmall, ModelDamaged, UsageError
from anomscan.scoring.base import INDEX, SCORER, knn_score, read_arrays
from anomscan.scoring.reduction import Reduction
from anomscan.scoring.registry import make_scorer, parse_scorer, scorer_class
from anomscan.types import Outputs
from tests.scoring.features import LEARNT, fitted, scores, unit

EVERY = ["knn", "knn-euclidean", "kmeans:3", "mean", "mean-euclidean", "mahalanobis", "samplewise", "logit"]


def test_the_score_is_the_sum_of_the_distances() -> None:
    distances = np.array([[0.0, 0.25], [0.5, 1.0]], np.float32)
    assert knn_score(distances).tolist() == [0.25, 1.5]


@pytest.mark.parametrize("name", EVERY)
def test_it_comes_back_from_its_files(name: str, tmp_path: Path) -> None:
    normals, queries = unit(20), unit(4, seed=5)
    scorer = fitted(name, normals, **LEARNT)
    files = scorer.save(tmp_path)
    assert {path.parent for path in files.values()} == {tmp_path}
    assert sorted(tmp_path.iterdir()) == sorted(files.values())
    again = scorer_class(scorer.info.name).load(scorer.info, files)
    np.testing.assert_array_equal(scores(again, queries), scores(scorer, queries))
    np.testing.assert_array_equal(again.gallery.vectors(), normals)
    assert again.arrays.keys() == scorer.arrays.keys() >= scorer.needs


@pytest.mark.parametrize("name", EVERY)
def test_the_nearest_normal_comes_with_the_score(name: str) -> None:
    normals = unit(20)
    scorer = fitted(name, normals, **LEARNT)
    found, nearest = scorer.score_and_nearest(Outputs(normals[3:7]), 2)
    np.testing.assert_array_equal(found, scores(scorer, normals[3:7]))
    assert nearest.tolist() == [3, 4, 5, 6]


@pytest.mark.parametrize("name", EVERY)
def test_of_two_fits_the_second_counts(name: str) -> None:
    queries = unit(4, seed=5)
    scorer = fitted(name, unit(20, seed=1), **LEARNT)
    scores(scorer, queries)
    scorer.fit(Outputs(unit(25, seed=2)), seed=0)
    np.testing.assert_array_equal(
        scores(scorer, queries), scores(fitted(name, unit(25, seed=2), **LEARNT), queries)
    )


@pytest.mark.parametrize("name", [name for name in EVERY if name not in ("kmeans:3", "logit")])
def test_a_far_image_scores_above_every_normal(name: str) -> None:
    normals = unit(20)
    scorer = fitted(name, normals, **LEARNT)
    assert scores(scorer, -normals[:5]).min() > scores(scorer, normals).max()


def test_fewer_normals_than_neighbours_are_all_the_neighbours_there_are() -> None:
    scorer = fitted("knn", unit(1))
    assert scorer.info.k == 1
    with pytest.raises(GalleryTooSmall, match="holds 1 normal image, too few for 2 neighbours"):
        scores(scorer, unit(1), k=2)
    few = make_scorer(parse_scorer("knn"))
    few.fit(Outputs(unit(20)), seed=0, reduction=Reduction("coreset", 1))
    assert few.info.k == 1


def test_a_reduced_gallery_says_which_normals_stand_in_it() -> None:
    normals, scorer = unit(30), make_scorer(parse_scorer("knn"))
    all_of_them = scorer.fit(Outputs(normals), seed=0)
    assert all_of_them.rows.tolist() == list(range(30))
    assert (all_of_them.gallery.vectors, all_of_them.gallery.reduced) == (30, None)
    some = scorer.fit(Outputs(normals), seed=0, reduction=Reduction("coreset", 7))
    assert (some.gallery.vectors, some.gallery.reduced, len(scorer.gallery)) == (7, "coreset:7", 7)
    np.testing.assert_array_equal(scorer.gallery.vectors(), normals[some.rows])


def test_what_is_learnt_is_learnt_from_all_normals_however_few_are_searched() -> None:
    normals, whole, reduced = unit(30), make_scorer(parse_scorer("mean")), make_scorer(parse_scorer("mean"))
    whole.fit(Outputs(normals), seed=0)
    reduced.fit(Outputs(normals), seed=0, reduction=Reduction("kmeans", 3))
    np.testing.assert_array_equal(reduced.arrays["centroids"], whole.arrays["centroids"])


def test_a_scorer_that_cannot_search_centroids_says_so() -> None:
    scorer_class("samplewise").check(None)
    scorer_class("samplewise").check(Reduction("coreset", 5))
    scorer_class("knn").check(Reduction("kmeans", 5))
    with pytest.raises(UsageError, match="samplewise cannot search among centroids; reduce with coreset:K"):
        scorer_class("samplewise").check(Reduction("kmeans", 5))


@pytest.mark.parametrize("name", ["samplewise", "logit"])
def test_a_file_without_what_the_scorer_needs_is_damage(name: str, tmp_path: Path) -> None:
    files = fitted(name, unit(20), **LEARNT).save(tmp_path)
    np.savez(files[SCORER], other=np.zeros(1, np.float32))
    with pytest.raises(ModelDamaged, match=rf"scorer\.npz lacks what the scorer {name} needs"):
        scorer_class(name).load(parse_scorer(name), files)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\3\4 cut off"])
def test_what_holds_no_arrays_is_damage(tmp_path: Path, content: bytes) -> None:
    files = fitted("knn", unit(5)).save(tmp_path)
    files[SCORER].write_bytes(content)
    with pytest.raises(ModelDamaged, match=r"scorer\.npz does not hold arrays"):
        scorer_class("knn").load(parse_scorer("knn"), files)


def test_nothing_in_a_file_of_arrays_is_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (tmp_path.joinpath("sprung").touch, ())

    np.savez(tmp_path / "x.npz", trap=np.array([Trap()], dtype=object))
    with pytest.raises(ModelDamaged, match="does not hold arrays"):
        read_arrays(tmp_path / "x.npz")
    assert not (tmp_path / "sprung").exists()


def test_a_damaged_gallery_is_damage_of_the_model(tmp_path: Path) -> None:
    files = fitted("knn", unit(5)).save(tmp_path)
    files[INDEX].write_bytes(files[INDEX].read_bytes()[:40])
    with pytest.raises(ModelDamaged, match=r"FAISS cannot read index\.faiss"):
        scorer_class("knn").load(parse_scorer("knn"), files)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("knn", "knn, k = 2, cosine distance"),
        ("knn-euclidean", "knn, k = 2, euclidean distance"),
        ("kmeans:7", "kmeans, 7 centroids, k = 2, cosine distance"),
        ("mean-euclidean", "mean, euclidean distance"),
        ("mahalanobis", "mahalanobis, cosine distance"),
        ("samplewise", "samplewise, k = 2, cosine distance"),
        ("logit", "logit, euclidean distance"),
    ],
)
def test_every_scorer_describes_itself(name: str, line: str) -> None:
    info = parse_scorer(name)
    assert scorer_class(info.name).describe(info) == line


def test_files_that_do_not_go_together_are_damage(tmp_path: Path) -> None:
    files = make_scorer(parse_scorer("knn"))
    files.fit(Outputs(np.eye(4, dtype=np.float32)), seed=0)
    saved = files.save(tmp_path)
    with pytest.raises(ModelDamaged, match="do not go together"):
        scorer_class("mahalanobis").load(parse_scorer("mahalanobis"), saved)


def test_an_array_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", zeros=np.zeros(1_000_000, np.float32))
    with pytest.raises(ModelDamaged, match="does not hold arrays"):
        read_arrays(tmp_path / "a.npz")
