"""Suspects among the normals: those that are unlike all others.

Every normal, held out or not, is scored by the others, without itself and its copies, as an incoming image
would be: by the distances to its nearest neighbours, by those of its farthest patches, or by both. An anomaly
that slipped in stands out, unless it has a fellow. The gallery of patches is a selection by now, but of what
is odd it has everything: a selection keeps what nothing else stands for.

With n normals the smallest conformal p-value is 1 / n, and no rule that bounds the false discoveries among n
of those can ever name one. So the upper tail of the scores is modelled: their logarithms above the middle are
taken to fall off no slower than an exponential, whose rate is that between the median and the upper quantile
``UPPER``, which up to one in ten of anomalies hardly moves. By the p-values of that tail Benjamini and
Hochberg name suspects. What that guarantees: where the tail is no heavier than that, at most ``RATE`` of
those named are normal, on average, and of clean normals the list is empty with a probability of 1 - ``RATE``.
It is no finite-sample guarantee as ``--fpr`` has, and nothing is removed by it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomscan.fit.held_out import HeldOut, Kept
from anomscan.model.suspects import Suspect, Suspects
from anomscan.scoring.base import Scorer, knn_score
from anomscan.scoring.gallery import Gallery
from anomscan.scoring.patched import Patched
from anomscan.spread import spread_over
from anomscan.stats.calibration import Floats, benjamini_hochberg
from anomscan.types import Features, Metric

RATE = 0.1
"""Share of those named that are normal, on average."""
FEWEST, MOST_RANKED = 20, 10_000
"""Normals of which a tail can be told; and so many are compared at most, evenly spread over all."""
MIDDLE, UPPER = 0.5, 0.9
_SMALLEST, _NARROWEST = 1e-6, 1e-3
_BLOCK = 16


def find_suspects(
    scorer: Scorer,
    paths: Sequence[str],
    features: Features,
    kept: Kept | None,
    held_out: HeldOut | None,
    copies: Mapping[str, int],
) -> Suspects | None:
    """Rank all normals of a model that is being built.

    Args:
        scorer: fitted on them.
        paths: of the n normals in the gallery.
        features: theirs, (n, D) float32, of whole images.
        kept: the patches of as many of them as were kept; only those are ranked where there are patches.
        held_out: the others.
        copies: the number of the set of copies that an image belongs to, by path.
    """
    patch, weight = None, 1.0
    ranked, rows = list(paths), np.arange(len(paths))
    patched = scorer if isinstance(scorer, Patched) and scorer.ranks_by_patches else None
    if patched is not None and kept is not None and (patches := kept.patches()) is not None:
        places = {path: i for i, path in enumerate(paths)}
        ranked, rows = kept.paths, np.array([places[path] for path in kept.paths], np.int64)
        patch = patch_scores_without(patched, patches, ranked, copies)
        weight = 0.0 if patched.looks == "patch" else patched.patch_info.weight
    features = features[rows]
    if held_out is not None:
        others = held_out.calibration
        if patched is not None and patch is not None and held_out.patches is not None:
            more = patch_scores_without(patched, held_out.patches, others.paths, copies)
            patch = np.concatenate([patch, more])
        ranked, features = [*ranked, *others.paths], np.concatenate([features, others.features])
    few = spread_over(len(ranked), MOST_RANKED)
    patch = None if patch is None else patch[few]
    whole = scorer.mean(features[few])
    return rank([ranked[i] for i in few], whole, patch, scorer, copies, weight)


def image_scores(
    features: Features, metric: Metric, k: int, copies: NDArray[np.int64]
) -> tuple[Features, NDArray[np.int64]]:
    """Sum of the distances of each image to its ``k`` nearest others, and the position of the nearest.

    Args:
        features: (n, D) float32, n at least 2.
        metric: what is near.
        k: neighbours.
        copies: (n,) a number for each image, the same for copies of each other.
    """
    gallery, _ = Gallery.build_fast(features, metric, seed=0)
    distances, rows = gallery.search_apart(features, k, copies, copies)
    return knn_score(distances), rows[:, 0]


def standing(logs: Floats) -> Floats:
    """How far each of (n,) values lies above their middle, in units of the upper spread.

    The unit is the scale of the exponential that passes through the median and the quantile ``UPPER``.
    """
    middle, upper = np.quantile(logs, (MIDDLE, UPPER))
    scale = max(float(upper - middle) / math.log((1 - MIDDLE) / (1 - UPPER)), _NARROWEST)
    return np.asarray((logs - middle) / scale)


def tail_p_values(oddness: Floats) -> Floats:
    """How often a normal stands out so much, where the tail is exponential; 1 below the middle."""
    return np.where(oddness > 0, (1 - MIDDLE) * np.exp(-np.maximum(oddness, 0)), 1.0)


def rank(
    paths: Sequence[str],
    features: Features,
    patch: Features | None,
    scorer: Scorer,
    copies: Mapping[str, int],
    weight: float = 1.0,
) -> Suspects | None:
    """All normals, the most unlike the others first; None of fewer than ``FEWEST``.

    Args:
        paths: of n normals.
        features: (n, D) float32, of whole images.
        patch: (n,) scores of their patches by the others', or None where only whole images are looked at.
        scorer: what is near, and how many neighbours count.
        copies: the number of the set of copies that an image belongs to, by path.
        weight: that of the whole image beside patches; 0 for patches alone.
    """
    count = len(paths)
    if count < FEWEST:
        return None
    own = np.array([copies[path] if path in copies else -1 - i for i, path in enumerate(paths)], np.int64)
    info = scorer.whole.info
    image, nearest = image_scores(features, info.metric, min(max(info.k, 1), count - 1), own)
    oddness = standing(_logs(image))
    if patch is not None:
        oddness = standing((standing(_logs(patch)) + weight * oddness) / (1 + weight))
    p_values = tail_p_values(oddness)
    limit = benjamini_hochberg(*_counted(p_values), RATE)
    order = np.argsort(-oddness, kind="stable")
    ranked = [
        Suspect(
            paths[i], float(oddness[i]), float(p_values[i]), bool(p_values[i] <= limit), paths[nearest[i]]
        )
        for i in order
    ]
    return Suspects(ranked, count)


def patch_scores_without(
    scorer: Patched[Any], patches: np.ndarray, paths: Sequence[str], copies: Mapping[str, int]
) -> Features:
    """The patch score of n normals, (n, rows, columns, C) float16, by the patches of the others.

    Args:
        scorer: what to compare by; of a normal's own patches and those of its copies nothing counts.
        patches: of the normals.
        paths: of the normals, some of which the gallery has.
        copies: see ``rank``.
    """
    gallery = scorer.patches.paths
    sets = {path: copies.get(path, -1 - i) for i, path in enumerate(gallery)}
    known = np.array([sets[path] for path in gallery], np.int64)
    own = np.array([copies.get(path, sets.get(path, -1 - len(known) - i)) for i, path in enumerate(paths)])
    blocks = [slice(i, i + _BLOCK) for i in range(0, len(patches), _BLOCK)]
    return np.concatenate(
        [scorer.patches_apart(own[block], known, patches[block].astype(np.float32)) for block in blocks]
    )


def _logs(scores: Features) -> Floats:
    return np.log(np.maximum(scores.astype(np.float64), _SMALLEST))


def _counted(p_values: Floats) -> tuple[Floats, NDArray[np.int64]]:
    distinct, counts = np.unique(p_values, return_counts=True)
    return distinct, counts.astype(np.int64)
