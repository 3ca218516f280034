"""The methods of the papers, each as independent parts: one line a method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from anomscan.adapt.objectives import AngularCenter, Compactness, MeanShiftedContrastive, Objective, Sum
from anomscan.errors import UsageError


@dataclass(frozen=True)
class Optimisation:
    """Stochastic gradient descent: ``clip`` bounds the gradient's norm, None leaves it as it is."""

    steps: int
    batch: int
    rate: float
    momentum: float
    weight_decay: float
    clip: float | None


@dataclass(frozen=True)
class Preset:
    """A method: what is minimised and how.

    ``objective`` None leaves the features as they are (DN2). ``views`` is how many random views of every
    image are drawn, once, for an objective that compares two.
    """

    objective: Callable[[], Objective] | None
    optimisation: Optimisation
    views: int = 0


# PANDA, appendix D: batch 32, momentum 0.9, weight decay 5e-5, gradients clipped to a norm of 1e-3.
# Its 2,300 steps collapse some classes (tab. 4); 100 is cautious.
_PANDA = Optimisation(steps=100, batch=32, rate=1e-2, momentum=0.9, weight_decay=5e-5, clip=1e-3)
# Mean-Shifted Contrastive, appendix A.3: batch 64, no momentum, weight decay 5e-5.
_MSC = Optimisation(steps=50, batch=64, rate=1e-3, momentum=0.0, weight_decay=5e-5, clip=None)

PRESETS: dict[str, Preset] = {
    "none": Preset(None, Optimisation(0, 0, 0.0, 0.0, 0.0, None)),
    "panda-es": Preset(Compactness, _PANDA),
    "msc": Preset(MeanShiftedContrastive, _MSC, views=4),
    "msc-angular": Preset(lambda: Sum(MeanShiftedContrastive(), AngularCenter()), _MSC, views=4),
}


def find_preset(name: str) -> Preset:
    """The preset of that name; raises UsageError, which lists them all."""
    if name not in PRESETS:
        raise UsageError(f"there is no method called {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
