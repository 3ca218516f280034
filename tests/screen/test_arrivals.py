from __future__ import annotations

import builtins
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest

from anomscan.screen import arrivals as arrivals_module
from anomscan.screen.arrivals import OFTEN, SELDOM, Arrivals, Polling, arrivals


def heard(told: Arrivals, enough: Callable[[list[str] | None], bool], seconds: float = 20) -> None:
    """Wait until something was told."""
    end = time.monotonic() + seconds
    while not enough(told.wait()):
        assert time.monotonic() < end


def test_polling_waits_and_ends_at_once() -> None:
    stop = Event()
    told, how = arrivals(".", 3.0, stop)
    assert isinstance(told, Polling)
    assert (told.every, told.wait(), how) == (3.0, [], "looking every 3 s")
    stop.set()
    began = time.monotonic()
    told.wait()
    assert time.monotonic() - began < 0.05


def test_the_system_tells_of_files_by_the_name_of_the_folder_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("watchfiles")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "in").symlink_to("real")
    told, how = arrivals("in", None, Event())
    assert (told.every, how) == (SELDOM, "told by the system of new files")
    (tmp_path / "real" / "sub" / "a.png").write_bytes(b"x")
    heard(told, lambda paths: paths is not None and "in/sub/a.png" in paths)
    (tmp_path / "real" / "b.tmp").write_bytes(b"x")
    (tmp_path / "real" / "b.tmp").rename(tmp_path / "real" / "b.png")
    heard(told, lambda paths: paths is not None and "in/b.png" in paths)
    (tmp_path / "real" / "new").mkdir()
    heard(told, lambda paths: paths is None)
    (tmp_path / "real" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
    heard(told, lambda paths: paths is None)
    (tmp_path / "real" / "later.png").write_bytes(b"x")
    heard(told, lambda paths: paths is not None and "in/later.png" in paths)
    (tmp_path / "real").rename(tmp_path / "old")
    heard(told, lambda paths: paths is None)
    (tmp_path / "real").mkdir()
    heard(told, lambda paths: paths is None)
    heard(told, lambda paths: paths == [])
    (tmp_path / "real" / "new.png").write_bytes(b"x")
    heard(told, lambda paths: paths is not None and "in/new.png" in paths)


def test_without_watchfiles_it_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    importing = builtins.__import__

    def missing(name: str, *arguments: object, **options: object) -> object:
        if name == "watchfiles":
            raise ImportError(name)
        return importing(name, *arguments, **options)  # type: ignore[arg-type]

    for name in [name for name in sys.modules if name.startswith("watchfiles")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", missing)
    told, how = arrivals(str(tmp_path), None, Event())
    assert isinstance(told, Polling)
    assert (told.every, how) == (OFTEN, "looking every 5 s, since watchfiles is not installed")


def test_where_the_system_refuses_it_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(folder: str, stop: Event) -> None:
        raise OSError("no space left for watches")

    monkeypatch.setattr(arrivals_module, "Notified", refused)
    told, how = arrivals(str(tmp_path), None, Event())
    assert isinstance(told, Polling)
    assert how == "looking every 5 s, since the system tells nothing (no space left for watches)"


def test_on_a_network_share_it_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals_module, "is_remote", lambda path: True)
    told, how = arrivals(str(tmp_path), None, Event())
    assert isinstance(told, Polling)
    assert how == "looking every 5 s, since it is on a network share"
