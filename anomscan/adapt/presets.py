"""The methods of the papers, each as independent parts: one entry a method."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from anomscan.adapt.beside import Beside
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
from anomscan.adapt.parts import FurtherFolder, Part
from anomscan.adapt.patches import PaperPatches
from anomscan.adapt.readouts import Head, Readout, RootedHead, RootedStages
from anomscan.adapt.regularizers import L2SP, ElasticWeightConsolidation, Regularizer
from anomscan.adapt.stopping import AllSteps, Samplewise, Stopping
from anomscan.adapt.trainables import (
    Everything,
    LastStages,
    LastStagesOfASmallerInput,
    ResidualAdapters,
    Trainable,
)
from anomscan.adapt.trainer import Optimisation
from anomscan.errors import UsageError

_NONE = Optimisation(steps=0, batch=0, rate=0.0, momentum=0.0, weight_decay=0.0, clip=None)
# PANDA, appendix D: batch 32, momentum 0.9, weight decay 5e-5, gradients clipped to a norm of 1e-3.
# Its 2,300 steps collapse some classes (tab. 4); 100 is cautious.
_PANDA = Optimisation(steps=100, batch=32, rate=1e-2, momentum=0.9, weight_decay=5e-5, clip=1e-3)
# Mean-Shifted Contrastive, appendix A.3: batch 64, no momentum, weight decay 5e-5.
_MSC = Optimisation(steps=50, batch=64, rate=1e-3, momentum=0.0, weight_decay=5e-5, clip=None)
# Transfer-Based Semantic AD, sec. 5.1: momentum 0.9, weight decay 1e-4. With PANDA's own for outlier exposure
# (appendix D: rate 0.1, no weight decay, clipped to 1e-3) 200 steps learn less: see benchmarks/README.md.
_OUTLIERS = Optimisation(steps=50, batch=16, rate=1e-2, momentum=0.9, weight_decay=1e-4, clip=1.0)

# As far as 100 steps of the preset above: see benchmarks/README.md.
_AUTO = replace(_MSC, steps=25, rate=4e-3)


@dataclass(frozen=True)
class Preset:
    """A method: what is minimised, what holds it back, what learns, when it stops, how it is read and scored.

    ``objective`` None leaves the network as it is (DN2). ``views`` is how many random views of every
    image are drawn, once, for an objective that compares two. ``scorer`` is a name of ``scoring.registry``;
    ``looks`` is at what, see ``options.FocusChoice``: most papers look at whole images. ``patches`` None
    takes anomscan's own, where patches are looked at.
    """

    objective: Objective | None = None
    optimisation: Optimisation = _NONE
    regularizer: Regularizer | None = None
    trainable: Trainable = field(default_factory=LastStages)
    stopping: Stopping = field(default_factory=AllSteps)
    readout: Readout = field(default_factory=Head)
    scorer: str = "knn"
    views: int = 0
    looks: str = "image"
    patches: PaperPatches | None = None

    @property
    def trains(self) -> bool:
        """Whether anything learns."""
        return self.objective is not None

    @property
    def parts(self) -> tuple[Part, ...]:
        """Those that matter."""
        training = (self.objective, self.regularizer, self.trainable, self.stopping) if self.trains else ()
        return tuple(part for part in (*training, self.readout, self.patches) if part is not None)

    @property
    def needs(self) -> frozenset[FurtherFolder]:
        """The further folders that the parts learn from."""
        return frozenset(part.needs for part in self.parts if part.needs)

    @property
    def learns(self) -> frozenset[str]:
        """Names of the arrays that the parts leave to the scorer."""
        return frozenset().union(*(part.learns for part in self.parts))

    def describe(self) -> str:
        """One line for a person."""
        return "; ".join(part.describe() for part in self.parts)


PRESETS: dict[str, Preset] = {
    "none": Preset(readout=RootedHead(), scorer="knn-euclidean", looks="auto"),
    "stages": Preset(readout=RootedStages(), scorer="knn-euclidean", looks="auto"),
    "panda-es": Preset(Compactness(), _PANDA),
    "panda-ses": Preset(Compactness(), _PANDA, stopping=Samplewise(), scorer="samplewise"),
    "panda-ewc": Preset(Compactness(), _PANDA, regularizer=ElasticWeightConsolidation()),
    "panda-angular": Preset(AngularCenter(), _PANDA),
    "panda-oe": Preset(Logistic(), _OUTLIERS),
    "joint": Preset(JointClassification(), _PANDA),
    "msc": Preset(MeanShiftedContrastive(), _MSC, views=4),
    # Mean-Shifted Contrastive, tab. 3
    "msc-angular": Preset(Sum(MeanShiftedContrastive(), AngularCenter()), _MSC, views=4),
    "hsc": Preset(
        HypersphereClassifier(),
        _OUTLIERS,
        regularizer=L2SP(),
        trainable=Everything(),
        scorer="mean-euclidean",
    ),
    "adib": Preset(Logistic(), _OUTLIERS, regularizer=L2SP(), trainable=Everything()),
    # Transfer-Based Semantic AD, tab. 4, a_5; sec. 5.2: a Fisher multiplier of 400.
    "adib-ewc": Preset(
        Logistic(),
        _OUTLIERS,
        regularizer=ElasticWeightConsolidation(strength=400),
        trainable=Everything(),
    ),
    "adra": Preset(Logistic(), _OUTLIERS, trainable=ResidualAdapters()),
    # Strides of the stages: PatchCore sec. 3.1, SPADE sec. 3.4, PaDiM sec. 3.1; d as for its ResNet-18.
    "patchcore": Preset(
        scorer="knn-euclidean", looks="patch", patches=PaperPatches("patchcore", (8, 16), neighbourhood=3)
    ),
    "spade": Preset(scorer="knn-euclidean", looks="patch", patches=PaperPatches("spade", (4, 8, 16))),
    "padim": Preset(
        scorer="knn-euclidean", looks="patch", patches=PaperPatches("padim", (4, 8, 16), components=100)
    ),
    "auto": Preset(
        MeanShiftedContrastive(),
        _AUTO,
        views=4,
        trainable=LastStagesOfASmallerInput(),
        stopping=Beside(),
        readout=RootedStages(),
        scorer="knn-euclidean",
        looks="auto",
    ),
}


def find_preset(name: str) -> Preset:
    """The preset of that name; raises UsageError, which lists them all."""
    if name not in PRESETS:
        raise UsageError(f"there is no method called {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
