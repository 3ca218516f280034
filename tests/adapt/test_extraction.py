from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomscan.adapt import extraction, stopping
from anomscan.bundle import INDEX, read_model
from anomscan.errors import UsageError
from tests.conftest import Fit


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"method": "panda-oe"},
            "panda-oe learns from a further folder of images: name it with --outliers DIR",
        ),
        ({"method": "joint"}, "name it with --reference DIR"),
        ({"method": "joint", "reference": "NORMALS"}, "needs a subfolder of reference images for each"),
        ({"method": "msc", "outliers": "OTHERS"}, "msc does not use --outliers"),
        ({"method": "adib", "reference": "OTHERS", "outliers": "OTHERS"}, "adib does not use --reference"),
        ({"method": "msc", "scorer": "logit"}, "msc does not learn what the scorer logit needs"),
        ({"method": "panda-ses", "scorer": "knn"}, "panda-ses scores sample-wise"),
        ({"method": "none", "scorer": "best"}, "no scorer called 'best'"),
        ({"method": "none", "steps": 5}, "none does not train; leave --steps and --time-budget out"),
        ({"method": "stages", "scorer": "mean-euclidean"}, "stages gives normalised features"),
    ],
)
def test_parts_that_do_not_fit_together(
    fit: Fit, normal_folder: Path, others: Path, tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    folders = {"NORMALS": str(normal_folder), "OTHERS": str(others)}
    named = {name: folders.get(value, value) for name, value in options.items()}
    with pytest.raises(UsageError, match=re.escape(sentence)):
        fit(normal_folder, tmp_path / "m", **named)


def test_too_few_normals_to_hold_some_out_are_not_adapted_to(
    fit: Fit, normal_folder: Path, tmp_path: Path
) -> None:
    method = fit(normal_folder, tmp_path / "m", method="auto").manifest.method
    assert method.steps == 0
    assert method.selection is not None
    assert method.selection["reason"].startswith("kept the unadapted features: 20 normals are too few")
    assert "alignment" in method.selection["readout"]


def test_consolidation_takes_a_reference_folder(
    fit: Fit, normal_folder: Path, others: Path, tmp_path: Path
) -> None:
    alone = fit(normal_folder, tmp_path / "a", method="panda-ewc", steps=2).manifest
    referred = fit(normal_folder, tmp_path / "b", method="panda-ewc", steps=2, reference=str(others)).manifest
    assert alone.files[INDEX] != referred.files[INDEX]


def test_auto_reads_the_stages_of_what_it_chose(
    fit: Fit, normal_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "FEWEST_TO_SPLIT", 10)
    monkeypatch.setattr(stopping, "MARGIN", 101.0)
    frozen = fit(normal_folder, tmp_path / "a", method="stages").manifest
    auto = fit(normal_folder, tmp_path / "b", method="auto", steps=2).manifest
    assert auto.method.selection is not None
    assert frozen.method.selection is not None
    assert auto.method.selection["readout"] == frozen.method.selection["readout"]
    assert {"chosen_step", "curve"} <= auto.method.selection.keys()
    assert auto.method.selection["chosen_step"] == 0
    vectors = [read_model(tmp_path / name, 1).gallery.vectors() for name in "ab"]
    np.testing.assert_allclose(*vectors, atol=1e-6)
