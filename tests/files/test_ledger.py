from __future__ import annotations

import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from anomscan.errors import StateError
from anomscan.files.append import Place
from anomscan.files.ledger import Appending, Batch, Duty, Ledger
from anomscan.files.storage import Identity

HERE = Identity(1, 2**64 - 3, 4, 5, 6)


def test_a_batch_is_all_there_after_it_was_opened_again(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9\n.png")
    rows = Appending(name, Place(2**64 - 1, 8), b"rows\n", 3, 2, 1)
    duty = Duty(name, HERE, 1.5, None)
    batch = Batch([(name, HERE), ("folder", None)], rows, [duty], {"x": {1: 2.5, 0: 1.5}}, {"n": "text"})
    path = str(tmp_path / "state")
    with Ledger.open(path, str(tmp_path)) as ledger:
        assert not ledger.knows(name, HERE)
        ledger.commit(batch)
    with Ledger.open(path, str(tmp_path)) as ledger:
        assert ledger.knows(name, replace(HERE, mode=0, device=9))
        assert ledger.knows("folder", None)
        for other in (replace(HERE, inode=1), replace(HERE, size=1), replace(HERE, modified_ns=1)):
            assert not ledger.knows(name, other)
        assert ledger.appending() == replace(rows, place=Place(2**63 - 1, 8))
        assert [*ledger.duties()] == [[replace(duty, number=1)]]
        assert (ledger.numbers("x"), ledger.note("n"), ledger.note("m")) == ([1.5, 2.5], "text", None)
        ledger.appended()
        ledger.called(replace(duty, number=1))
        assert [*ledger.duties(uncalled=True)] == []
        assert [*ledger.duties()] == [[replace(duty, number=1, called=True)]]
        ledger.done([replace(duty, number=1)])
        assert (ledger.appending(), [*ledger.duties()]) == (None, [])
        ledger.begin_anew(["x", "n"], Batch(numbers={"x": {0: 7.0}}))
        assert (ledger.numbers("x"), ledger.note("n")) == ([7.0], None)


def test_of_a_batch_that_fails_nothing_is_there(tmp_path: Path) -> None:
    with Ledger.open(str(tmp_path / "state"), str(tmp_path)) as ledger:
        with pytest.raises(StateError, match="cannot use"):
            ledger.commit(Batch([("a", HERE)], notes={"n": object()}))  # type: ignore[dict-item]
        assert not ledger.knows("a", HERE)
        ledger.commit(Batch([("a", HERE)]))
        assert ledger.knows("a", HERE)


def test_many_duties_come_some_at_a_time_in_their_order(tmp_path: Path) -> None:
    with Ledger.open(str(tmp_path / "state"), str(tmp_path)) as ledger:
        ledger.commit(Batch(duties=[Duty(str(i), HERE, None, None) for i in range(600)]))
        chunks = [*ledger.duties()]
        assert [len(chunk) for chunk in chunks] == [256, 256, 88]
        assert [duty.path for chunk in chunks for duty in chunk] == [str(i) for i in range(600)]


def test_it_is_for_one_process_and_one_folder(tmp_path: Path) -> None:
    path, other = str(tmp_path / "state"), tmp_path / "other"
    other.mkdir()
    with (
        Ledger.open(path, str(tmp_path)),
        pytest.raises(StateError, match=f"process {os.getpid()} is watching with"),
        Ledger.open(path, str(tmp_path)),
    ):
        pass
    (tmp_path / "link").symlink_to(tmp_path)
    with Ledger.open(path, str(tmp_path / "link")):
        pass
    with pytest.raises(StateError, match="is of a watch of"), Ledger.open(path, str(other)):
        pass


def test_what_is_no_ledger_or_a_newer_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(StateError, match="file is not a database"), Ledger.open(str(tmp_path / "state"), "."):
        pass
    with pytest.raises(StateError, match="cannot use"), Ledger.open(str(tmp_path / "none" / "state"), "."):
        pass
    db = sqlite3.connect(tmp_path / "newer")
    db.execute("PRAGMA user_version = 2")
    db.close()
    with pytest.raises(StateError, match="another version"), Ledger.open(str(tmp_path / "newer"), "."):
        pass
