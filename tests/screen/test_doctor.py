from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from anomscan.screen import doctor
from anomscan.screen.doctor import Finding, examine


def found(model: Path, folder: Path) -> dict[str, Finding]:
    return {finding.what: finding for finding in examine(str(model), str(folder))}


def test_a_machine_on_which_all_is_well(calibrated_folder: Path, tmp_path: Path) -> None:
    findings = found(calibrated_folder, tmp_path)
    assert all(finding.good for finding in findings.values()), findings
    assert "numpy" in findings["packages for scoring"].found
    assert "10 held-out normals: --fpr 0.091" in findings["p-values"].found
    assert "two drawn images score" in findings["self-test"].found
    assert findings["new files, folder"].found == "told by the system of new files"
    assert list(tmp_path.iterdir()) == []


def test_a_system_that_tells_nothing_is_found_out(
    calibrated_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "MOMENTS", 2)
    monkeypatch.setattr(doctor.Notified, "wait", lambda _: [])
    finding = found(calibrated_folder, tmp_path)["new files, folder"]
    assert (finding.good, finding.remedy) == (False, "watch with --poll SECONDS")


def test_a_folder_that_is_watched_by_looking_is_well(
    calibrated_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError("too many watches")

    monkeypatch.setattr(doctor.Notified, "_begin", refused)
    finding = found(calibrated_folder, tmp_path)["new files, folder"]
    assert finding.good
    assert finding.found == "looking every 5 s, since the system tells nothing (too many watches)"


def test_what_is_wrong_has_a_remedy(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "rich" else "1.0")
    monkeypatch.setattr(doctor, "try_lock", lambda _: None)
    monkeypatch.setattr(doctor, "find_spec", lambda _: None)
    findings = found(model_folder, tmp_path)
    bad = {what for what, finding in findings.items() if not finding.good}
    assert bad == {
        "packages for scoring",
        "weights of the default backbone",
        "free disk, folder",
        "free disk, temporary folder",
        "locks, folder",
        "locks, temporary folder",
        "p-values",
    }
    assert all(findings[what].remedy for what in bad)
    assert findings["packages for scoring"].found == "missing: rich"


def test_a_machine_for_scoring_only_is_well(
    calibrated_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "torch" else "1.0")
    finding = found(calibrated_folder, tmp_path)["packages for adapting"]
    assert (finding.good, finding.found) == (True, "not installed (torch): this machine scores only")


def test_a_folder_that_is_not_there_and_a_damaged_model(model_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(model_folder, tmp_path / "m"))
    next(copy.glob("index-*")).write_bytes(b"x")
    findings = found(copy, tmp_path / "nowhere")
    assert not findings["folder"].good
    assert "checksum differs" in findings["model"].found
    assert not findings["model"].good
    assert "self-test" not in findings


def test_no_model_yet_is_no_fault(tmp_path: Path) -> None:
    assert found(tmp_path / "m", tmp_path)["model"].good
