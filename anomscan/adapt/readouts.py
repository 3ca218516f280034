"""Which outputs of a network make up its feature vector.

The head alone is what the papers use. The maxima of the deep stages beside it, all under a square root,
find more, except where the normals have next to nothing in common; a coarse map of one stage finds more
where they show the same thing in the same place; and where they do not, averaging over the image and its
mirror image does. How much they have in common, and in the same place, can be told from the normals alone:
no labels, nothing trained.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from anomscan.adapt.backbones import Backbone
from anomscan.adapt.onnx_export import FromPixels, write_onnx
from anomscan.adapt.trainables import deep_stages, trace
from anomscan.config import available_cores
from anomscan.errors import InputError
from anomscan.extractor import Extractor
from anomscan.images import Decoded

GRID = 5
"""Rows and columns of the coarse map."""
HOMOGENEITY = (0.27, 0.36)
"""Where the weight of the maxima rises from 0 to 1, and the power goes from 1 to 1/2."""
ALIGNMENT = (0.75, 0.85)
"""Where the weight of the coarse map rises from 0 to 1; below, features are averaged with the mirror's."""
ENOUGH_NORMALS = 200
"""The weight of the coarse map is scaled down in proportion where there are fewer normals."""


@dataclass(frozen=True)
class Gate:
    """What the normals say, and what follows for the readout.

    ``homogeneity`` is the squared length of the mean of their normalised head features: 1 where all are
    alike. ``alignment`` is the same of their coarse maps, over that of the same stage averaged over its
    area: 1 where every normal has the same thing in the same place.
    """

    homogeneity: float
    alignment: float
    normals: int

    @property
    def maxima(self) -> float:
        """Weight of the stages' maxima beside the head, in [0, 1]."""
        return _rise(self.homogeneity, HOMOGENEITY)

    @property
    def power(self) -> float:
        """Exponent of head and maxima: 1/2 is the square root of Hellinger's distance."""
        return 1 - self.maxima / 2

    @property
    def map(self) -> float:
        """Weight of the coarse map beside the head, in [0, 1]."""
        return _rise(self.alignment, ALIGNMENT) * min(1.0, self.normals / ENOUGH_NORMALS)

    @property
    def mirrored(self) -> bool:
        """Whether an image and its mirror image are to have the same features; twice the work."""
        return self.maxima > 0 and self.alignment < ALIGNMENT[0]

    def record(self) -> dict[str, Any]:
        """The gate, for ``model.json``."""
        read = [f"stage maxima with weight {self.maxima:.2f}", f"a coarse map with weight {self.map:.2f}"]
        read += ["averaged with the mirror image"] * self.mirrored
        reason = (
            f"the normals' homogeneity is {self.homogeneity:.2f}, their alignment {self.alignment:.2f}: "
            + ", ".join(read)
        )
        weights = {"maxima": self.maxima, "power": self.power, "map": self.map, "mirrored": self.mirrored}
        return {"reason": reason, "homogeneity": self.homogeneity, "alignment": self.alignment, **weights}


def _rise(value: float, limits: tuple[float, float]) -> float:
    low, high = limits
    return min(1.0, max(0.0, (value - low) / (high - low)))


