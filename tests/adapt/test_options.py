from __future__ import annotations

from anomscan.adapt.options import AdaptOptions
from anomscan.adapt.presets import PRESETS


def test_the_further_folders_are_those_that_methods_need() -> None:
    assert AdaptOptions(outliers="o", reference="r").further == {"outliers": "o", "reference": "r"}
    assert {need.option for preset in PRESETS.values() for need in preset.needs} == set(
        AdaptOptions().further
    )
