"""The deep stages beside the head, as far as the normals ask for them.

The head alone is what the papers use. Where the normals show the same thing in the same place, maxima of
the deep stages and a coarse map of one of them find more; where they do not, these mislead. That can be
told from the normals alone: their alignment opens or closes a gate. No labels, nothing trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from anomscan.adapt.backbones import Backbone
from anomscan.adapt.onnx_export import FromPixels, write_onnx
from anomscan.adapt.stages import channels_first, deep_stages, exposing
from anomscan.adapt.whitening import POWER, RootedFeatures
from anomscan.errors import InputError
from anomscan.images.decode import Decoded
from anomscan.images.find import Unreadable
from anomscan.network.extractor import Extractor
from anomscan.pipeline import available_cores
from anomscan.types import Features

GRID = 5
"""Rows and columns of the coarse map."""
ALIGNMENT = (0.75, 0.85)
"""Where the weight of the stages rises from 0 to 1."""
ENOUGH_NORMALS = 200
"""The weight is scaled down in proportion where there are fewer normals."""


@dataclass(frozen=True)
class Gate:
    """What the normals say, and what follows for the readout.

    ``alignment`` is the squared length of the mean of their normalised coarse maps, over that of the
    same stage averaged over its area: 1 where every normal has the same thing in the same place. None
    where the network has no map, and then nothing follows.
    """

    alignment: float | None
    normals: int

    @property
    def weight(self) -> float:
        """Weight of every output beside the head, in [0, 1]."""
        if self.alignment is None:
            return 0.0
        closed, opened = ALIGNMENT
        rise = (self.alignment - closed) / (opened - closed)
        return min(1.0, max(0.0, rise)) * min(1.0, self.normals / ENOUGH_NORMALS)

    def record(self) -> dict[str, Any]:
        """The gate, for ``model.json``."""
        reason = (
            "the network has no map to tell the normals' alignment by, so its head is all there is"
            if self.alignment is None
            else f"the alignment of {self.normals} normals is {self.alignment:.2f}, so the stages have "
            f"weight {self.weight:.2f}"
        )
        return {"reason": reason, "alignment": self.alignment, "weight": self.weight}


class StageOutputs(nn.Module):
    """Head features, the maximum over each deep stage, the coarse map and the mean of one; as they are.

    Args:
        backbone: any timm network; maps may be (N, C, H, W), (N, H, W, C) or tokens (N, T, C), of which
            the last have no coarse map.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        names, self.middle = deep_stages(backbone)
        self.body = exposing(backbone.model, names)
        size = backbone.preprocessing.height, backbone.preprocessing.width
        with torch.no_grad():
            head, *stages = self.body(torch.zeros(1, 3, *size))
        middle = channels_first(stages[self.middle])
        self.channels = middle.shape[-1] if middle.ndim == 3 else middle.shape[1]
        self.has_map = middle.ndim == 4
        lengths = [channels_first(stage).shape[1 if stage.ndim == 4 else -1] for stage in stages]
        coarse = self.channels * (GRID**2 if self.has_map else 1)
        self.lengths = [head.shape[1], *lengths, coarse, self.channels]
        self.register_buffer("rows", _averaging(middle.shape[2] if self.has_map else 1))
        self.register_buffer("columns", _averaging(middle.shape[3] if self.has_map else 1))

    rows: Tensor
    columns: Tensor

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
        """Normalised pixels (N, 3, H, W) to head, maxima, coarse map and mean, each (N, its length)."""
        head, *stages = self.body(images)
        stages = [channels_first(stage) for stage in stages]
        over = [(2, 3) if stage.ndim == 4 else (1,) for stage in stages]
        maxima = [stage.amax(dim) for stage, dim in zip(stages, over, strict=True)]
        middle = stages[self.middle]
        mean = middle.mean(over[self.middle])
        coarse = (self.rows @ middle @ self.columns.T).flatten(1) if self.has_map else mean
        return head, maxima, coarse, mean


class StageReadout(nn.Module):
    """The head beside the stages' maxima and the coarse map, each of squared length ``gate.weight``."""

    def __init__(self, outputs: StageOutputs, gate: Gate) -> None:
        super().__init__()
        self.outputs, self.gate = outputs, gate

    def forward(self, images: Tensor) -> Tensor:
        """Normalised pixels to features of norm 1, (N, D)."""
        head, maxima, coarse, _ = self.outputs(images)
        head = _unit(head)
        if self.gate.weight == 0:
            return head
        beside = [self.gate.weight**0.5 * _unit(block) for block in (*maxima, coarse)]
        return _unit(torch.cat([head, *beside], dim=1))


