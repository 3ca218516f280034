"""Write torch modules as ONNX graphs that take ``uint8 [N, H, W, 3]``."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from anomscan.errors import ParityError
from anomscan.images.part import described
from anomscan.network.extractor import IMAGE, Extractor
from anomscan.network.network import BackboneInfo
from anomscan.types import Features, Pixels, Preprocessing

OPSET = 18
OVERLAPPING = "neighbours share {:.6g} of a tile; the largest score of a tile is that of the image"
TOLERANCE = 1e-4
"""Largest difference between torch and onnxruntime, relative to the largest component, which counts
at least 1: features are compared on their own scale or, normalised, on that of the unit sphere."""


class FromPixels(nn.Module):
    """Normalise raw pixels and pass them through ``parts``, so that no other program can get it wrong."""

    scale: Tensor
    shift: Tensor

    def __init__(self, preprocessing: Preprocessing, *parts: nn.Module) -> None:
        super().__init__()
        mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
        self.register_buffer("scale", (1 / (255 * std)).reshape(1, 3, 1, 1))
        self.register_buffer("shift", (-mean / std).reshape(1, 3, 1, 1))
        self.parts = nn.Sequential(*parts)

    def forward(self, pixels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Map (N, H, W, 3) uint8 RGB to what the last part gives: one output, or two."""
        output: Tensor | tuple[Tensor, Tensor] = self.parts(
            pixels.permute(0, 3, 1, 2).float() * self.scale + self.shift
        )
        return output


class L2Normalise(nn.Module):
    """Scale every feature vector to norm 1."""

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, D) to (N, D)."""
        return functional.normalize(features, dim=1)


def write_onnx(
    module: FromPixels,
    path: Path,
    preprocessing: Preprocessing,
    backbone: BackboneInfo,
    *,
    output: str = "float32 [N, ...]",
    outputs: Sequence[str] = (IMAGE,),
) -> None:
    """Write ``module`` to ``path`` as one ONNX file with dynamic N and metadata.

    Args:
        module: on the CPU, in evaluation mode.
        path: the file to write.
        preprocessing: size and resize rule, for the metadata.
        backbone: for the metadata.
        output: what the graph gives, for the metadata.
        outputs: names of what it gives.
    """
    pixels = torch.zeros(2, preprocessing.height, preprocessing.width, 3, dtype=torch.uint8)
    looked_at, tiles = described(preprocessing.reading.part), preprocessing.tiles
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), _out_of_place(module):
        warnings.simplefilter("ignore")  # deprecations inside torch's and onnxscript's own exporter
        program = torch.onnx.export(
            module.eval(),
            (pixels,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["pixels"],
            output_names=list(outputs),
            dynamic_shapes=({0: torch.export.Dim("N")},),
            verbose=False,
        )
    assert program is not None  # noqa: S101 - the return type is Optional for the other exporter
    program.model.metadata_props.update(
        {
            "backbone": backbone.name,
            "weights": backbone.weights,
            "height": str(preprocessing.height),
            "width": str(preprocessing.width),
            "resize": f"{'each tile of ' if tiles else ''}{looked_at} squashed with Pillow, "
            f"{preprocessing.resample}",
            **(
                {"tiles": f"{tiles.rows} x {tiles.columns}, {OVERLAPPING.format(tiles.overlap)}"}
                if tiles
                else {}
            ),
            "input": "uint8 [N, H, W, 3], RGB",
            "output": output,
        }
    )
    for node in program.model.graph.all_nodes():  # or it names files of this machine
        node.metadata_props.clear()
    program.save(path, external_data=False)


@contextmanager
def _out_of_place(module: nn.Module) -> Iterator[None]:
    """Let activations work out of place: torch's exporter takes half as long again over those that do not."""
    in_place: list[Any] = [part for part in module.modules() if getattr(part, "inplace", False)]
    for part in in_place:
        part.inplace = False
    try:
        yield
    finally:
        for part in in_place:
            part.inplace = True


def check_parity(module: FromPixels, extractor: Extractor, pixels: Pixels) -> None:
    """Compare an exported graph with the module it came from, on real images.

    Args:
        module: what was exported.
        extractor: the exported file, loaded.
        pixels: (n, H, W, 3) uint8 RGB.

    Raises:
        ParityError: a component of a feature differs by more than ``TOLERANCE``, see there.
    """
    with torch.no_grad():
        given = module(torch.from_numpy(pixels))
    outputs = extractor.run(pixels)
    expected = given if isinstance(given, tuple) else (given,)
    found = [output for output in (outputs.image, outputs.patches) if output is not None]
    difference = max(_difference(a, b.numpy()) for a, b in zip(found, expected, strict=True))
    if not difference <= TOLERANCE:
        raise ParityError(
            f"the exported graph differs from the trained network by {difference:.2g} on real images; "
            "nothing was written"
        )


def _difference(found: Features, expected: Features) -> float:
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))
