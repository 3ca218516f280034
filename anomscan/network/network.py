"""A network that is ready to embed images, and how it came about."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from anomscan.types import Arrays, Preprocessing

EXTRACTOR, WEIGHTS = "extractor", "weights"
"""Roles of its files: the ONNX graph, and the weights under timm's names."""


@dataclass(frozen=True)
class BackboneInfo:
    """The network before adapting: its timm name, where its weights came from, their SHA-256."""

    name: str
    weights: str
    weights_sha256: str
    dim: int


@dataclass(frozen=True)
class MethodInfo:
    """How the backbone was adapted: the preset and every number that shaped the run.

    ``selection`` holds what a label-free choice chose, why, and what it measured at every checkpoint.
    """

    preset: str
    seed: int
    steps: int = 0
    final_loss: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    selection: dict[str, Any] | None = None


@dataclass(frozen=True)
class FocusInfo:
    """What was decided to look at, and why: see ``adapt.focus``.

    ``size`` is the side in pixels at which patches are looked at, 0 where they are not; ``weight`` what the
    whole image counts for beside them; ``measured`` what the choice was made by; ``procedure`` the paper's by
    which patches are compared, see ``scoring.registry``, or None for anomscan's own.
    """

    looks: Literal["image", "patch", "both"] = "image"
    reason: str = "asked for"
    size: int = 0
    weight: float = 1.0
    measured: dict[str, Any] = field(default_factory=dict)
    procedure: str | None = None

    def describe(self) -> str:
        """In a few words."""
        what = {"image": "whole images", "patch": "patches", "both": "patches and whole images"}[self.looks]
        return f"looks at {what}: {self.reason}"


@dataclass(frozen=True)
class Int8Info:
    """An 8-bit extractor's speed over the float one's, and how alike the scores of normals are by the two.

    ``spearman`` is the correlation of their ranks, ``p_value_change`` the mean change of a normal's p-value
    among the others.
    """

    speed: float
    spearman: float
    p_value_change: float


@dataclass(frozen=True)
class Network:
    """An exported network: its files by role, what they take, where they come from.

    ``learnt`` are the arrays that its objective or its checkpoints leave to the scorer.
    """

    files: dict[str, Path]
    backbone: BackboneInfo
    preprocessing: Preprocessing
    method: MethodInfo
    learnt: Arrays = field(default_factory=dict)
    int8: Int8Info | None = None
    focus: FocusInfo = field(default_factory=FocusInfo)

    @property
    def graph(self) -> Path:
        """The ONNX file."""
        return self.files[EXTRACTOR]
