"""What a user may choose when adapting, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from anomscan.config import DEFAULT_BACKBONE


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
    may take, in bytes, before they go to a memory-mapped file; ``reduce`` is a ``gallery.Reduction``.
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
