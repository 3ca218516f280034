"""``score --resume``: a run that was cut off is gone on with, and its output is the same to the byte."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from anomscan.screen import run as screening
from anomscan.screen import screener
from anomscan.screen.journal import Journal
from anomscan.screen.ranking import Ranking
from tests.cli.rows import rows
from tests.conftest import Run, draw, draw_odd

OPTIONS = ("--fpr", "0.1", "-o", "out.csv")


class CutOff(BaseException):
    """Takes the place of a signal."""


@pytest.fixture
def many(tmp_path: Path, fake_patch_model: Path) -> Path:
    """A model, ``m``, and 40 images in ``in``: three are odd, two the same, and one is broken."""
    shutil.copytree(fake_patch_model, tmp_path / "m")
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(36):
        (draw_odd if i in (5, 14, 30) else draw)(500 + i).save(folder / f"{i:02}.png")
    for name in ("09b.png", "31b.png"):
        shutil.copy(folder / "09.png", folder / name)
    (folder / "20b.png").write_bytes(b"broken")
    return tmp_path


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch, run: Run) -> Callable[..., None]:
    """Run ``score`` until it has committed a number of times; a group has 8 images."""
    monkeypatch.setattr(screener, "SEARCH", 8)

    def call(commits: int, *arguments: str | Path, stdin: bytes = b"") -> None:
        commit, left = Journal.commit, [commits]

        def counted(journal: Journal) -> None:
            commit(journal)
            left[0] -= 1
            if not left[0]:
                raise CutOff

        with monkeypatch.context() as patch:
            patch.setattr(Journal, "commit", counted)
            with pytest.raises(CutOff):
                run("score", *arguments, stdin=stdin, ANOMSCAN_MODEL="m")

    return call


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images that were decoded, in order."""
    seen: list[str] = []
    decode_all = screening.decode_all

    def noting(sources: object, *rest: object) -> object:
        for image in decode_all(sources, *rest):  # type: ignore[arg-type]
            seen.append(os.path.basename(image.path))
            yield image

    monkeypatch.setattr(screening, "decode_all", noting)
    return seen


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*") if path.name != ".lock"]


