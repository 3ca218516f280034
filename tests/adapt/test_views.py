from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from anomscan.adapt import views
from anomscan.adapt.views import Augmentation, Blur
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


@pytest.mark.parametrize("cores", [1, 3])
def test_whatever_the_cores_they_are_those_of_torchvision_one_after_another(
    monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    monkeypatch.setattr(views, "available_cores", lambda: cores)
    moco = v2.Compose(
        [
            v2.RandomResizedCrop((96, 96), scale=(0.2, 1.0), antialias=True),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            v2.RandomApply([Blur(23, (0.1, 2.0))], p=0.5),
            v2.RandomHorizontalFlip(p=0.5),
        ]
    )
    pixels = np.stack([np.asarray(draw(seed)) for seed in range(32)])
    torch.manual_seed(5)
    expected = torch.stack([moco(image) for image in torch.from_numpy(pixels).permute(0, 3, 1, 2)])
    torch.manual_seed(5)
    np.testing.assert_array_equal(Augmentation(96, 96)(pixels), expected.permute(0, 2, 3, 1).numpy())


def test_blur_is_that_of_torchvision() -> None:
    image = torch.from_numpy(np.asarray(draw(1)).copy()).permute(2, 0, 1)
    changed = 0
    for seed in range(5):
        torch.manual_seed(seed)
        expected = v2.GaussianBlur(23, sigma=(0.1, 2.0))(image)
        torch.manual_seed(seed)
        found = Blur(23, (0.1, 2.0))(image)
        assert found.dtype == torch.uint8
        assert (found.int() - expected.int()).abs().max() <= 1
        changed += bool((found != image).any())
    assert changed > 2
