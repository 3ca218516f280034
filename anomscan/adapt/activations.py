"""What the frozen trunk makes of every view of every normal: computed once, read at every step."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomscan.extractor import Extractor, Features
from anomscan.images import Decoded, Pixels


class ActivationCache:
    """An array (views, images, ...) float32 of activations, in memory or in a memory-mapped file.

    Args:
        views: views of every image.
        capacity: the most images it may hold.
        shape: shape of one activation.
        memory: bytes that may stay in memory; a larger cache lives in a temporary file, which is gone
            with the process, however that ends.
    """

    def __init__(self, views: int, capacity: int, shape: tuple[int, ...], memory: float) -> None:
        full = (views, capacity, *shape)
        self.spilled = 4 * math.prod(full) > memory
        self._array: NDArray[np.float32]
        if self.spilled:
            with tempfile.TemporaryFile(prefix="anomscan-") as file:
                self._array = np.memmap(file, np.float32, "w+", shape=full)
        else:
            self._array = np.empty(full, np.float32)
        self.paths: list[str] = []

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def views(self) -> int:
        """Number of views of every image."""
        return int(self._array.shape[0])

    def append(self, paths: list[str], views: list[Features]) -> None:
        """Add n images: their paths, and for every view their activations, (n, ...) float32."""
        first, last = len(self), len(self) + len(paths)
        for view, activations in enumerate(views):
            self._array[view, first:last] = activations
        self.paths += paths

    def images(self, batch: int, view: int = 0) -> Iterator[Tensor]:
        """One view of every image, a batch at a time; view 0 is the image itself."""
        for first in range(0, len(self), batch):
            images = np.arange(first, min(first + batch, len(self)))
            yield self.read(np.full_like(images, view), images)

    def read(self, views: NDArray[np.int64], images: NDArray[np.int64]) -> Tensor:
        """The activations of the pairs ``(views[i], images[i])``, (n, ...) float32."""
        return torch.from_numpy(self._array[views, images])


def cache_activations(
    trunk: Extractor,
    images: Iterable[Decoded],
    capacity: int,
    *,
    views: Sequence[Callable[[Pixels], Pixels]],
    memory: float,
) -> ActivationCache | None:
    """Run the trunk over every readable image and further views of it.

    Args:
        trunk: the frozen part of the backbone.
        images: the normals; unreadable ones are passed over.
        capacity: at least the number of ``images``.
        views: each makes one view, from 1, of every image of a batch; view 0 is the image itself.
        memory: see ``ActivationCache``.

    Returns:
        The cache, or None where no image could be read.
    """
    cache = None
    for batch, activations in trunk.embed(images):
        if batch[0].pixels is None:
            continue
        pixels = np.stack([image.pixels for image in batch if image.pixels is not None])
        cache = cache or ActivationCache(1 + len(views), capacity, activations.shape[1:], memory)
        further = trunk.run_all(view(pixels) for view in views)
        cache.append([image.path for image in batch], [activations, *further])
    return cache
