from __future__ import annotations

import os

import pytest

from anomscan.errors import UsageError
from anomscan.images.workpiece import PartRule, is_rule


@pytest.mark.parametrize(
    ("rule", "path", "part"),
    [
        ("prefix", "in/lot7_0012_left.png", "in/lot7_0012"),
        ("prefix", "in/lot7_0012-top.jpg", "in/lot7_0012"),
        ("prefix", "in/0012.png", "in/0012"),
        ("prefix", "in/_left.png", "in/_left"),
        ("prefix", "in/stack.tif#3", "in/stack"),
        ("folder", "in/0012/left.png", "in/0012"),
        (r"/(\d+)[^/]*$", "cam1/0012.png", "0012"),
        (r"(\d+)/cam\d_(\d+)", "/data/20260102/cam2_7.png", "20260102/7"),
        (r"x(\d)?", "/box/a.png", ""),
        (r"none(x)", "in/a.png", "in/a.png"),
    ],
)
def test_the_part_of_an_image(rule: str, path: str, part: str) -> None:
    assert PartRule.parse(rule, "--part-by").of(path) == part


def test_the_same_image_by_either_path_is_of_the_same_part() -> None:
    rule = PartRule.parse(r"/(\d+)_", "--part-by")
    assert rule.of("in/12_a.png") == rule.of(os.path.abspath("in/12_a.png")) == "12"


@pytest.mark.parametrize("text", ["", "prefx", "suffix", "(", r"\d+"])
def test_what_is_no_rule_is_refused(text: str) -> None:
    assert not is_rule(text)
    with pytest.raises(UsageError, match="--part-by takes a rule by its name, or a regular expression"):
        PartRule.parse(text, "--part-by")
