"""What a person sees in a terminal of 80 columns."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from anomscan.cli.console import finish, int8_gain, progress_bar, ranking_table
from anomscan.fit.build import Fitted
from anomscan.images.find import Unreadable
from anomscan.model.folder import read_manifest
from anomscan.network.network import Int8Info
from anomscan.screen.ranking import Ranking
from tests.conftest import REPOSITORY, draw, draw_odd
from tests.fakes import scored


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
    draw_odd(410).save(tmp_path / "odd.png")
    draw(0).save(tmp_path / "normal.png")
    arguments = ("score", ".", "--model", calibrated_folder, "--top", "2", "--fpr", "0.1")
    shown = in_terminal(*arguments, cwd=tmp_path)
    assert "\x1b[1;31m██████" in shown
    assert re.search(r"1 +\d\.\d{4} +██████ 0\.091! +\./odd\.png", plain(shown))
    assert all(len(line.rstrip()) <= 80 for line in plain(shown).replace("\r", "\n").splitlines())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[\d;]*3\dm", in_terminal(*arguments, cwd=tmp_path))


@pytest.fixture
def ranking() -> Iterator[Ranking]:
    with closing(Ranking()) as ranking:
        yield ranking


def test_nothing_is_cut_at_eighty_columns(
    ranking: Ranking, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path, error = "/line/incoming/2026-11-22/camera-2/part_0123.jpg", "image file is truncated (33 bytes)"
    ranking.add(scored([path], [0.5], [0.05], ["/n/normal_0001.jpg"]))
    ranking.mark(p_value=0.1)
    ranking.add_unreadable(Unreadable(path, error))
    ranking_table(ranking, None)
    printed = "".join(capsys.readouterr().out.split())
    for word in ("error", "normal_0001.jpg", *error.split()):
        assert word in printed


def test_a_long_ranking_says_how_to_see_the_rest(
    ranking: Ranking, capsys: pytest.CaptureFixture[str]
) -> None:
    ranking.add(scored([f"{i}.png" for i in range(60)], [i / 60 for i in range(60)]))
    ranking_table(ranking, None)
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 51
    assert shown.err == "the first 50 of 60; --top N or -o FILE for more\n"
    ranking_table(ranking, 60)
    shown = capsys.readouterr()
    assert (len(shown.out.splitlines()), shown.err) == (61, "")


def test_no_bar_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as progress:
        progress("scoring", 1, 2, "half")
    assert capsys.readouterr() == ("", "")


def test_what_was_fitted_is_said_and_what_was_skipped(
    calibrated_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = read_manifest(str(calibrated_folder))
    selection = {"reason": "kept the unadapted features"}
    chosen = replace(manifest, method=replace(manifest.method, selection=selection), calibration=None)
    finish(Fitted(manifest, []), "m")
    assert capsys.readouterr().err.splitlines() == [
        "wrote m: pretrained features, 10 normals",
        "10 more are held out: p-values from 0.091 up",
    ]
    with pytest.raises(typer.Exit) as ended:
        finish(Fitted(chosen, [Unreadable("a\x1b.png", "broken")], ["a note"]), "m")
    assert ended.value.exit_code == 3
    assert capsys.readouterr().err.splitlines() == [
        r"skipped a\x1b.png: broken",
        "none: kept the unadapted features",
        "wrote m: pretrained features, 10 normals",
        "no normals are held out, so that scores have no p-values; see --holdout and 'anomscan calibrate'",
        "a note",
    ]


def test_eight_bits_in_one_line() -> None:
    assert int8_gain(Int8Info(1.93, 0.9876, 0.0123)) == (
        "8 bits: 1.9 times as fast; of the scores of normals Spearman 0.988, "
        "their p-values off by 0.012 on average"
    )
