from __future__ import annotations

import os
from pathlib import Path

import pytest

from anomscan.files import writing
from anomscan.files.writing import is_closed

fcntl = pytest.importorskip("fcntl")
linux = pytest.mark.skipif(not hasattr(fcntl, "F_SETLEASE"), reason="leases are Linux's")


@linux
def test_a_file_is_closed_when_its_last_writer_has_closed_it(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with open(path, "wb") as one, open(path, "ab") as two:
        assert is_closed(str(path)) is False
        one.close()
        assert is_closed(str(path)) is False
        two.close()
    assert is_closed(str(path)) is True
    before = len(os.listdir("/proc/self/fd"))
    with open(path, "rb"):
        assert is_closed(str(path)) is True
    with open(path, "ab") as file:  # nothing of the lease is left
        file.write(b"more")
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_cannot_be_told_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_closed(str(tmp_path / "gone")) is None
    assert is_closed(str(tmp_path)) is None
    (tmp_path / "x").touch()
    monkeypatch.setattr(writing, "fcntl", None)
    assert is_closed(str(tmp_path / "x")) is None
