"""What a user may choose when adapting, as frozen dataclasses; light, so that the help loads no library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from anomscan import DEFAULT_BACKBONE
from anomscan.images.tiling import TileChoice
from anomscan.types import Reading


@dataclass(frozen=True)
class BackboneChoice:
    """Which pretrained network: see ``adapt.backbones.load_backbone``."""

    name: str = DEFAULT_BACKBONE
    weights: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class FocusChoice:
    """What to look at: ``image``, ``patch``, ``both``, ``auto``, or with None what the method looks at.

    ``budget`` is how many milliseconds a core may take for an image where the size is chosen; ``most`` how
    many patches the gallery holds, with None as many as before, or ``bank.MOST``.
    """

    looks: str | None = None
    budget: float | None = None
    most: int | None = None


@dataclass(frozen=True)
class GoingOn:
    """Where the state of the training is kept for a run that goes on with it, and who is told so."""

    file: Path
    say: Callable[[str], None]


@dataclass(frozen=True)
class AdaptOptions:
    """How to adapt.

    ``outliers`` and ``reference`` are folders that some methods need. ``scorer`` and ``steps`` None take
    the method's; ``time_budget`` is in seconds of training; ``memory`` is what the cached activations
    may take, in bytes, before they go to a memory-mapped file; ``reading`` is how the images are read;
    ``focus`` what to look at, and ``tiles`` in which tiles. ``going_on`` None keeps no checkpoint. Where
    ``all_calibrate``, the features of a network that was not trained are not fitted to the normals either.
    With ``isolate`` images of further folders are first tried in processes of their own, see ``sifted``.
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
    reading: Reading = field(default_factory=Reading)
    focus: FocusChoice = field(default_factory=FocusChoice)
    going_on: GoingOn | None = None
    tiles: TileChoice = field(default_factory=TileChoice)
    all_calibrate: bool = False
    isolate: float | None = None

    @property
    def further(self) -> dict[str, str | None]:
        """The folders beside the normals, by their options."""
        return {"outliers": self.outliers, "reference": self.reference}
