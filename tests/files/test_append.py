from __future__ import annotations

import os
from pathlib import Path

import pytest

from anomscan.errors import OutputError
from anomscan.files.append import AppendedFile, AppendedStream


def test_rows_are_put_behind_what_is_there(tmp_path: Path) -> None:
    output = AppendedFile(str(tmp_path / "log"))
    assert output.beginning() == b""
    assert output.end().size == 0
    output.append(b"one\n")
    assert (output.end().size, output.beginning()) == (4, b"one\n")
    output.append(b"two\n")
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize("there", [b"", b"t", b"two\nthr", b"two\nthree\n", b"garbage\0\0\0"])
def test_what_a_killed_writer_has_left_is_made_whole(tmp_path: Path, there: bytes) -> None:
    log = tmp_path / "log"
    output = AppendedFile(str(log))
    output.append(b"one\n")
    place = output.end()
    with open(log, "ab") as file:
        file.write(there[: len(b"two\nthree\n")])
    output.complete(b"two\nthree\n", place)
    assert log.read_bytes() == b"one\ntwo\nthree\n"


def test_what_others_have_appended_stays(tmp_path: Path) -> None:
    log = tmp_path / "log"
    output = AppendedFile(str(log))
    place = output.end()
    log.write_bytes(b"two\nand a note of the operator's\n")
    output.complete(b"two\n", place)
    assert log.read_bytes() == b"two\nand a note of the operator's\n"
    log.write_bytes(b"a note of the operator's\n")
    output.complete(b"two\n", place)
    assert log.read_bytes() == b"a note of the operator's\ntwo\n"


def test_a_file_that_was_moved_away_begins_anew(tmp_path: Path) -> None:
    log = tmp_path / "log"
    output = AppendedFile(str(log))
    output.append(b"one\n")
    place = output.end()
    log.rename(tmp_path / "log.1")
    output.complete(b"two\n", place)
    assert (log.read_bytes(), (tmp_path / "log.1").read_bytes()) == (b"two\n", b"one\n")


def test_of_what_does_not_fit_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    output = AppendedFile(str(log))
    output.append(b"one\n")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"cannot write .*log: No space left on device"):
            output.append(b"two\n")
    assert log.read_bytes() == b"one\n"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "log"):
        output = AppendedFile(str(path))
        with pytest.raises(OutputError, match="cannot write"):
            output.end()
        with pytest.raises(OutputError, match="cannot write"):
            output.append(b"x")
    with pytest.raises(OutputError, match="cannot write"):
        AppendedFile(str(tmp_path)).beginning()


def test_a_pipe_takes_all_and_again_what_may_be_lost() -> None:
    read, write = os.pipe()
    output = AppendedStream(write)
    assert output.beginning() == b""
    place = output.end()
    output.append(b"one\n")
    output.complete(b"one\n", place)
    assert os.read(read, 100) == b"one\none\n"
    os.close(read)
    with pytest.raises(OutputError, match="nobody reads the rows any more"):
        output.append(b"two\n")
    os.close(write)
    for call in (output.end, lambda: output.append(b"x")):
        with pytest.raises(OutputError, match="Bad file descriptor"):
            call()
