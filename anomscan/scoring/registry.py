"""The scorers, by their names on the command line; the model records which one it has.

| name | score | source |
|---|---|---|
| ``knn`` | sum of the cosine distances to the k nearest normals | DN2; MSC eq. 5 |
| ``knn-euclidean`` | the same by Euclidean distance of the features as they are | DN2; PANDA sec. 3 |
| ``kmeans:K`` | the same to the k nearest of K centroids | DN2 tab. 6; MSC tab. 6 |
| ``mean``, ``mean-euclidean`` | distance to the mean of the normals | PANDA sec. 3, i |
| ``mahalanobis`` | the same, in units of the normals' shrunk covariance | Rippel et al. 2020 |
| ``samplewise`` | largest of the scores by each checkpoint, over their typical score | PANDA-SES sec. 3 |
| ``logit`` | output of the layer that learned to tell outliers apart | PANDA eq. 5; ADIB eq. 1 |

Where patches are looked at, what compares these stands over one of them: anomscan's own, ``focused``, or the
procedure of a paper, which goes with a method.

| procedure | score | source |
|---|---|---|
| ``patchcore`` | farthest patch, weighted by the neighbours of its nearest one | PatchCore eq. 5 to 7 |
| ``spade`` | mean distance to the 50 nearest normals; a map by their patches | SPADE eq. 1 to 3 |
| ``padim`` | the largest Mahalanobis distance of a patch at its place | PaDiM eq. 1 and 2 |
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from anomscan.errors import ModelTooNew, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection

    from anomscan.scoring.base import Scorer
    from anomscan.scoring.info import ScorerInfo
    from anomscan.scoring.patched import Patched
    from anomscan.types import Arrays


@dataclass(frozen=True)
class Entry:
    """A scorer: how it is spelled, where its class is, whether only certain methods learn what it needs.

    The class is imported when it is used: the help lists the spellings and needs no numpy for that.
    """

    spelled: str
    where: str
    learnt: bool = False


SCORERS = {
    "knn": Entry("knn, knn-euclidean", "anomscan.scoring.knn:Knn"),
    "kmeans": Entry("kmeans:K", "anomscan.scoring.centroids:Centroids"),
    "mean": Entry("mean, mean-euclidean", "anomscan.scoring.centroids:Mean"),
    "mahalanobis": Entry("mahalanobis", "anomscan.scoring.mahalanobis:Mahalanobis"),
    "samplewise": Entry("samplewise", "anomscan.scoring.samplewise:Samplewise", learnt=True),
    "logit": Entry("logit", "anomscan.scoring.logit:Logit", learnt=True),
}

PROCEDURES = {
    "patchcore": "anomscan.scoring.patchcore:PatchCore",
    "spade": "anomscan.scoring.spade:Spade",
    "padim": "anomscan.scoring.padim:Padim",
}


def spellings(*, learnt: bool = True) -> str:
    """Every name on the command line; without ``learnt`` those that go with any method."""
    return ", ".join(entry.spelled for entry in SCORERS.values() if learnt or not entry.learnt)


def scorer_class(name: str) -> type[Scorer]:
    """The class of a recorded name; raises ModelTooNew where this version has none of that name."""
    if name not in SCORERS:
        raise ModelTooNew(f"the model scores by {name!r}, which this version does not know; upgrade anomscan")
    found: type[Scorer] = _imported(SCORERS[name].where)
    return found


def patched_class(procedure: str | None) -> type[Patched[Any]]:
    """What compares patches, anomscan's own with None; raises ModelTooNew where this version has no such."""
    if procedure is not None and procedure not in PROCEDURES:
        raise ModelTooNew(
            f"the model looks at patches by {procedure!r}, which this version does not know; upgrade anomscan"
        )
    own = "anomscan.scoring.focused:Focused"
    found: type[Patched[Any]] = _imported(own if procedure is None else PROCEDURES[procedure])
    return found


def _imported(where: str) -> Any:
    module, _, attribute = where.partition(":")
    return getattr(import_module(module), attribute)


def parse_scorer(text: str) -> ScorerInfo:
    """What a name on the command line means; raises UsageError, which lists the names."""
    name = re.split("[-:]", text)[0]
    info = scorer_class(name).parse(text) if name in SCORERS else None
    if info is None:
        *names, last = spellings().split(", ")
        raise UsageError(f"there is no scorer called {text!r}; choose {', '.join(names)} or {last}")
    return info


def make_scorer(info: ScorerInfo, learnt: Arrays | None = None) -> Scorer:
    """The scorer that ``info`` describes, with what it needs of what the network's training left."""
    found = scorer_class(info.name)
    return found(info, {name: array for name, array in (learnt or {}).items() if name in found.needs})


def asked_scorer(asked: str | None, own: str, learns: Collection[str], method: str) -> ScorerInfo:
    """The scorer asked for, or the method's own.

    Args:
        asked: as on the command line.
        own: the method's.
        learns: the arrays that the method leaves to a scorer.
        method: its name, for the message.

    Raises:
        UsageError: the method does not learn what the scorer needs, or its features are for its own only.
    """
    info, other = parse_scorer(asked or own), parse_scorer(own)
    if not scorer_class(info.name).needs <= set(learns):
        raise UsageError(f"{method} does not learn what the scorer {info.name} needs; leave --scorer out")
    if info.name != other.name and scorer_class(other.name).exclusive:
        raise UsageError(f"{method} scores sample-wise; leave --scorer out")
    return info
