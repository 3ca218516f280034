"""What both papers' loops share: the network, cut where it begins to learn, and its images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anomscan.adapt.backbones import Backbone, load_backbone
from anomscan.adapt.onnx_export import FromPixels, write_onnx
from anomscan.adapt.stages import deep_stages, split
from anomscan.adapt.trainables import Everything, LastStages, Trainable
from anomscan.adapt.views import Augmentation
from anomscan.images.decode import decode_all
from anomscan.images.find import Unreadable, find
from anomscan.network.extractor import Extractor
from anomscan.types import Features, Pixels, Preprocessing


class LastStage(Trainable):
    """Only the very last stage and the head learn."""

    def describe(self) -> str:
        """In a few words."""
        return "the last stage learns"

    def split(self, backbone: Backbone) -> tuple[nn.Module, nn.Module]:
        """Cut before it."""
        names, _ = deep_stages(backbone)
        trunk, tail = split(backbone.model, names[-2])
        return trunk, tail.requires_grad_(True)


LEARNS = {"last-two": LastStages(), "last": LastStage(), "all": Everything()}
"""What learns: "last-two" is what works at a stride of 16 or more, as the last two blocks of a ResNet do."""
Indices = NDArray[np.int64]


@dataclass
class Network:
    """The frozen part, which runs without gradients, and the part that learns; ``classifier`` of ImageNet.

    ``graph`` is the frozen part in onnxruntime, for what runs through it once.
    """

    frozen: nn.Module
    learning: nn.Module
    classifier: nn.Module
    graph: Extractor
    preprocessing: Preprocessing

    @classmethod
    def load(cls, size: int, learns: str, scratch: Path, threads: int) -> Network:
        """The default backbone at that side of its input, pretrained, batch norm in evaluation mode."""
        backbone = load_backbone(size=size)
        frozen, learning = LEARNS[learns].split(backbone)
        assert backbone.classifier is not None
        graph = scratch / f"frozen_{size}_{learns}.onnx"
        if not graph.exists():
            module = FromPixels(backbone.preprocessing, frozen)
            write_onnx(module, graph, backbone.preprocessing, backbone.info)
        learning.to(memory_format=torch.channels_last)
        return cls(frozen, learning, backbone.classifier, Extractor(graph, threads), backbone.preprocessing)

    def activations(self, pixels: Pixels) -> Tensor:
        """What the frozen part makes of (n, H, W, 3) uint8 images."""
        mean, std = (torch.tensor(values) for values in (self.preprocessing.mean, self.preprocessing.std))
        with torch.no_grad():
            images = (torch.from_numpy(pixels) / 255 - mean) / std
            output: Tensor = self.frozen(images.permute(0, 3, 1, 2))  # which is channels last
        return output

    def features(self, activations: Tensor) -> Features:
        """(n, D) features by the learning part as it is, in evaluation mode."""
        training = self.learning.training
        self.learning.eval()
        with torch.no_grad():
            parts = [self.learning(part) for part in torch.split(activations, 64)]
        found: Features = torch.cat(parts).numpy()
        self.learning.train(training)
        return found


class Images:
    """The normals that are learnt from, and how their views come about.

    ``views`` 0: fresh ones, augmented and sent through the whole network at every step, as the papers do;
    otherwise that many of each image are made once, and two of them drawn. Images without views are the same
    at every step, and so is what a frozen part makes of them. What is made once stays in the file ``kept``.
    """

    def __init__(
        self, network: Network, pixels: Pixels, views: int, seed: int, kept: Path | None = None
    ) -> None:
        self._network, self._pixels, self.views, self._seed = network, pixels, views, seed
        self._augment = Augmentation(*pixels.shape[1:3])
        if kept is not None and kept.exists():
            self.plain, *self._cached = torch.load(kept, weights_only=True)
            return
        self.plain = activations_of(network, pixels)
        self._cached = [activations_of(network, self._view(-1 - view, pixels)) for view in range(views)]
        if kept is not None:
            torch.save([self.plain, *self._cached], kept)

    def __len__(self) -> int:
        return len(self._pixels)

    @property
    def every_view(self) -> list[Tensor]:
        """What was made once: the images themselves, and their views."""
        return [self.plain, *self._cached]

    def batch(self, step: int, size: int) -> Indices:
        """The images of a step, from 1: epochs in random order without their last, short batch."""
        epoch, place = divmod(step - 1, len(self) // size)
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self))
        return order[place * size : (place + 1) * size]

    def two_views(self, step: int, chosen: Indices) -> Tensor:
        """Activations of two views of each image: row i and row i + n show the same one."""
        if not self.views:
            return self._network.activations(self._view(step, np.tile(self._pixels[chosen], (2, 1, 1, 1))))
        generator = np.random.default_rng((self._seed, step))
        pairs = np.stack([generator.permutation(self.views)[:2] for _ in chosen])
        return torch.stack(
            [
                self._cached[pair[side]][image]
                for side in (0, 1)
                for pair, image in zip(pairs, chosen, strict=True)
            ]
        )

    def _view(self, draw: int, pixels: Pixels) -> Pixels:
        torch.manual_seed(1_000_003 * (self._seed + 1) + draw)
        return self._augment(pixels)


def activations_of(network: Network, pixels: Pixels) -> Tensor:
    """The same as ``Network.activations``, in onnxruntime, channels last."""
    batches = (pixels[first : first + 4] for first in range(0, len(pixels), 4))
    parts = [torch.from_numpy(found.image) for found in network.graph.run_all(batches)]
    return torch.cat(parts).contiguous(memory_format=torch.channels_last)


def read(files: list[Path], preprocessing: Preprocessing) -> Pixels:
    """The images at the network's size, as the tool decodes them: (n, H, W, 3) uint8."""
    decoded = decode_all(find([str(file) for file in files]), preprocessing, 1)
    return np.stack([image.pixels for image in decoded if not isinstance(image, Unreadable)])
