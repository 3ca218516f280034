from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from anomscan.model.folder import read_manifest
from tests.conftest import Run, draw


@pytest.fixture
def folder(calibrated_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(calibrated_folder, tmp_path / "m"))


@pytest.fixture
def day(tmp_path: Path) -> Path:
    (tmp_path / "day" / "a").mkdir(parents=True)
    for seed in range(12):
        draw(600 + seed).save(tmp_path / "day" / "a" / f"{seed}.png")
    return tmp_path / "day"


def test_other_normals_calibrate_in_groups(run: Run, folder: Path, day: Path) -> None:
    done = run("calibrate", "day", "--model", folder, "--group-by", "folder")
    assert "12 more are held out in 1 groups" in done.stderr.decode()
    refused = run("score", "day", "--model", folder, "--fpr", "0.1")
    assert "needs 9 held-out groups of normals and the model has 1" in refused.stderr.decode()
    again = run("calibrate", "day", "--model", folder)  # keeps the rule
    assert "12 more are held out in 1 groups" in again.stderr.decode()


def test_an_unreadable_normal_is_skipped_and_exit_code_3(run: Run, folder: Path, day: Path) -> None:
    (day / "broken.png").touch()
    done = run("calibrate", "day", "--model", folder)
    assert done.returncode == 3
    assert done.stderr.decode().splitlines()[0].startswith("skipped day/broken.png: not an image")
    assert "12 more are held out: p-values from 0.077 up" in done.stderr.decode()


def test_what_goes_wrong_is_one_sentence(
    run: Run, folder: Path, day: Path, normal_folder: Path, tmp_path: Path
) -> None:
    before = read_manifest(str(folder))
    for arguments, sentence in (
        (["day"], "no model in anomscan-model"),
        (["nowhere", "--model", folder], "nowhere: No such file or directory"),
        ([normal_folder, "--model", folder], "are among the normals that the model compares with"),
    ):
        done = run("calibrate", *arguments)  # type: ignore[arg-type]
        assert (done.returncode, done.stdout) == (1, b"")
        assert sentence in done.stderr.decode()
        assert done.stderr.count(b"\n") == 1
    assert not (tmp_path / "anomscan-model").exists()
    assert read_manifest(str(folder)) == before
