from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from anomscan.adapt.activations import ActivationCache, cache_activations
from anomscan.images.decode import Decoded
from anomscan.images.find import Unreadable
from anomscan.network.extractor import Extractor
from anomscan.types import Outputs, Pixels


class MeanTrunk(Extractor):
    """Stands in for a graph: an image's mean, per channel."""

    def __init__(self) -> None:
        self._threads = 2

    def run(self, pixels: Pixels) -> Outputs:
        return Outputs(pixels.mean(axis=(1, 2), dtype=np.float32))


def images(count: int) -> list[Decoded]:
    return [Decoded(str(i), np.full((4, 4, 3), i, np.uint8)) for i in range(count)]


def brighter(pixels: Pixels) -> Pixels:
    return pixels + np.uint8(100)


@pytest.mark.parametrize("memory", [0, 1e9])
def test_views_and_images_come_back(memory: float) -> None:
    mixed = [*images(20), Unreadable("bad", "truncated"), *images(3)]
    cache = cache_activations(MeanTrunk(), mixed, 24, views=[brighter, brighter], memory=memory)
    assert cache is not None
    assert cache.spilled == (memory == 0)
    assert (cache.views, len(cache)) == (3, 23)
    assert cache.paths[20] == "0"
    assert [len(batch) for batch in cache.images(10)] == [10, 10, 3]
    read = cache.read(np.array([0, 1, 2]), np.array([5, 5, 22]))
    torch.testing.assert_close(read, torch.tensor([[5.0] * 3, [105.0] * 3, [102.0] * 3]))


def test_nothing_readable() -> None:
    assert cache_activations(MeanTrunk(), [Unreadable("bad", "x")], 1, views=[], memory=0) is None


def test_a_spilled_cache_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cache = ActivationCache(1, 10, (3,), memory=0)
    cache.append(["x"] * 10, [np.ones((10, 3), np.float32)])
    assert not list(tmp_path.iterdir())
    assert cache.read(np.zeros(1, np.int64), np.array([9])).sum() == 3