class StageOutputs(nn.Module):
    """Head features, the maximum over each deep stage, the coarse map and the mean of one; as they are.

    Args:
        backbone: any timm network; maps may be (N, C, H, W), (N, H, W, C) or tokens (N, T, C), of which
            the last have no coarse map.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        names, self.middle = deep_stages(backbone)
        self.body = _exposing(backbone.model, names)
        size = backbone.preprocessing.height, backbone.preprocessing.width
        with torch.no_grad():
            head, *stages = self.body(torch.zeros(1, 3, *size))
        self.dim = head.shape[1]
        middle = _channels_first(stages[self.middle])
        self.channels = middle.shape[-1] if middle.ndim == 3 else middle.shape[1]
        self.has_map = middle.ndim == 4
        self.register_buffer("rows", _averaging(middle.shape[2] if self.has_map else 1))
        self.register_buffer("columns", _averaging(middle.shape[3] if self.has_map else 1))

    rows: Tensor
    columns: Tensor

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
        """Normalised pixels (N, 3, H, W) to head, maxima, coarse map and mean, each (N, its length)."""
        head, *stages = self.body(images)
        stages = [_channels_first(stage) for stage in stages]
        over = [(2, 3) if stage.ndim == 4 else (1,) for stage in stages]
        maxima = [stage.amax(dim) for stage, dim in zip(stages, over, strict=True)]
        middle = stages[self.middle]
        mean = middle.mean(over[self.middle])
        coarse = (self.rows @ middle @ self.columns.T).flatten(1) if self.has_map else mean
        return head, maxima, coarse, mean


class StageReadout(nn.Module):
    """The head beside the stages' maxima and the coarse map, as the gate says.

    The square root before the norm keeps a few large channels from deciding every distance (Arandjelovic
    and Zisserman 2012, RootSIFT; signed as in Perronnin et al. 2010).
    """

    def __init__(self, outputs: StageOutputs, gate: Gate) -> None:
        super().__init__()
        self.outputs, self.gate = outputs, gate

    def forward(self, images: Tensor) -> Tensor:
        """Normalised pixels to features of norm 1, (N, D)."""
        blocks = self._blocks(images)
        if self.gate.mirrored:
            mirrored = self._blocks(images.flip(3))
            blocks = [_unit(block + other) for block, other in zip(blocks, mirrored, strict=True)]
        head, *beside = blocks
        weights = [self.gate.maxima] * (len(beside) - 1) + [self.gate.map]
        kept = [weight**0.5 * block for weight, block in zip(weights, beside, strict=True) if weight]
        return _unit(torch.cat([head, *kept], dim=1))

    def _blocks(self, images: Tensor) -> list[Tensor]:
        head, maxima, coarse, _ = self.outputs(images)
        return [*(_unit(_signed_power(block, self.gate.power)) for block in (head, *maxima)), _unit(coarse)]


def _unit(features: Tensor) -> Tensor:
    unit: Tensor = functional.normalize(features, dim=1)
    return unit


def _signed_power(values: Tensor, exponent: float) -> Tensor:
    return values if exponent == 1 else values.sign() * values.abs() ** exponent


class _Measured(nn.Module):
    """Head, coarse map and mean side by side, each of norm 1: what the gate is computed from."""

    def __init__(self, outputs: StageOutputs) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, images: Tensor) -> Tensor:
        head, _, coarse, mean = self.outputs(images)
        return torch.cat([_unit(head), _unit(coarse), _unit(mean)], dim=1)


def gated_readout(backbone: Backbone, normals: Iterable[Decoded], scratch: Path) -> tuple[StageReadout, Gate]:
    """The readout of a network, as the normals decide.

    Args:
        backbone: the network, pretrained or adapted; a plain ViT has no coarse map.
        normals: the normal images; unreadable ones are passed over. Memory does not grow with them.
        scratch: a folder for a temporary file.

    Raises:
        InputError: no image can be read.
    """
    outputs = StageOutputs(backbone).eval()
    graph = scratch / "gate.onnx"
    module = FromPixels(backbone.preprocessing, _Measured(outputs))
    write_onnx(module, graph, backbone.preprocessing, backbone.info)
    total, count = np.zeros(1), 0
    for _, features in Extractor(graph, available_cores()).embed(normals):
        if features.size:
            total = total + features.sum(axis=0, dtype=np.float64)
            count += len(features)
    if not count:
        raise InputError("none of the normal images can be read")
    centre = total / count
    head, coarse, mean = np.split(centre, [outputs.dim, len(centre) - outputs.channels])
    alignment = float(coarse @ coarse) / float(mean @ mean) if outputs.has_map else 0.0
    gate = Gate(float(head @ head), alignment, count)
    return StageReadout(outputs, gate), gate


def _exposing(model: nn.Module, names: list[str]) -> fx.GraphModule:
    """The model, returning its features and the outputs of the submodules ``names``."""
    graph = trace(model)
    nodes = [[n for n in graph.nodes if name in n.meta.get("nn_module_stack", {})][-1] for name in names]
    (output,) = [node for node in graph.nodes if node.op == "output"]
    output.args = ((output.args[0], *nodes),)
    return fx.GraphModule(model, graph).eval()


def _channels_first(stage: Tensor) -> Tensor:
    """(N, H, W, C) of a square map to (N, C, H, W); anything else as it is."""
    if stage.ndim == 4 and stage.shape[1] == stage.shape[2] != stage.shape[3]:
        return stage.permute(0, 3, 1, 2)
    return stage


def _averaging(length: int) -> Tensor:
    """(GRID, length): averages a line into GRID cells, as adaptive average pooling does."""
    matrix = torch.zeros(GRID, length)
    for cell in range(GRID):
        first, last = cell * length // GRID, -(-(cell + 1) * length // GRID)
        matrix[cell, first:last] = 1 / (last - first)
    return matrix
