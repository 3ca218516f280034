"""A few of the images of a run, however many there are: what drift and the report look at."""

from __future__ import annotations

import hashlib
import heapq
import os
from collections.abc import Iterator
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


class Sample:
    """Features of the ``top`` most anomalous images, and of others: few, of however many.

    The others are none of the model's normals. They are drawn by a hash of their paths, so that it does not
    matter in which order, or on which machine, images are scored.
    """

    def __init__(self, top: int = 0) -> None:
        self._top = _Largest(top)
        self._others = _Largest(LARGEST_SAMPLE)

    def add(self, scored: Scored) -> None:
        """Keep those that belong here."""
        maps = scored.outputs.maps
        for i, image in enumerate(scored.images):
            path, feature = plain_path(image.path), scored.outputs.image[i]
            kept = _Image(path, float(scored.scores[i]), feature, scored.whole[i])
            self._top.offer(kept.score, replace(kept, map=maps and maps[i : i + 1]))
            if not scored.known[i]:
                digest = hashlib.blake2b(os.fsencode(path), digest_size=8).digest()
                self._others.offer(int.from_bytes(digest), kept)

    def features(self) -> dict[str, Features]:
        """All features by path, as ``Ranking`` writes it."""
        return {image.path: image.feature for image in (*self._top, *self._others)}

    def maps(self) -> dict[str, PatchMaps]:
        """The maps of the most anomalous images, the most anomalous first, where there are any."""
        return {image.path: image.map for image in self._top if image.map is not None}

    def others(self) -> Features:
        """Features of the whole images, (n, D), of the others; a path counts once."""
        return np.array(list({image.path: image.whole for image in self._others}.values()), np.float32)


class _Largest:
    """The images with the largest keys, the largest first; of equal ones those that came first."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._added = 0
        self._heap: list[tuple[float, int, _Image]] = []

    def offer(self, key: float, image: _Image) -> None:
        self._added += 1
        if len(self._heap) == self._count and (not self._heap or key <= self._heap[0][0]):
            return
        own = replace(
            image,
            feature=image.feature.copy(),
            whole=image.whole.copy(),
            map=image.map and image.map.copy(),
        )
        change = heapq.heapreplace if len(self._heap) == self._count else heapq.heappush
        change(self._heap, (key, -self._added, own))

    def __iter__(self) -> Iterator[_Image]:
        heap = sorted(self._heap, key=lambda entry: entry[:2], reverse=True)
        return (image for _, _, image in heap)
