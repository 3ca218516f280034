from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from anomscan.bundle import INDEX
from anomscan.errors import InputError, UsageError
from tests.conftest import Fit, draw


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


def test_too_few_normals_to_hold_some_out(fit: Fit, tmp_path: Path) -> None:
    for seed in range(9):
        (tmp_path / "few").mkdir(exist_ok=True)
        draw(seed).save(tmp_path / "few" / f"{seed}.png")
    with pytest.raises(InputError, match="9 are too few; it needs 10"):
        fit(tmp_path / "few", tmp_path / "m", method="auto")


def test_consolidation_takes_a_reference_folder(
    fit: Fit, normal_folder: Path, others: Path, tmp_path: Path
) -> None:
    alone = fit(normal_folder, tmp_path / "a", method="panda-ewc", steps=2).manifest
    referred = fit(normal_folder, tmp_path / "b", method="panda-ewc", steps=2, reference=str(others)).manifest
    assert alone.files[INDEX] != referred.files[INDEX]
