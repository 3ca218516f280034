from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from anomscan.errors import OutputError, UsageError
from anomscan.screen import journal as module
from anomscan.screen.journal import Journal, can_be_kept, journal_of
from tests.conftest import REPOSITORY

SETTINGS = {"model": "a", "--fpr": 0.1, "--k": None}


class CutOff(Exception):
    """Takes the place of what ends a run."""


def begin(folder: Path, *, resume: bool = False, **settings: object) -> Journal:
    return Journal.beside(str(folder / "out.csv"), {**SETTINGS, **settings}, resume=resume)


def cut_off(folder: Path, *, committed: bool = True) -> None:
    end = CutOff()
    with suppress(CutOff), begin(folder) as journal:
        journal.db.execute("CREATE TABLE row (value)")
        journal.db.execute("INSERT INTO row VALUES (1)")
        if committed:
            journal.commit()
        journal.db.execute("INSERT INTO row VALUES (2)")
        raise end
    notes = ["what was scored is kept: --resume goes on with it"] if committed else []
    assert getattr(end, "__notes__", []) == notes


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_run_that_ends_well_leaves_nothing(tmp_path: Path) -> None:
    with begin(tmp_path) as journal:
        assert (journal.resumed, journal.written, journal.remark) == (False, False, "")
        assert names(tmp_path) != []
        journal.commit()
    assert names(tmp_path) == []


def test_what_was_committed_is_gone_on_with(tmp_path: Path) -> None:
    cut_off(tmp_path)
    with begin(tmp_path, resume=True) as journal:
        assert journal.resumed
        assert journal.db.execute("SELECT value FROM row").fetchall() == [(1,)]
        assert not journal.written
        assert journal.noted("x") is None
    assert names(tmp_path) == []
    with begin(tmp_path, resume=True) as journal:
        assert not journal.resumed


def test_one_that_holds_nothing_is_not_kept(tmp_path: Path) -> None:
    cut_off(tmp_path, committed=False)
    assert names(tmp_path) == []


def test_values_are_noted_for_the_next_run(tmp_path: Path) -> None:
    with suppress(CutOff), begin(tmp_path) as journal:
        journal.note("x", [1.5, 2])
        journal.outputs_are_written()
        assert journal.noted("x") is None  # of the run before
        raise CutOff
    with suppress(CutOff), begin(tmp_path, resume=True) as journal:
        assert journal.noted("x") == [1.5, 2]
        assert journal.written
        raise CutOff
    assert names(tmp_path)  # still there for a third


def test_without_resume_it_is_started_over_and_said(tmp_path: Path) -> None:
    cut_off(tmp_path)
    with begin(tmp_path) as journal:
        assert not journal.resumed
        assert "is started over" in journal.remark
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            journal.db.execute("SELECT * FROM row")


def test_another_model_or_option_is_refused_and_the_journal_stays(tmp_path: Path) -> None:
    cut_off(tmp_path)
    with pytest.raises(UsageError, match=r"out\.csv had another model and another --fpr; go on with"):
        begin(tmp_path, resume=True, model="b", **{"--fpr": 0.2})
    with begin(tmp_path, resume=True) as journal:
        assert journal.resumed


def test_one_that_another_run_keeps_is_let_be(tmp_path: Path) -> None:
    with begin(tmp_path) as journal:
        with begin(tmp_path) as other:
            assert not other.is_kept
            assert "another run is writing" in other.remark
            other.db.execute("CREATE TABLE row (value)")
        with pytest.raises(OutputError, match="another run is writing"):
            begin(tmp_path, resume=True)
        journal.note("x", 1)
        journal.commit()
        assert names(tmp_path)


def test_where_there_are_no_locks_none_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network file system: the run is as good as before there were journals."""

    def refuse(place: Path) -> None:
        place.touch()
        error = sqlite3.OperationalError("locking protocol")
        error.sqlite_errorname = "SQLITE_PROTOCOL"
        raise error

    monkeypatch.setattr(module, "_opened", refuse)
    with begin(tmp_path) as journal:
        assert not journal.is_kept
        assert "cannot be kept (locking protocol)" in journal.remark
    with pytest.raises(OutputError, match="locking protocol"):
        begin(tmp_path, resume=True)
    assert names(tmp_path) == []


def test_one_that_is_damaged_is_made_anew(tmp_path: Path) -> None:
    journal_of(str(tmp_path / "out.csv")).write_bytes(b"this is no database " * 100)
    with begin(tmp_path, resume=True) as journal:
        assert not journal.resumed
        journal.commit()
    assert names(tmp_path) == []


KILLED = """
import os, signal, sys
from tests.screen.test_journal import Path, begin
journal = begin(Path(sys.argv[1]))
journal.db.execute("CREATE TABLE row (value)")
journal.db.executemany("INSERT INTO row VALUES (?)", [(i,) for i in range(1000)])
journal.commit()
journal.db.executemany("INSERT INTO row VALUES (?)", [("x" * 1000,) for _ in range(9000)])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_dead_owner_holds_nothing_and_what_it_did_not_commit_is_gone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, check=False)
    assert done.returncode == -9
    with begin(tmp_path, resume=True) as journal:
        assert journal.resumed
        assert journal.db.execute("SELECT COUNT(*), MAX(value) FROM row").fetchone() == (1000, 999)
    assert names(tmp_path) == []


FULL = """
import sys
from tests.screen.test_journal import Path, begin
with begin(Path(sys.argv[1])) as journal:
    with journal.room():
        journal.db.execute("CREATE TABLE row (value)")
        journal.db.executemany("INSERT INTO row VALUES (?)", [("x" * 1000,) for _ in range(9000)])
    journal.commit()
"""


def test_without_room_it_is_one_sentence_and_gone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        check=False,
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("anomscan.errors.OutputError: cannot keep the journal of "), done.stderr
    assert names(tmp_path) == []


def test_where_it_is(tmp_path: Path) -> None:
    assert journal_of(str(tmp_path / "out.csv")) == tmp_path / ".out.csv.journal"
    (tmp_path / "link.csv").symlink_to(tmp_path / "sub" / "real.csv")
    assert journal_of(str(tmp_path / "link.csv")) == tmp_path / "sub" / ".real.csv.journal"
    for name in ("x" * 255, os.fsdecode(b"\xff.csv")):
        with Journal.beside(str(tmp_path / name), SETTINGS, resume=False) as journal:
            journal.commit()


def test_pipes_and_devices_have_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    kept = [can_be_kept(str(path)) for path in (tmp_path / "x", tmp_path / "pipe", "/dev/null")]
    assert kept == [True, False, False]
    assert not can_be_kept(None)


def test_a_temporary_one_is_nobodys_to_go_on_with() -> None:
    with Journal.temporary() as journal:
        journal.commit()
        journal.outputs_are_written()
        assert (journal.is_kept, journal.resumed, journal.written) == (False, False, False)
