"""What the parts of every method say of themselves."""

from __future__ import annotations

import pytest

from anomscan.adapt.objectives import JointClassification
from anomscan.adapt.parts import OUTLIERS, REFERENCE, REFERENCE_CLASSES, FurtherFolder
from anomscan.adapt.presets import PRESETS, Preset, find_preset
from anomscan.adapt.regularizers import ElasticWeightConsolidation
from anomscan.errors import UsageError
from anomscan.scoring.registry import PROCEDURES, asked_scorer, scorer_class

LOGIT = frozenset(("weight", "bias"))
NEEDS = {
    "panda-ewc": {REFERENCE},
    "joint": {REFERENCE_CLASSES},
    "panda-oe": {OUTLIERS},
    "hsc": {OUTLIERS},
    "adib": {OUTLIERS},
    "adib-ewc": {OUTLIERS, REFERENCE},
    "adra": {OUTLIERS},
}
LEARNS = {
    **dict.fromkeys(("panda-oe", "adib", "adib-ewc", "adra"), LOGIT),
    "panda-ses": frozenset(("checkpoints",)),
}


@pytest.mark.parametrize("name", PRESETS)
def test_what_a_preset_needs_and_learns(name: str) -> None:
    preset = PRESETS[name]
    assert preset.needs == NEEDS.get(name, set())
    assert preset.learns == LEARNS.get(name, frozenset())
    assert preset.trains == (name not in ("none", "stages", *PROCEDURES))
    assert preset.trains == (preset.optimisation.steps > 0)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_goes_with_its_scorer(name: str) -> None:
    preset = PRESETS[name]
    info = asked_scorer(None, preset.scorer, preset.learns, name)
    assert scorer_class(info.name).needs <= preset.learns
    assert info.metric == "cosine" or not any(part.normalises for part in preset.parts)


@pytest.mark.parametrize("name", PRESETS)
def test_an_objective_of_several_views_has_them(name: str) -> None:
    preset = PRESETS[name]
    if preset.objective is not None:
        assert preset.views == 0 if preset.objective.views == 1 else preset.views >= preset.objective.views


def test_a_preset_is_described_by_its_parts() -> None:
    assert len({preset.describe() for preset in PRESETS.values()}) == len(PRESETS)
    assert PRESETS["none"].describe() == "the square root of the head's features, a little whitened"
    assert PRESETS["panda-ewc"].describe() == (
        "compactness; elastic weight consolidation; the last stages learn; a fixed number of steps; "
        "the head's features"
    )


def test_every_procedure_for_patches_has_a_preset() -> None:
    named = {name: preset.patches.procedure for name, preset in PRESETS.items() if preset.patches}
    assert named == {name: name for name in PROCEDURES}
    assert {PRESETS[name].looks for name in named} == {"patch"}
    assert PRESETS["padim"].describe() == "the head's features; patches and their score by padim"


def test_parts_compose() -> None:
    both = Preset(JointClassification(), regularizer=ElasticWeightConsolidation())
    assert both.needs == {REFERENCE, REFERENCE_CLASSES}
    assert [part.needs_classifier for part in both.parts] == [False, True, False, False, False]
    assert FurtherFolder("reference").required


def test_an_unknown_preset_lists_the_known() -> None:
    with pytest.raises(UsageError, match=r"'panda'; choose one of none, stages, panda-es"):
        find_preset("panda")
