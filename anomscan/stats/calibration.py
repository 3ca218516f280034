"""From scores to p-values, by normals that were held out, or by all normals, each among the others.

Held-out normals, which neither the training nor the gallery has seen, are scored like any incoming image. A
new normal is as likely to rank anywhere among them as they are among each other, whatever the network: so the
share of them that score as high is a p-value with a finite-sample guarantee (split conformal; Vovk et al.
2005; Bates et al. 2023, "Testing for outliers with conformal p-values").

Where nothing was trained on the normals and a score is made of distances to nearest neighbours, none need be
held out. Full conformal prediction (Vovk, Gammerman and Shafer 2005, "Algorithmic Learning in a Random
World", ch. 2) scores the image x by all n normals, S(x), and every normal j by the other n - 1 and x, S'_j:
all n + 1 are treated alike, so that p = (1 + #{j: S'_j >= S(x)}) / (n + 1) has the same guarantee, exactly.
A gallery that is larger by x can only bring a nearest neighbour closer: S'_j <= S_j, the score of j among the
other normals alone. So (1 + #{j: S_j >= S(x)}) / (n + 1), with the scores S_j, which do not depend on x, is
no smaller: it is as valid, never anti-conservative, costs no more than held-out normals do, and is larger
only where x comes among the k nearest of a normal that is odder than x itself. For neighbours this needs no
price as jackknife+ pays one (Barber et al. 2021: twice the rate), whose scores are not monotone in the set.
The same holds for patches: peak and average grow with every distance, standardising is a fixed increasing
function, and a maximum and a mean with weights that are not negative grow with what they are made of.

A normal leaves the gallery together with its copies and with the whole of its group, as the image x comes
with no fellow of its group. The argument does not cover what is fitted to all n normals and not to x. So the
readout is not whitened then (``adapt.readouts``), and a normal's share in the whitening of patches is taken
out when it is scored (``fit.held_out.Moments``), which is no proof but was measured. A few numbers are still
told from all normals, which no proof covers: grey levels, the weight of the stages, what is looked at, the
ranges of 8 bits. What is left are the spreads that scores are standardised by, one increasing function for
all, and which patches a reduced gallery keeps, where a normal's own leave holes behind: its score is larger
for that, and p-values with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from anomscan.errors import CalibrationTooSmall, ModelDamaged
from anomscan.scoring.base import Apart, read_arrays
from anomscan.scoring.gallery import Gallery
from anomscan.types import Features

if TYPE_CHECKING:
    from anomscan.network.graph import Graph, Value

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

CALIBRATION = "calibration"
"""Role of its file."""


@dataclass(frozen=True)
class Calibration:
    """The normals that calibrate: n images in G groups.

    Args:
        features: (n, D) float32.
        scores: (n,) float32, by the scorer and the gallery that score incoming images.
        names: the group of each.
        paths: where each was.
        gallery: where none were held out and these are normals of the gallery itself, each scored by the
            others: the group of every vector of the gallery.
    """

    features: Features
    scores: Features
    names: list[str]
    paths: list[str]
    gallery: list[str] | None = None

    @property
    def noun(self) -> str:
        """What the images are, in words."""
        return "held-out normals" if self.gallery is None else "normals"

    def apart(self, normals: Sequence[str]) -> Apart:
        """What leaves the gallery for each, where none were held out; ``normals`` are the gallery's paths."""
        groups = self.gallery or []
        numbers = {name: i for i, name in enumerate(dict.fromkeys([*self.names, *groups]))}
        own, vectors = (np.array([numbers[name] for name in names]) for names in (self.names, groups))
        return Apart(own, vectors, dict(zip(normals, vectors.tolist(), strict=True)))

    @cached_property
    def groups(self) -> int:
        """G, how many groups; without a rule, how many images."""
        return len(set(self.names))

    @cached_property
    def _order(self) -> NDArray[np.intp]:
        return np.argsort(self.scores)

    @cached_property
    def _above(self) -> Floats:
        """(n + 1,): the weight from each place of the ascending scores on; all weights sum to G."""
        _, group, sizes = np.unique(self.names, return_inverse=True, return_counts=True)
        weights = (1 / sizes[group])[self._order]
        return np.append(weights[::-1].cumsum()[::-1].round(9), 0.0)  # else whole numbers are missed narrowly

    @cached_property
    def _gallery(self) -> Gallery:
        return Gallery.build(self.features, "euclidean")

    def p_values(self, scores: Features) -> Floats:
        """(1 + weight of the normals that score as high) / (G + 1).

        Ties count against an anomaly. Where every image is a group this is (1 + #{calibration >= score}) /
        (n + 1). A new normal of a new group has a p-value of at most A with a probability of at most A.

        Args:
            scores: (m,) float32.

        Returns:
            (m,) float64 in [1 / (G + 1), 1].
        """
        return np.asarray((1 + self._as_high(scores)) / (self.groups + 1))

    def p_values_of_changed(self, scores: Features, paths: Sequence[str | None]) -> Floats:
        """The same of images that were made of held-out normals.

        What a normal would have to exceed, were it new, are the others: neither it nor its group count.

        Args:
            scores: (m,) float32.
            paths: (m,) where the normal of each was; None for one that is none of these.
        """
        others, groups = self._as_high(scores), dict(zip(self.paths, self.names, strict=True))
        names = np.array(self.names)
        for i, (score, path) in enumerate(zip(scores, paths, strict=True)):
            if path is not None:
                others[i] -= np.mean(self.scores[names == groups[path]] >= score)
        return np.asarray((1 + others.round(9)) / (self.groups + 1))

    def _as_high(self, scores: Features) -> Floats:
        """The weight of the normals that score as high as each of (m,) scores."""
        places = np.searchsorted(self.scores[self._order], scores, side="left")
        weights: Floats = self._above[places]
        return weights

    def holds(self, features: Features) -> NDArray[np.bool_]:
        """Which of (m, D) features are those of a held-out normal, up to rounding."""
        if self.gallery is not None:
            return np.zeros(len(features), np.bool_)
        return self._gallery.holds(features, self._gallery.search(features, 1)[1][:, 0])

    def graph(self, graph: Graph, scores: Value, features: Value, known: Value) -> Value:
        """Add p-values, (N,) float32, to ``graph``: those of ``p_values``, and 1 for a copy of a normal.

        They are rounded down, so that what is compared with a rate comes out the same in 32 and in 64 bits.

        Args:
            graph: has the other values.
            scores: (N,).
            features: (N, D).
            known: (N,) whether an image is a copy of a normal in the gallery.
        """
        table = np.asarray((1 + self._above) / (self.groups + 1))
        rounded = table.astype(np.float32)
        rounded = np.where(rounded > table, np.nextafter(rounded, np.float32(0)), rounded)
        ascending = self.scores[self._order].reshape(1, -1)
        lower = graph.add("Less", ascending, graph.add("Unsqueeze", scores, np.array([1])))
        places = graph.cast(graph.sum(graph.cast(lower, np.float32), 1), np.int64)
        if self.gallery is None:
            _, nearest = self._gallery.graph(graph, features, 1)
            held_out = self._gallery.holds_graph(graph, features, graph.shaped(nearest, -1))
            known = graph.add("Or", known, held_out)
        return graph.add("Where", known, 1.0, graph.add("Gather", rounded, places))

    def limit(self, p_value: float) -> float:
        """The largest held-out score whose p-value is larger: scores above it have ``p_value`` at most."""
        scores = self.scores[self.p_values(self.scores) > p_value]
        return float(scores.max(initial=-math.inf))

    def require(self, rate: float, option: str) -> None:
        """Refuse a rate that no p-value can reach.

        Raises:
            CalibrationTooSmall: ``rate`` is below 1 / (G + 1); the message says how many are needed.
        """
        if rate < 1 / (self.groups + 1):
            what = self.noun
            if self.groups < len(self.paths):
                what = what.replace("normals", "groups of normals")
            smallest = math.ceil(1e4 / (self.groups + 1)) / 1e4
            more = "take more normals"
            if self.gallery is None:
                more = "hold out more with --holdout, let all normals calibrate with --holdout 0"
            raise CalibrationTooSmall(
                f"{option} {rate:g} needs {math.ceil(1 / rate - 1e-9) - 1} {what} and the model has "
                f"{self.groups}, enough for {option} {smallest:g}; {more}, or name more to "
                "'anomscan calibrate'"
            )

    def at(self, positions: list[int]) -> Calibration:
        """Some of the images."""
        names, paths = [self.names[i] for i in positions], [self.paths[i] for i in positions]
        return Calibration(self.features[positions], self.scores[positions], names, paths, self.gallery)

    def rescored(self, scores: Features) -> Calibration:
        """The same images with other scores, (n,) float32."""
        return replace(self, scores=scores)

    def save(self, folder: Path) -> dict[str, Path]:
        """Write it into ``folder``, with texts in ASCII, so that names of any bytes come back exactly."""
        file = folder / "calibration.npz"
        groups = [] if self.gallery is None else [self.gallery]
        texts = json.dumps([self.names, self.paths, *groups]).encode("ascii")
        np.savez(file, features=self.features, scores=self.scores, texts=np.frombuffer(texts, np.uint8))
        return {CALIBRATION: file}

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read it back; nothing in the file is executed. Raises ModelDamaged where it is not one."""
        arrays = read_arrays(path)
        try:
            names, paths, *groups = json.loads(arrays["texts"].tobytes())
            found = cls(arrays["features"], arrays["scores"], names, paths, *groups)
            found.check()
            return found
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ModelDamaged(f"{path.name} does not hold held-out normals; adapt again") from error

    def check(self) -> None:
        """Raise ValueError or TypeError where these are no normals with features and scores."""
        lists = [self.names, self.paths, self.gallery]
        if not all(isinstance(texts, list) for texts in lists[: 2 + (self.gallery is not None)]):
            raise TypeError("names are no lists")
        count = len(self.paths)
        texts = [*self.names, *self.paths, *(self.gallery or [])]
        fits = len(self.names) == count and all(isinstance(text, str) for text in texts)
        shapes = (
            self.scores.shape == (count,) and self.features.shape[:1] == (count,) and self.features.ndim == 2
        )
        floats = self.scores.dtype == self.features.dtype == np.float32
        if not (count and fits and shapes and floats):
            raise ValueError("features, scores and names do not go together")
        if not (np.isfinite(self.scores).all() and np.isfinite(self.features).all()):
            raise ValueError("not all are numbers")


def fewest_discoveries(rate: float, images: int, groups: int) -> int:
    """How many images must exceed all held-out normals for ``benjamini_hochberg`` to call any of them."""
    return math.ceil(images / (rate * (groups + 1)) - 1e-9)


def benjamini_hochberg(p_values: Floats, counts: Counts, rate: float) -> float:
    """The largest p-value to call anomalous so that at most ``rate`` of those called are normal, on average.

    P-values by held-out normals depend on each other positively, which the procedure allows (Benjamini and
    Hochberg 1995; Bates et al. 2023). Where all normals calibrate, each is valid by itself; for all of a
    batch together that is not proven.

    Args:
        p_values: (d,) distinct p-values of the batch, ascending.
        counts: (d,) images with each of them.
        rate: the false discovery rate, in (0, 1).

    Returns:
        A p-value of the batch, or 0 where nothing can be called anomalous.
    """
    called = counts.cumsum()
    passing = p_values[p_values <= rate * called / called[-1:]]
    return float(passing.max(initial=0.0))
