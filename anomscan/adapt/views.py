"""Random views of a normal image for contrastive objectives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import gaussian_blur

from anomscan.types import Pixels

View = Callable[[Pixels], Pixels]
"""Makes one view of every image of a batch: (n, H, W, 3) to the same shape."""


def blurred(image: Tensor) -> Tensor:
    """(..., H, W) uint8 as by ``v2.GaussianBlur(23, (0.1, 2.0))``, along rows, then columns: less work."""
    sigma = [float(torch.empty(1).uniform_(0.1, 2.0))] * 2
    rows: Tensor = gaussian_blur(image.float(), [23, 1], sigma)
    both: Tensor = gaussian_blur(rows, [1, 23], sigma)
    return both.round_().to(image.dtype)


class Augmentation:
    """Crop, colour jitter, greyscale, blur and flip (MoCo v2; Mean-Shifted Contrastive, appendix A.3).

    Draws from torch's global generator: seed it for repeatable views.
    """

    def __init__(self, height: int, width: int) -> None:
        self._transform = v2.Compose(
            [
                v2.RandomResizedCrop((height, width), scale=(0.2, 1.0), antialias=True),
                v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
                v2.RandomGrayscale(p=0.2),
                v2.RandomApply([blurred], p=0.5),
                v2.RandomHorizontalFlip(p=0.5),
            ]
        )

    def __call__(self, pixels: Pixels) -> Pixels:
        """A view of every image, each drawn on its own: (n, H, W, 3) uint8 to the same shape."""
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        views = torch.stack([self._transform(image) for image in images])
        return np.ascontiguousarray(views.permute(0, 2, 3, 1).numpy())
