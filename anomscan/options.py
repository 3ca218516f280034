"""What a user may choose when adapting, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from anomscan import DEFAULT_BACKBONE
from anomscan.config import HoldOut
from anomscan.errors import UsageError


@dataclass(frozen=True)
class BackboneChoice:
    """Which pretrained network: see ``adapt.backbones.load_backbone``."""

    name: str = DEFAULT_BACKBONE
    weights: Path | None = None
    size: int | None = None


@dataclass(frozen=True)
class AdaptOptions:
    """How to adapt.

    ``outliers`` and ``reference`` are folders that some methods need. ``scorer`` and ``steps`` None take
    the method's; ``time_budget`` is in seconds of training; ``memory`` is what the cached activations
    may take, in bytes, before they go to a memory-mapped file; ``reduce`` is a ``gallery.Reduction``;
    ``hold_out`` says which normals calibrate.
    """

    method: str = "auto"
    backbone: BackboneChoice = field(default_factory=BackboneChoice)
    outliers: str | None = None
    reference: str | None = None
    scorer: str | None = None
    steps: int | None = None
    time_budget: float | None = None
    seed: int = 0
    device: str = "auto"
    memory: float = 2e9
    reduce: str | None = None
    hold_out: HoldOut = field(default_factory=HoldOut)


@dataclass(frozen=True)
class Decision:
    """When an image is called anomalous; at most one of the three.

    By p-value, so that at most ``fpr`` of the normals are; by Benjamini-Hochberg over the batch, so that at
    most ``fdr`` of those called so are normal; or by a raw score of ``threshold`` or more. Raises UsageError.
    """

    fpr: float | None = None
    fdr: float | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.fpr, self.fdr, self.threshold)) > 1:
            raise UsageError("--fpr, --fdr and --threshold are three ways to decide; choose one")
