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
from anomscan.types import Features, Outputs
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
def test_an_approximate_gallery_is_searched_exactly(metric: str, tmp_path: Path) -> None:
    vectors = unit(400)
    gallery, info = Gallery.build_fast(vectors, metric, seed=0, exact_up_to=100, lists_scanned=1)  # type: ignore[arg-type]
    exact = gallery.exactly()
    assert info.index.startswith("IVF")
    assert exact.exact
    np.testing.assert_array_equal(exact.vectors(), gallery.vectors())
    queries = np.concatenate([vectors[:3], unit(5, seed=2)])
    rows = exact.search(queries, 1)[1][:, 0]
    assert exact.holds(queries, rows).tolist() == [True] * 3 + [False] * 5, "copies are known, though rounded"
    known = computed(
        lambda graph, outputs: gallery.holds_graph(graph, outputs.image, graph.constant(rows)),
        tmp_path,
        queries,
        dtype=np.bool_,
    )
    assert known.tolist() == [True] * 3 + [False] * 5
    positions = computed(
        lambda graph, outputs: gallery.graph(graph, outputs.image, 2)[1], tmp_path, queries, dtype=np.int64
    )
    np.testing.assert_array_equal(positions, exact.search(queries, 2)[1])


def test_the_exact_twin_of_a_scorer_is_itself_where_it_is_exact() -> None:
    scorer = fitted_to("knn")
    assert scorer.searched_exactly() is scorer
    scorer.gallery, _ = Gallery.build_fast(unit(200), "cosine", 0, exact_up_to=100)
    twin = scorer.searched_exactly()
    assert twin is not scorer
    assert twin.gallery.exact
    assert not scorer.gallery.exact
