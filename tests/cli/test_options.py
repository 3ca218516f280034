from __future__ import annotations

from pathlib import Path

import pytest

from anomscan import DEFAULT_BACKBONE
from anomscan.adapt.options import BackboneChoice
from anomscan.cli.options import Format, LineFormat, backbone_choice, check_force, named_format
from anomscan.errors import UsageError
from anomscan.scoring.registry import SCORERS
from tests.conftest import Run


def test_the_backbone_is_the_default_unless_named() -> None:
    assert backbone_choice(None, None, None) == BackboneChoice(DEFAULT_BACKBONE)
    assert backbone_choice("resnet18", "w.pth", 96) == BackboneChoice("resnet18", "w.pth", 96)


def test_force_goes_with_int8() -> None:
    for int8, force in ((True, True), (True, False), (False, False)):
        check_force(int8, force)
    with pytest.raises(UsageError, match="--force goes with --int8 only"):
        check_force(False, True)


def test_the_name_of_the_output_says_its_format_where_nothing_else_does() -> None:
    names = {"rows.csv": "csv", "ROWS.JSONL": "jsonl", "a.b/rows.parquet": "parquet", "rows.txt": "csv"}
    assert {name: named_format(None, name, Format).value for name in names} == names
    assert named_format(None, None, Format) is Format.csv
    assert named_format(Format.csv, "rows.jsonl", Format) is Format.csv
    assert named_format(None, "log.jsonl", LineFormat) is LineFormat.jsonl
    assert named_format(LineFormat.csv, "log.parquet", LineFormat) is LineFormat.csv
    with pytest.raises(UsageError, match="rows cannot be appended to a file of parquet"):
        named_format(None, "log.parquet", LineFormat)


@pytest.mark.parametrize("verb", ["adapt", "index"])
def test_the_help_lists_the_scorers_that_go_with_any_method(run: Run, verb: str) -> None:
    shown = "".join(run(verb, "--help").stdout.decode().split())
    listed = ",".join(entry.spelled.replace(" ", "") for entry in SCORERS.values() if not entry.learnt)
    assert f"{listed}(default:themethod's)" in shown


def test_the_model_folder_is_named_or_in_the_environment(
    run: Run, model_folder: Path, calibrated_folder: Path, tmp_path: Path
) -> None:
    named = run("info", "--json", "--model", model_folder, ANOMSCAN_MODEL=str(calibrated_folder)).stdout
    assert named == (run("info", "--json", ANOMSCAN_MODEL=str(model_folder))).stdout
    (tmp_path / "anomscan-model").symlink_to(model_folder)
    assert run("info", "--json").stdout == named