def _unit(features: Tensor) -> Tensor:
    unit: Tensor = functional.normalize(features, dim=1)
    return unit


class RootedStageReadout(nn.Module):
    """The same blocks, each rooted and a little whitened; see ``whitening``.

    Args:
        outputs: of the network.
        gate: the weight of all blocks but the head.
        blocks: of n normals, each (n, its length), the head first.
        power: see ``RootedFeatures``.
    """

    def __init__(
        self, outputs: StageOutputs, gate: Gate, blocks: Sequence[Features], power: float = POWER
    ) -> None:
        super().__init__()
        self.outputs = outputs
        weights = [1.0] + [gate.weight] * (len(blocks) - 1)
        rooted = [
            RootedFeatures(block, weight, power)
            for block, weight in zip(blocks, weights, strict=True)
            if weight > 0
        ]
        self.settings = rooted[0].settings
        self.rooted = nn.ModuleList(rooted)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised pixels to features, (N, D)."""
        head, maxima, coarse, _ = self.outputs(images)
        blocks = zip(self.rooted, (head, *maxima, coarse), strict=False)
        return torch.cat([rooted(block) for rooted, block in blocks], dim=1)


class _Blocks(nn.Module):
    """Every block and the mean of the middle stage, side by side."""

    def __init__(self, outputs: StageOutputs) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, images: Tensor) -> Tensor:
        head, maxima, coarse, mean = self.outputs(images)
        return torch.cat([head, *maxima, coarse, mean], dim=1)


@dataclass(frozen=True)
class Measured:
    """What the blocks of a network are for n normals, each (n, its length), the head first, and the gate."""

    outputs: StageOutputs
    blocks: list[Features]
    gate: Gate


def measure_blocks(backbone: Backbone, normals: Iterable[Decoded | Unreadable], scratch: Path) -> Measured:
    """Run a network over the normals and see what they say of its readout.

    Args:
        backbone: the network, pretrained or adapted; a plain ViT has no coarse map.
        normals: the normal images; unreadable ones are passed over.
        scratch: a folder for a temporary file.

    Raises:
        InputError: no image can be read.
    """
    outputs = StageOutputs(backbone).eval()
    blocks = features_of([_Blocks(outputs)], backbone, normals, scratch)
    lengths = outputs.lengths
    *parts, coarse, mean = np.split(blocks, np.cumsum(lengths)[:-1], axis=1)
    directions = [_mean_direction(block) for block in (coarse, mean)]
    alignment = float(directions[0] / directions[1]) if outputs.has_map else None
    return Measured(outputs, [*parts, coarse], Gate(alignment, len(blocks)))


def features_of(
    modules: Sequence[nn.Module],
    backbone: Backbone,
    images: Iterable[Decoded | Unreadable],
    scratch: Path,
) -> Features:
    """What ``modules``, in a row behind the pixels, give for every readable image, (n, D).

    Raises:
        InputError: no image can be read.
    """
    graph = scratch / "readout.onnx"
    write_onnx(FromPixels(backbone.preprocessing, *modules), graph, backbone.preprocessing, backbone.info)
    found: list[Features] = []
    unreadable = 0
    for batch in Extractor(graph, available_cores()).embed(images):
        if isinstance(batch, Unreadable):
            unreadable += 1
        else:
            found.append(batch.outputs.image)
    if not found:
        raise InputError(f"none of the {unreadable} normal images can be read")
    return np.concatenate(found)


def _mean_direction(block: Features) -> float:
    """Squared length of the mean of a block's rows, each of norm 1."""
    unit = block / np.maximum(np.linalg.norm(block, axis=1, keepdims=True), 1e-12)
    return float(np.square(unit.mean(axis=0, dtype=np.float64)).sum())


def _averaging(length: int) -> Tensor:
    """(GRID, length): averages a line into GRID cells, as adaptive average pooling does."""
    matrix = torch.zeros(GRID, length)
    for cell in range(GRID):
        first, last = cell * length // GRID, -(-(cell + 1) * length // GRID)
        matrix[cell, first:last] = 1 / (last - first)
    return matrix
