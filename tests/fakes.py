"""A network of four operators in place of a real one: screening is tested in a moment, without torch."""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from anomscan.files.storage import Identity
from anomscan.images.decode import Decoded
from anomscan.network.network import EXTRACTOR, WEIGHTS, BackboneInfo, FocusInfo, MethodInfo, Network
from anomscan.scoring.info import Looks
from anomscan.screen.screener import Scored
from anomscan.types import Features, Outputs, PatchMaps, Preprocessing

CELLS = 8
"""Rows and columns of the grid over which the fake network averages."""


def fake_network(folder: Path, size: int = 64, *, normalise: bool = True, looks: Looks = "image") -> Network:
    """Mean colours of the cells of a grid, (N, 192), of norm 1 unless told otherwise; files in ``folder``.

    Where it looks at patches, too, those are the same colours in whole numbers, (N, 8, 8, 3).
    """
    cell = size // CELLS
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["channels"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "AveragePool", ["channels"], ["cells"], kernel_shape=[cell, cell], strides=[cell, cell]
        ),
        helper.make_node("Flatten", ["cells"], ["flat"]),
        helper.make_node("LpNormalization", ["flat"], ["image"], axis=1, p=2)
        if normalise
        else helper.make_node("Identity", ["flat"], ["image"]),
    ]
    outputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3 * CELLS**2])]
    if looks != "image":
        nodes.append(helper.make_node("Round", ["cells"], ["rounded"]))  # they fit into 16 bits exactly
        nodes.append(helper.make_node("Transpose", ["rounded"], ["patches"], perm=[0, 2, 3, 1]))
        outputs.append(helper.make_tensor_value_info("patches", TensorProto.FLOAT, ["N", CELLS, CELLS, 3]))
    graph = helper.make_graph(
        nodes,
        "fake",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", size, size, 3])],
        outputs,
    )
    files = {EXTRACTOR: folder / "extractor.onnx", WEIGHTS: folder / "extractor.safetensors"}
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), files[EXTRACTOR]
    )
    files[WEIGHTS].write_bytes(b"no weights")
    preprocessing = Preprocessing(size, size, "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    backbone = BackboneInfo("fake", "tests", "0" * 64, 3 * CELLS**2)
    focus = FocusInfo(looks, size=0 if looks == "image" else size)
    return Network(files, backbone, preprocessing, MethodInfo("none", seed=0), focus=focus)


def identity(path: str) -> Identity:
    """The state of a file that was never there; of one path always the same."""
    return Identity(0, zlib.crc32(os.fsencode(path)), 0, 0, stat.S_IFREG)


def scored(
    paths: Sequence[str],
    scores: Sequence[float],
    p_values: Sequence[float] | None = None,
    nearest: Sequence[str] | None = None,
    features: Features | None = None,
    known: Sequence[bool] | None = None,
    maps: PatchMaps | None = None,
    aspects: Mapping[str, Sequence[float]] | None = None,
) -> Scored:
    """Images that were never there, scored as told."""
    pixels = np.zeros((1, 1, 3), np.uint8)
    features = np.zeros((len(paths), 1), np.float32) if features is None else features
    return Scored(
        [Decoded(path, pixels, path, identity(path)) for path in paths],
        np.array(scores, np.float32),
        None if p_values is None else np.array(p_values, np.float64),
        list(nearest or ["n"] * len(paths)),
        np.array(known or [False] * len(paths), np.bool_),
        Outputs(features, maps=maps),
        features,
        {name: np.array(values, np.float32) for name, values in (aspects or {}).items()},
    )