@pytest.mark.parametrize(
    "options",
    [
        ("--fpr", "0.1"),
        ("--fdr", "0.5", "--format", "jsonl"),
        ("--threshold", "5", "--top", "10", "--columns", "patch_score,regions"),
        ("--fpr", "0.1", "--report", "r.html", "--heatmaps", "h", "--summary", "s.json"),
        ("--fpr", "0.1", "--copy-anomalous", "aside"),
    ],
)
def test_a_run_that_was_cut_off_twice_gives_the_same_bytes(
    run: Run, cut: Callable[..., None], many: Path, looked_at: list[str], options: tuple[str, ...]
) -> None:
    def outputs() -> dict[str, bytes]:
        files = [path for path in many.rglob("*") if path.is_file()]
        shown = {str(path.relative_to(many)): path.read_bytes() for path in files if path.parts[-2] != "m"}
        if "r.html" in shown:  # the minute and the seconds are others
            data = json.loads((many / "s.json").read_text())
            shown["s.json"] = json.dumps(
                {**data, "seconds": 0, "images_per_second": 0, "created": 0}
            ).encode()
            other = rb'\d{4}-\d\d-\d\d \d\d:\d\d UTC|"speed","[^"]*"'
            shown["r.html"] = re.sub(other, b"", shown["r.html"])
        return shown

    whole = run("score", "in", "-o", "out.csv", *options, ANOMSCAN_MODEL="m")
    assert whole.returncode == 3
    expected = outputs()
    for path in (many / "out.csv", many / "h", many / "aside"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    cut(2, "in", "-o", "out.csv", *options)
    assert not (many / "out.csv").exists()
    cut(1, "in", "-o", "out.csv", *options, "--resume")
    looked_at.clear()
    again = run("score", "in", "-o", "out.csv", *options, "--resume", ANOMSCAN_MODEL="m")
    assert (again.returncode, again.stderr) == (3, whole.stderr)
    assert outputs() == expected
    assert len(looked_at) == 39 - 3 * 8
    assert not left(many)


def test_images_that_changed_arrived_or_went(
    run: Run, cut: Callable[..., None], many: Path, looked_at: list[str]
) -> None:
    cut(3, "in", *OPTIONS)  # 24 images, up to 22.png
    draw_odd(1).save(many / "in" / "02.png")
    (many / "in" / "03.png").unlink()
    shutil.copy(many / "in" / "05.png", many / "in" / "00a.png")
    looked_at.clear()
    done = run("score", "in", *OPTIONS, "--resume", ANOMSCAN_MODEL="m")
    assert done.returncode == 3
    assert looked_at[:4] == ["00a.png", "02.png", "20b.png", "23.png"]
    resumed = (many / "out.csv").read_bytes()
    run("score", "in", *OPTIONS, ANOMSCAN_MODEL="m")
    assert [row["path"] for row in rows(resumed)] == [
        row["path"] for row in rows((many / "out.csv").read_bytes())
    ]
    found = {Path(row["path"]).name: row for row in rows(resumed)}
    assert (len(found), found["02.png"]["anomalous"]) == (39, "True")
    assert "03.png" not in found


def test_paths_from_standard_input_may_be_the_same_twice(
    run: Run, cut: Callable[..., None], many: Path
) -> None:
    listed = b"".join(b"in/%02d.png\n" % (i % 7) for i in range(30)) + b"in/gone.png\n"
    run("score", "-", "-o", "whole.csv", stdin=listed, ANOMSCAN_MODEL="m")
    cut(2, "-", "-o", "out.csv", stdin=listed)
    done = run("score", "-", "-o", "out.csv", "--resume", stdin=listed, ANOMSCAN_MODEL="m")
    assert done.returncode == 3
    assert (many / "out.csv").read_bytes() == (many / "whole.csv").read_bytes()


def test_a_move_that_was_cut_off_is_gone_on_with_and_no_row_is_lost(
    run: Run, cut: Callable[..., None], many: Path, monkeypatch: pytest.MonkeyPatch, looked_at: list[str]
) -> None:
    before = {path.name: path.read_bytes() for path in (many / "in").iterdir()}
    whole = run("score", "in", "--fpr", "0.1", "-o", "whole.csv", ANOMSCAN_MODEL="m")
    files = Ranking.anomalous_files

    def two(ranking: Ranking) -> object:
        for i, file in enumerate(files(ranking)):
            if i == 2:
                raise CutOff
            yield file

    with monkeypatch.context() as patch:
        patch.setattr(Ranking, "anomalous_files", two)
        with pytest.raises(CutOff):
            run("score", "in", *OPTIONS, "--move-anomalous", "aside", ANOMSCAN_MODEL="m")
    assert len(list((many / "aside").iterdir())) == 2
    assert (many / "out.csv").read_bytes() == (many / "whole.csv").read_bytes()
    looked_at.clear()
    arguments = (*OPTIONS, "--move-anomalous", "aside", "--report", "r.html", "--resume")
    refused = run("score", "in", *arguments, ANOMSCAN_MODEL="m")
    assert (refused.returncode, b"--report" in refused.stderr) == (2, True)
    done = run("score", "in", *OPTIONS, "--move-anomalous", "aside", "--resume", ANOMSCAN_MODEL="m")
    assert done.returncode == 3
    assert done.stderr == whole.stderr
    assert looked_at == []
    assert (many / "out.csv").read_bytes() == (many / "whole.csv").read_bytes()
    there = {path.name: path.read_bytes() for name in ("in", "aside") for path in (many / name).iterdir()}
    assert there == before
    assert len(list((many / "aside").iterdir())) == (many / "whole.csv").read_text().count(",True,") > 2
    assert not left(many)


def test_another_model_and_another_option_are_refused_by_name(
    run: Run, cut: Callable[..., None], many: Path, calibrated_folder: Path
) -> None:
    cut(1, "in", *OPTIONS)
    kept = left(many)
    for options, named in (
        (("--fpr", "0.2"), "--fpr"),
        (("--fpr", "0.1", "--model", str(calibrated_folder)), "model"),
        (("--fpr", "0.1", "--k", "1"), None),
        (("--fpr", "0.1", "--max-pixels", "99999"), "--max-pixels"),
    ):
        done = run("score", "in", "-o", "out.csv", "--resume", *options, ANOMSCAN_MODEL="m")
        assert done.returncode == 2
        if named:
            assert f"had another {named}; go on with the same" in done.stderr.decode()
        assert done.stderr.count(b"\n") == 1
        assert left(many) == kept
    over = run("score", "in", *OPTIONS, ANOMSCAN_MODEL="m")
    assert over.returncode == 3
    assert b"is started over; with --resume it would have gone on" in over.stderr
    assert not left(many)


def test_resume_goes_with_a_file(run: Run, many: Path) -> None:
    for options in ((), ("-o", "/dev/null")):
        done = run("score", "in", "--resume", *options, ANOMSCAN_MODEL="m")
        assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
        assert b"--resume goes on with a file" in done.stderr


def test_with_nothing_to_go_on_with_it_is_a_run_like_any_other(run: Run, many: Path) -> None:
    done = run("score", "in", *OPTIONS, "--resume", ANOMSCAN_MODEL="m")
    assert done.returncode == 3
    assert len(rows((many / "out.csv").read_bytes())) == 39
    assert not left(many)
