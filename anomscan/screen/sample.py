"""A few of the images of a run, however many there are: what drift and the report look at."""

from __future__ import annotations

import hashlib
import heapq
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from anomscan.screen.screener import Scored
from anomscan.stats.drift import LARGEST_SAMPLE
from anomscan.text import plain_path
from anomscan.types import Features, PatchMaps


@dataclass(frozen=True)
class _Image:
    path: str
    score: float
    feature: Features
    whole: Features
    map: PatchMaps | None = None
    odd: bool = True
    """Whether it speaks for its part before others that were said to be normal."""

    def copied(self) -> _Image:
        """The same without the arrays of its batch."""
        return replace(
            self,
            feature=self.feature.copy(),
            whole=self.whole.copy(),
            map=self.map and self.map.copy(),
        )


class Sample:
    """Features of the ``top`` most anomalous images, and of others: few, of however many.

    The others are none of the model's normals. They are drawn by a hash of their paths, so that it does not
    matter in which order, or on which machine, images are scored. With ``part_of``, which tells the part
    that an image shows, the most anomalous are one image each of so many parts.
    """

    def __init__(self, top: int = 0, part_of: Callable[[str], str] | None = None) -> None:
        self._top = _Largest(top) if part_of is None else _LargestParts(top, part_of)
        self._others = _Largest(LARGEST_SAMPLE)

    def add(self, scored: Scored) -> set[int]:
        """Keep those that belong here; the positions of those that do."""
        maps = scored.outputs.maps
        return {
            i
            for i, image in enumerate(scored.images)
            if self.offer(
                plain_path(image.path),
                float(scored.scores[i]),
                scored.outputs.image[i],
                scored.whole[i],
                maps and maps[i : i + 1],
                known=bool(scored.known[i]),
                odd=scored.p_values is None or bool(scored.p_values[i] < 1),
            )
        }

    def offer(
        self,
        path: str,
        score: float,
        feature: Features,
        whole: Features,
        maps: PatchMaps | None,
        *,
        known: bool,
        odd: bool,
    ) -> bool:
        """Keep an image if it belongs here.

        Args:
            path: as ``Ranking`` writes it.
            score: its score.
            feature: (D,), of its most anomalous tile, or of all of it.
            whole: (D,), of all of it.
            maps: its map, where there is one.
            known: whether it is a normal.
            odd: whether its p-value is not 1.
        """
        image = _Image(path, score, feature, whole, odd=odd)
        kept = self._top.offer(score, replace(image, map=maps))
        if not known:
            digest = hashlib.blake2b(os.fsencode(path), digest_size=8).digest()
            kept |= self._others.offer(int.from_bytes(digest), image)
        return kept

    def features(self) -> dict[str, Features]:
        """All features by path, as ``Ranking`` writes it."""
        return {image.path: image.feature for image in (*self._top, *self._others)}

    def maps(self) -> dict[str, PatchMaps]:
        """The maps of the most anomalous images, the most anomalous first, where there are any."""
        return {image.path: image.map for image in self._top if image.map is not None}

    def others(self) -> Features:
        """Features of the whole images, (n, D), of the others; a path counts once."""
        return np.array(list({image.path: image.whole for image in self._others}.values()), np.float32)


class _LargestParts:
    """The most anomalous view of each of ``count`` parts, those whose views have the largest keys."""

    def __init__(self, count: int, part_of: Callable[[str], str]) -> None:
        self._count, self._part_of = count, part_of
        self._kept: dict[str, tuple[float, _Image]] = {}

    def offer(self, key: float, image: _Image) -> bool:
        part = self._part_of(image.path)
        if part in self._kept:
            other, known = self._kept[part]
            if (known.odd, other) >= (image.odd, key):
                return False
        self._kept[part] = (key, image.copied())
        if len(self._kept) > 2 * self._count:
            self._kept = dict(self._ordered()[: self._count])
        return part in self._kept

    def _ordered(self) -> list[tuple[str, tuple[float, _Image]]]:
        return sorted(self._kept.items(), key=lambda entry: -entry[1][0])

    def __iter__(self) -> Iterator[_Image]:
        return (image for _, (_, image) in self._ordered()[: self._count])


class _Largest:
    """The images with the largest keys, the largest first; of equal ones those that came first."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._added = 0
        self._heap: list[tuple[float, int, _Image]] = []

    def offer(self, key: float, image: _Image) -> bool:
        self._added += 1
        if len(self._heap) == self._count and (not self._heap or key <= self._heap[0][0]):
            return False
        change = heapq.heapreplace if len(self._heap) == self._count else heapq.heappush
        change(self._heap, (key, -self._added, image.copied()))
        return True

    def __iter__(self) -> Iterator[_Image]:
        heap = sorted(self._heap, key=lambda entry: entry[:2], reverse=True)
        return (image for _, _, image in heap)
