"""Random views of a normal image for contrastive objectives."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import gaussian_blur

from anomscan.pipeline import available_cores
from anomscan.types import Pixels

View = Callable[[Pixels], Pixels]
"""Makes one view of every image of a batch: (n, H, W, 3) to the same shape."""

Drawn = list[tuple[v2.Transform, dict[str, Any]]]
"""What is done to an image, with all that chance decides of it."""


class Blur(v2.GaussianBlur):  # type: ignore[misc]  # torchvision is not typed
    """The same along rows, then columns: less work."""

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """(..., H, W) uint8 to the same."""
        side, sigma = self.kernel_size[0], params["sigma"]
        rows: Tensor = gaussian_blur(inpt.float(), [side, 1], sigma)
        both: Tensor = gaussian_blur(rows, [1, side], sigma)
        return both.round_().to(inpt.dtype)


class Augmentation:
    """Crop, colour jitter, greyscale, blur and flip (MoCo v2; Mean-Shifted Contrastive, appendix A.3).

    Draws from torch's global generator, image by image: seed it for repeatable views. Every core makes
    some of them.
    """

    def __init__(self, height: int, width: int) -> None:
        self._crop = v2.RandomResizedCrop((height, width), scale=(0.2, 1.0), antialias=True)
        self._at_times = (
            (0.8, v2.ColorJitter(0.4, 0.4, 0.4, 0.1)),
            (0.2, v2.Grayscale(3)),
            (0.5, Blur(23, (0.1, 2.0))),
            (0.5, v2.RandomHorizontalFlip(1.0)),
        )

    def __call__(self, pixels: Pixels) -> Pixels:
        """A view of every image, each drawn on its own: (n, H, W, 3) uint8 to the same shape."""
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        drawn = [self._draw(image) for image in images]
        with ThreadPoolExecutor(
            available_cores(), initializer=torch.set_num_threads, initargs=(1,)
        ) as threads:
            views = torch.stack(list(threads.map(_applied, drawn, images)))
        return np.ascontiguousarray(views.permute(0, 2, 3, 1).numpy())

    def _draw(self, image: Tensor) -> Drawn:
        drawn: Drawn = [(self._crop, self._crop.make_params([image]))]
        for probability, transform in self._at_times:
            if float(torch.rand(1)) < probability:
                drawn.append((transform, transform.make_params([image])))
        return drawn


def _applied(drawn: Drawn, image: Tensor) -> Tensor:
    for transform, parameters in drawn:
        image = transform.transform(image, parameters)
    return image
