from __future__ import annotations

import numpy as np
import torch

from anomscan.adapt.views import Augmentation
from tests.conftest import draw


def test_views_differ_from_image_and_from_each_other_and_repeat_with_the_seed() -> None:
    pixels = np.stack([np.asarray(draw(seed)) for seed in (1, 1)])
    augment = Augmentation(96, 96)
    torch.manual_seed(3)
    first = augment(pixels)
    second = augment(pixels)
    torch.manual_seed(3)
    again = augment(pixels)
    assert first.dtype == np.uint8
    assert first.shape == pixels.shape
    assert (first[0] != first[1]).any()
    assert (first != second).any()
    np.testing.assert_array_equal(first, again)
