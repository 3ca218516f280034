"""What a person sees in a terminal of 80 columns."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from anomscan.console import ranking_table
from anomscan.report import Row
from tests.conftest import REPOSITORY, draw


def in_terminal(*arguments: str | Path, cwd: Path) -> str:
    """Standard output and error of a command whose terminal is 80 columns wide."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "80", "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-m", "anomscan", *arguments],
        cwd=cwd,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        close_fds=True,
    )
    os.close(theirs)
    output = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:
            break
        output += chunk
    process.wait(timeout=60)
    os.close(ours)
    return output.decode()


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_score_draws_a_table_with_progress(model_folder: Path, tmp_path: Path) -> None:
    for seed in range(3):
        draw(seed).save(tmp_path / f"part {seed}.png")
    (tmp_path / "bad.jpg").write_bytes(b"")
    shown = plain(in_terminal("score", ".", "--model", model_folder, cwd=tmp_path))
    assert "scoring" in shown
    assert re.search(r"rank +score +path", shown)
    assert "./part 1.png" in shown
    assert "1 of 4 files could not be read" in shown
    assert all(len(line.rstrip()) <= 80 for line in shown.replace("\r", "\n").splitlines())


def test_a_hostile_name_cannot_write_to_the_terminal(model_folder: Path, tmp_path: Path) -> None:
    draw(0).save(tmp_path / "x.png")
    os.rename(tmp_path / "x.png", tmp_path / "\x1b[2J[red].png")
    shown = in_terminal("score", ".", "--model", model_folder, cwd=tmp_path)
    assert "\x1b[2J" not in shown
    assert r"\x1b[2J[red].png" in plain(shown)


def test_p_values_have_a_bar_and_no_colour_where_none_is_wanted(
    calibrated_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(410).rotate(45).resize((96, 30)).save(tmp_path / "odd.png")
    draw(0).save(tmp_path / "normal.png")
    arguments = ("score", ".", "--model", calibrated_folder, "--top", "2", "--fpr", "0.1")
    shown = in_terminal(*arguments, cwd=tmp_path)
    assert "\x1b[1;31m██████" in shown
    assert re.search(r"1 +\d\.\d{4} +██████ 0\.091! +\./odd\.png", plain(shown))
    assert all(len(line.rstrip()) <= 80 for line in plain(shown).replace("\r", "\n").splitlines())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[\d;]*3\dm", in_terminal(*arguments, cwd=tmp_path))


def test_nothing_is_cut_at_eighty_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path, error = "/line/incoming/2026-11-22/camera-2/part_0123.jpg", "image file is truncated (33 bytes)"
    ranking_table([Row(1, path, 0.5, 0.05, True, "/n/normal_0001.jpg"), Row(None, path, None, error=error)])
    printed = "".join(capsys.readouterr().out.split())
    for word in ("error", "normal_0001.jpg", *error.split()):
        assert word in printed
