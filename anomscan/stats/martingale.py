"""Whether a stream has moved away from the normals, watched for months, with a bound on all false alarms.

A conformal test martingale (Vovk, Nouretdinov and Gammerman 2003, "Testing exchangeability on-line"): each
arriving score is ranked among the held-out normals and the scores that came before it. While normals and
arrivals are exchangeable these smoothed p-values are independent and uniform, exactly, so that money staked
on anything else does not grow: by Ville's inequality it ever reaches 1 / delta with a probability of at most
delta, however long the stream is.

A p-value among the held-out normals alone would be uniform, too, but all of them share those normals and so
depend on each other; a bet on them wins for ever where few normals happened to be held out. Hence arrivals
join the reference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from anomscan.stats.calibration import Floats
from anomscan.types import Features

LARGEST_REFERENCE = 100_000
"""Scores that an arriving one is ranked among."""
TOP = 0.1
"""The share of highest ranks of which only the number counts: true anomalies are not a shift of the rest."""
_TOLERATED = 0.2
"""More than this share there is a shift, or very many anomalies."""
_RATES = np.array([0.3, 0.5, 0.7, 0.9])
_SLOPES = np.array([-1.0, 0.0, 1.0])
_JUMP = 0.01
_AT_FIRST, _PACE = 0.5, 100.0


class Ranks:
    """Smoothed p-values of a stream, independent and uniform while it is exchangeable with its beginning.

    The newest score is ranked in the bag of the reference and itself, ties at random. Of a full bag one
    score is then thrown out, each as likely, the newest, too: so that what stays says nothing of which score
    was the newest, nor of its rank, and the p-values stay independent with bounded memory.

    Args:
        scores: (n,) the reference at first; changed by ``add``.
        generator: breaks ties and throws out.
        largest: how many scores are kept.
    """

    def __init__(self, scores: Floats, generator: np.random.Generator, largest: int = LARGEST_REFERENCE):
        self._slots = np.full(max(largest, len(scores)), np.inf)  # its memory is taken now
        self._slots[: len(scores)] = scores
        self._sorted = self._slots.copy()
        self._sorted[: len(scores)].sort()
        self._count = len(scores)
        self._generator = generator
        self.changed: dict[int, float] = {}
        """Scores by slot that have come since this was last emptied."""

    def add(self, score: float) -> float:
        """The p-value of the next score, in (0, 1]; small where it is high."""
        there = self._sorted[: self._count]
        left = int(np.searchsorted(there, score, "left"))
        right = int(np.searchsorted(there, score, "right"))
        chance = 1.0 - self._generator.random()
        p_value = (self._count - right + chance * (right - left + 1)) / (self._count + 1)
        self._join(score, left)
        return p_value

    def _join(self, score: float, place: int) -> None:
        if self._count < len(self._slots):
            slot, gone = self._count, self._count
            self._count += 1
        else:
            slot = int(self._generator.integers(self._count + 1))
            if slot == self._count:
                return
            gone = int(np.searchsorted(self._sorted, self._slots[slot], "left"))
        if gone >= place:
            self._sorted[place + 1 : gone + 1] = self._sorted[place:gone]
        else:
            place -= 1
            self._sorted[gone:place] = self._sorted[gone + 1 : place + 1]
        self._sorted[place] = self._slots[slot] = self.changed[slot] = score


class DriftTest:
    """Bets against a stream of scores being exchangeable with the held-out normals.

    Half of the stake bets on where the p-values above ``TOP`` lie (the Simple Jumper of Vovk et al. 2021,
    "Retrain or not retrain"), half on there being too many up to ``TOP``. Under exchangeability the first are
    uniform on (TOP, 1] given that they are there, and the second come with probability TOP, less than
    ``_TOLERATED``, so that neither half grows on average. Anomalies, as long as fewer than one in ten images,
    mostly fall into the top and are no reason for an alarm.

    Money that was lost in quiet months would be missed later. So a part of it is held back and put in by and
    by, ever more slowly: a mixture over the time at which the change begins, which keeps the bound.

    Args:
        ranks: gives the p-values.
        state: what ``state`` was, of a test that goes on.
    """

    def __init__(self, ranks: Ranks, state: Iterable[float] = ()) -> None:
        self.ranks = ranks
        self.count, capital = 0.0, [_AT_FIRST]
        given = list(state)
        if given:
            self.count, *capital = given
        halves = np.repeat([0.5 / len(_SLOPES), 0.5 / len(_RATES)], [len(_SLOPES), len(_RATES)])
        self._shares = halves
        self._capital = np.array(capital) if len(capital) > 1 else _AT_FIRST * halves

    @property
    def state(self) -> dict[int, float]:
        """All but the ranks, to go on from; how many scores came, then the money, by place."""
        return dict(enumerate([self.count, *self._capital.tolist()]))

    @property
    def value(self) -> float:
        """What a stake of 1 has become; 1 / delta is reached with a probability of at most delta, ever."""
        return float(self._capital.sum()) + _held_back(self.count)

    def add(self, scores: Features, delta: float) -> bool:
        """Take the next scores, (m,), in the order of their arrival; whether 1 / delta is reached by one."""
        for score in scores.tolist():
            self._bet(self.ranks.add(score))
            if self.value >= 1 / delta:
                return True
        return False

    def _bet(self, p_value: float) -> None:
        capital = self._capital
        capital += (_held_back(self.count) - _held_back(self.count + 1)) * self._shares
        self.count += 1
        slopes, rates = capital[: len(_SLOPES)], capital[len(_SLOPES) :]
        slopes += _JUMP * (slopes.mean() - slopes)
        if p_value <= TOP:
            rates *= _RATES / _TOLERATED
        else:
            rates *= (1 - _RATES) / (1 - _TOLERATED)
            slopes *= 1 + _SLOPES * ((p_value - TOP) / (1 - TOP) - 0.5)


def _held_back(count: float) -> float:
    """The part of the stake that is not put in after that many scores."""
    return (1 - _AT_FIRST) / (1 + math.log1p(count / _PACE))
