"""The methods of the papers, each as independent parts: one entry a method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from anomscan.adapt.objectives import (
    AngularCenter,
    Compactness,
    HypersphereClassifier,
    JointClassification,
    Logistic,
    MeanShiftedContrastive,
    Objective,
    Sum,
)
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
    """A method: what is minimised, what holds it back, what learns, when it stops, how it scores.

    ``objective`` None leaves the features as they are (DN2). ``views`` is how many random views of every
    image are drawn, once, for an objective that compares two. ``readout`` says which outputs make up the
    features, see ``readouts``.
    """

    objective: Callable[[], Objective] | None
    optimisation: Optimisation
    regularizer: Literal["none", "ewc", "l2-sp"] = "none"
    trainable: Literal["last stages", "last stage", "all", "adapters"] = "last stages"
    stopping: Literal["fixed", "samplewise", "label-free"] = "fixed"
    scorer: str = "knn"
    views: int = 0
    readout: Literal["head", "stages"] = "head"

    @property
    def learns_logit(self) -> bool:
        """Whether it trains the layer that the scorer ``logit`` is."""
        return self.objective is Logistic


def msc_angular() -> Objective:
    """Mean-shifted contrastive + angular centre (Mean-Shifted Contrastive, tab. 3)."""
    return Sum(MeanShiftedContrastive(), AngularCenter())


_NONE = Optimisation(steps=0, batch=0, rate=0.0, momentum=0.0, weight_decay=0.0, clip=None)
# PANDA, appendix D: batch 32, momentum 0.9, weight decay 5e-5, gradients clipped to a norm of 1e-3.
# Its 2,300 steps collapse some classes (tab. 4); 100 is cautious.
_PANDA = Optimisation(steps=100, batch=32, rate=1e-2, momentum=0.9, weight_decay=5e-5, clip=1e-3)
# Mean-Shifted Contrastive, appendix A.3: batch 64, no momentum, weight decay 5e-5.
_MSC = Optimisation(steps=50, batch=64, rate=1e-3, momentum=0.0, weight_decay=5e-5, clip=None)
# Transfer-Based Semantic AD, sec. 5.1: momentum 0.9, weight decay 1e-4. With PANDA's own for outlier exposure
# (appendix D: rate 0.1, no weight decay, clipped to 1e-3) 200 steps learn less: see benchmarks/README.md.
_OUTLIERS = Optimisation(steps=50, batch=16, rate=1e-2, momentum=0.9, weight_decay=1e-4, clip=1.0)

_AUTO = Optimisation(steps=100, batch=64, rate=1e-2, momentum=0.9, weight_decay=5e-5, clip=None)

PRESETS: dict[str, Preset] = {
    "none": Preset(None, _NONE),
    "stages": Preset(None, _NONE, readout="stages"),
    "panda-es": Preset(Compactness, _PANDA),
    "panda-ses": Preset(Compactness, _PANDA, stopping="samplewise", scorer="samplewise"),
    "panda-ewc": Preset(Compactness, _PANDA, regularizer="ewc"),
    "panda-angular": Preset(AngularCenter, _PANDA),
    "panda-oe": Preset(Logistic, _OUTLIERS),
    "joint": Preset(JointClassification, _PANDA),
    "msc": Preset(MeanShiftedContrastive, _MSC, views=4),
    "msc-angular": Preset(msc_angular, _MSC, views=4),
    "hsc": Preset(
        HypersphereClassifier, _OUTLIERS, regularizer="l2-sp", trainable="all", scorer="mean-euclidean"
    ),
    "adib": Preset(Logistic, _OUTLIERS, regularizer="l2-sp", trainable="all"),
    "adra": Preset(Logistic, _OUTLIERS, trainable="adapters"),
    "auto": Preset(
        msc_angular, _AUTO, trainable="last stage", stopping="label-free", views=4, readout="stages"
    ),
}


def find_preset(name: str) -> Preset:
    """The preset of that name; raises UsageError, which lists them all."""
    if name not in PRESETS:
        raise UsageError(f"there is no method called {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
