from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from anomscan.errors import ModelTooNew, UsageError
from anomscan.scoring.base import Scorer
from anomscan.scoring.info import ScorerInfo
from anomscan.scoring.registry import (
    PROCEDURES,
    SCORERS,
    asked_scorer,
    make_scorer,
    parse_scorer,
    patched_class,
    scorer_class,
    spellings,
)
from tests.conftest import REPOSITORY
from tests.scoring.features import LEARNT


def test_what_compares_patches_has_the_name_of_its_procedure() -> None:
    assert patched_class(None).name == "focused"
    assert [patched_class(name).name for name in PROCEDURES] == list(PROCEDURES)
    with pytest.raises(ModelTooNew, match="'cflow', which this version does not know; upgrade anomscan"):
        patched_class("cflow")


def test_names() -> None:
    assert parse_scorer("knn") == ScorerInfo("knn", 2, "cosine", 0)
    assert parse_scorer("kmeans:100") == ScorerInfo("kmeans", 2, "cosine", 100)
    assert parse_scorer("mean-euclidean") == ScorerInfo("mean", 2, "euclidean", 1)
    assert parse_scorer("logit").metric == "euclidean"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "nearest",
        "Knn",
        "knn-",
        "knn:2",
        "kmeans",
        "kmeans:0",
        "kmeans:x",
        "kmeans:1:2",
        "mahalanobis-euclidean",
    ],
)
def test_a_name_that_means_nothing_is_refused_with_the_list(name: str) -> None:
    with pytest.raises(UsageError, match=r"choose knn, knn-euclidean, kmeans:K.* or logit$"):
        parse_scorer(name)


def test_every_spelling_is_parsed_by_the_class_that_it_names() -> None:
    for name, entry in SCORERS.items():
        assert scorer_class(name).name == name
        assert issubclass(scorer_class(name), Scorer)
        for spelled in entry.spelled.split(", "):
            assert parse_scorer(spelled.replace("K", "3")).name == name


def test_what_a_scorer_needs_is_learnt_and_said_so() -> None:
    for name, entry in SCORERS.items():
        assert entry.learnt == bool(scorer_class(name).needs), name


def test_the_spellings_are_all_or_those_of_any_method() -> None:
    assert spellings() == (
        "knn, knn-euclidean, kmeans:K, mean, mean-euclidean, mahalanobis, samplewise, logit"
    )
    assert spellings(learnt=False) == "knn, knn-euclidean, kmeans:K, mean, mean-euclidean, mahalanobis"


def test_a_recorded_name_that_is_unknown_is_of_a_newer_version() -> None:
    for call in (lambda: scorer_class("patchcore"), lambda: make_scorer(ScorerInfo("patchcore"))):
        with pytest.raises(ModelTooNew, match="'patchcore', which this version does not know; upgrade"):
            call()


def test_a_scorer_takes_what_it_needs_of_what_was_learnt() -> None:
    assert make_scorer(parse_scorer("logit"), LEARNT).arrays.keys() == {"weight", "bias"}
    assert make_scorer(parse_scorer("samplewise"), LEARNT).arrays.keys() == {"checkpoints"}
    assert make_scorer(parse_scorer("knn"), LEARNT).arrays == {}
    made = make_scorer(parse_scorer("samplewise"), LEARNT)
    made.arrays["scales"] = np.ones(2, np.float32)
    assert "scales" not in LEARNT


def test_the_scorer_asked_for_or_the_methods_own() -> None:
    assert asked_scorer(None, "knn", (), "msc") == parse_scorer("knn")
    assert asked_scorer("kmeans:5", "knn", (), "msc") == parse_scorer("kmeans:5")
    assert asked_scorer("knn-euclidean", "logit", ("weight", "bias"), "adib").metric == "euclidean"
    assert asked_scorer("samplewise", "samplewise", ("checkpoints",), "panda-ses").name == "samplewise"


@pytest.mark.parametrize(
    ("asked", "own", "learns", "sentence"),
    [
        ("logit", "knn", (), "panda does not learn what the scorer logit needs; leave --scorer out"),
        ("logit", "knn", ("weight",), "does not learn what the scorer logit needs"),
        ("samplewise", "knn", ("weight", "bias"), "does not learn what the scorer samplewise needs"),
        ("knn", "samplewise", ("checkpoints",), "panda scores sample-wise; leave --scorer out"),
        ("nearest", "knn", (), "there is no scorer called 'nearest'"),
    ],
)
def test_a_scorer_that_the_method_cannot_serve_is_refused(
    asked: str, own: str, learns: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        asked_scorer(asked, own, learns, "panda")


def test_the_spellings_cost_no_library() -> None:
    """The help of every command lists them."""
    code = (
        "import sys; from anomscan.scoring.registry import spellings; spellings();"
        "sys.exit(any(name in sys.modules for name in ('numpy', 'faiss')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0
