from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from anomscan.errors import OutputError
from anomscan.files.atomic import sha256, whole_file


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    target.write_text("old")
    with whole_file(str(target)) as path:
        path.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    target.write_text("old")

    def fail() -> None:
        with whole_file(str(target)) as path:
            path.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_keeps_pointing_where_it_does(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with whole_file(str(tmp_path / "link")) as path:
        path.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_what_cannot_be_written_is_said_before_any_work(tmp_path: Path) -> None:
    for target in (tmp_path, tmp_path / "missing" / "out.csv", Path("/proc/out.csv")):
        with pytest.raises(OutputError, match="cannot write"), whole_file(str(target)):
            pytest.fail("the block must not run")


def test_a_device_is_written_directly() -> None:
    with whole_file("/dev/null") as path:
        assert path == Path("/dev/null")


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()


def test_two_writers_of_a_file_do_not_meet(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    with whole_file(str(target)) as first:
        first.write_text("first")
        with whole_file(str(target)) as second:
            second.write_text("second")
        assert target.read_text() == "second"
    assert target.read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    target = str(tmp_path / "out.csv")
    with pytest.raises(OutputError, match=r"cannot write .*out\.csv: No space left"), whole_file(target):
        pass
    assert list(tmp_path.iterdir()) == []
