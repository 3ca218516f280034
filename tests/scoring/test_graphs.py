"""Every scorer's graph says what the scorer says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anomscan.errors import ModelDamaged, UsageError
from anomscan.scoring.base import Scorer
from anomscan.scoring.focused import Focused
from anomscan.scoring.gallery import Gallery
from anomscan.scoring.registry import SCORERS, make_scorer, parse_scorer
from anomscan.types import Features, Metric, Outputs
from tests.scoring.features import LEARNT, fitted, unit
from tests.scoring.graphs import computed
from tests.scoring.test_focused import gathered, images

SPELLED = ["knn", "knn-euclidean", "kmeans:3", "mean", "mean-euclidean", "mahalanobis", "samplewise", "logit"]


def features(count: int, seed: int, spelled: str) -> Features:
    """Of norm 1 where the cosine is meant; of both checkpoints side by side for ``samplewise``."""
    found = unit(count, seed=seed)
    if spelled == "samplewise":
        return np.hstack([found, unit(count, seed=seed + 50)])
    return found if parse_scorer(spelled).metric == "cosine" else 3 + 2 * found


def fitted_to(spelled: str) -> Scorer:
    return fitted(spelled, features(30, 0, spelled), **LEARNT)


@pytest.mark.parametrize("spelled", SPELLED)
def test_it_scores_alike(spelled: str, tmp_path: Path) -> None:
    scorer, queries = fitted_to(spelled), features(9, 1, spelled)
    queries[0] = features(30, 0, spelled)[4]
    found = computed(scorer.graph, tmp_path, queries)
    expected = scorer.score(Outputs(queries), scorer.info.k)
    assert found.shape == expected.shape == (9,)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_none_is_forgotten() -> None:
    assert {spelled.partition("-")[0].partition(":")[0] for spelled in SPELLED} == set(SCORERS)


@pytest.mark.parametrize("looks", ["patch", "both"])
def test_patches_are_scored_alike(looks: str, tmp_path: Path) -> None:
    normals, queries = images(20), images(6, seed=1)
    scorer = Focused.of(make_scorer(parse_scorer("knn")), looks, gathered(normals), 0, 0.5)  # type: ignore[arg-type]
    scorer.fit(normals, seed=0)
    compared = scorer.compared(queries)
    assert queries.patches is not None
    assert compared.maps is not None
    maps = computed(
        lambda graph, outputs: scorer.patches.graph(graph, str(outputs.distances)),
        tmp_path,
        queries.image,
        queries.patches,
    )
    np.testing.assert_allclose(maps, compared.maps.distances, rtol=1e-5)
    found = computed(scorer.graph, tmp_path, queries.image, compared.maps.distances)
    np.testing.assert_allclose(found, scorer.score(compared, scorer.info.k), rtol=1e-5, atol=1e-5)
    with pytest.raises(ModelDamaged, match="gives no patches"):
        computed(scorer.graph, tmp_path, queries.image)


def test_a_scorer_that_has_none_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = fitted_to("knn")
    monkeypatch.setattr(type(scorer), "graph", Scorer.graph)
    with pytest.raises(UsageError, match="the scorer knn cannot be written as ONNX; leave --with-scorer out"):
        computed(scorer.graph, tmp_path, unit(2))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_an_approximate_gallery_is_searched_in_the_same_lists(metric: Metric, tmp_path: Path) -> None:
    vectors = unit(400)
    gallery, info = Gallery.build_fast(vectors, metric, seed=0, exact_up_to=100, lists_scanned=2)
    assert info.index.startswith("IVF, 2 of 80 lists")
    queries = np.concatenate([vectors[:3], unit(60, seed=2)])
    distances, rows = gallery.search(queries, 2)
    exact = Gallery.build(gallery.vectors(), metric).search(queries, 2)[1]
    assert 0 < np.mean(rows != exact) < 0.9, "the two searches differ, so that the graph shows which it is"
    found = computed(
        lambda graph, outputs: gallery.graph(graph, outputs.image, 2)[1], tmp_path, queries, dtype=np.int64
    )
    np.testing.assert_array_equal(found, rows)
    away = computed(lambda graph, outputs: gallery.graph(graph, outputs.image, 2)[0], tmp_path, queries)
    np.testing.assert_allclose(away, distances, rtol=1e-4, atol=1e-3)
    known = computed(
        lambda graph, outputs: gallery.holds_graph(graph, outputs.image, graph.constant(rows[:, 0])),
        tmp_path,
        queries,
        dtype=np.bool_,
    )
    assert known.tolist() == [True] * 3 + [False] * 60, "copies are known, though rounded"
