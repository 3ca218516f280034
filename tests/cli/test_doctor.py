from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import Run


def test_lines_or_json_and_an_exit_code(run: Run, calibrated_folder: Path, tmp_path: Path) -> None:
    done = run("doctor", tmp_path, "--model", calibrated_folder)
    lines = done.stdout.decode().splitlines()
    assert (done.returncode, done.stderr) == (0, b"")
    assert all(line.startswith("ok  ") for line in lines)
    findings = json.loads(run("doctor", tmp_path, "--model", calibrated_folder, "--json").stdout)
    assert [finding["what"] for finding in findings] == [line[4:].partition(":")[0] for line in lines]


def test_what_is_wrong_is_said_with_its_remedy(run: Run, tmp_path: Path) -> None:
    done = run("doctor", tmp_path / "nowhere")
    assert done.returncode == 1
    assert b"BAD folder: " in done.stdout
    assert b"does not exist; make it, or name another" in done.stdout
