from __future__ import annotations

import numpy as np
import torch
from torchvision.transforms import v2

from anomscan.adapt.views import Augmentation, blurred
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


def test_blur_is_that_of_torchvision() -> None:
    image = torch.from_numpy(np.asarray(draw(1)).copy()).permute(2, 0, 1)
    changed = 0
    for seed in range(5):
        torch.manual_seed(seed)
        expected = v2.GaussianBlur(23, sigma=(0.1, 2.0))(image)
        torch.manual_seed(seed)
        found = blurred(image)
        assert found.dtype == torch.uint8
        assert (found.int() - expected.int()).abs().max() <= 1
        changed += bool((found != image).any())
    assert changed > 2
