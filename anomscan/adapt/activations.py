"""What the frozen trunk makes of every view of every normal: computed once, read at every step."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomscan.adapt.views import View
from anomscan.errors import OutputError
from anomscan.images.decode import Decoded
from anomscan.images.find import Unreadable
from anomscan.network.extractor import Extractor
from anomscan.types import Features


class ActivationCache:
    """An array (views, images, ...) float32 of activations, in memory or in a memory-mapped file.

    Args:
        views: views of every image.
        capacity: the most images it may hold.
        shape: shape of one activation.
        memory: bytes that may stay in memory; a larger cache lives in a temporary file, which is gone
            with the process, however that ends.

    Raises:
        OutputError: the temporary file does not fit on its disk.
    """

    def __init__(self, views: int, capacity: int, shape: tuple[int, ...], memory: float) -> None:
        full = (views, capacity, *shape)
        self.spilled = 4 * math.prod(full) > memory
        self._array: NDArray[np.float32]
        if self.spilled:
            with tempfile.TemporaryFile(prefix="anomscan-") as file:
                _reserve(file.fileno(), 4 * math.prod(full))
                self._array = np.memmap(file, np.float32, "r+", shape=full)
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


def _reserve(descriptor: int, size: int) -> None:
    """Take the disk space now: a file with holes would end the process where one cannot be filled."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        raise OutputError(
            f"{size / 1e6:,.0f} MB of activations do not fit into {tempfile.gettempdir()} "
            f"({error.strerror}); make room, name another folder in TMPDIR, or let more stay in memory "
            "with --memory"
        ) from error


def cache_activations(
    trunk: Extractor,
    images: Iterable[Decoded | Unreadable],
    capacity: int,
    *,
    views: Sequence[View],
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
    for embedded in trunk.embed(images):
        if isinstance(embedded, Unreadable):
            continue
        activations = embedded.outputs.image
        pixels = np.stack([image.pixels for image in embedded.images])
        cache = cache or ActivationCache(1 + len(views), capacity, activations.shape[1:], memory)
        further = [outputs.image for outputs in trunk.run_all(view(pixels) for view in views)]
        cache.append([image.path for image in embedded.images], [activations, *further])
    return cache
