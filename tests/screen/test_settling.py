from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from time import sleep

import pytest

from anomscan.files.storage import Identity
from anomscan.screen import settling
from anomscan.screen.settling import Settling, state_of

SETTLE = 2.0


def everything(key: str, identity: Identity) -> bool:
    return True


class Clock:
    """Stands still but for ``sleep``."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(settling, "monotonic", clock)
    return clock


@pytest.fixture
def closes(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool | None], None]:
    """Let the system say of every file that it is closed, open, or that it does not know."""

    def say(closed: bool | None) -> None:
        monkeypatch.setattr(settling, "is_closed", lambda path: closed)

    return say


def names(settling: Settling, most: int = 100) -> list[str]:
    return [file.key for file in settling.settled(most)]


def test_a_closed_file_has_settled_at_once_and_an_open_one_in_time(tmp_path: Path, time: Clock) -> None:
    waiting = Settling(SETTLE, everything)
    (tmp_path / "closed").write_bytes(b"x")
    with open(tmp_path / "open", "wb") as file:
        for name in ("closed", "open"):
            waiting.meet(name, str(tmp_path / name))
        assert set(names(waiting)) <= {"closed"}
        time.sleep(SETTLE / 2)
        file.write(b"half")
        file.flush()
        assert names(waiting) in ([], ["closed"])
        time.sleep(SETTLE * 0.7)
        assert "open" not in names(waiting)  # it was changed less than that ago
        time.sleep(SETTLE * 0.7)
        assert names(waiting) == ["open"]
    assert not waiting


def test_where_nobody_knows_who_writes_it_takes_the_time(
    tmp_path: Path, time: Clock, closes: Callable[[bool | None], None]
) -> None:
    closes(None)
    waiting = Settling(SETTLE, everything)
    (tmp_path / "x").write_bytes(b"x")
    os.utime(tmp_path / "x", (0, 0))  # the clock of a share says nothing
    waiting.meet("x", str(tmp_path / "x"))
    assert names(waiting) == []
    closes(True)
    assert names(waiting) == []
    time.sleep(SETTLE)
    (file,) = waiting.settled(100)
    assert not file.early


def test_a_file_that_goes_or_changes(
    tmp_path: Path, time: Clock, closes: Callable[[bool | None], None]
) -> None:
    closes(False)
    waiting = Settling(SETTLE, everything)
    for name in ("gone", "changed"):
        (tmp_path / name).write_bytes(b"x")
        waiting.meet(name, str(tmp_path / name))
    (tmp_path / "gone").unlink()
    (tmp_path / "changed").write_bytes(b"more")
    assert (names(waiting), len(waiting)) == ([], 1)
    time.sleep(SETTLE)
    (file,) = waiting.settled(100)
    assert (file.key, file.identity.size) == ("changed", 4)
    waiting.meet("none", str(tmp_path / "none"))
    assert not waiting


def test_one_that_was_closed_early_may_wait_longer(
    tmp_path: Path, time: Clock, closes: Callable[[bool | None], None]
) -> None:
    closes(True)
    waiting = Settling(SETTLE, everything)
    (tmp_path / "half").write_bytes(b"half")
    waiting.meet("half", str(tmp_path / "half"))
    (file,) = waiting.settled(100)
    assert file.early
    waiting.wait_longer(file)
    assert names(waiting) == []
    time.sleep(SETTLE)
    (file,) = waiting.settled(100)
    assert not file.early


def test_only_news_waits_and_only_so_many(
    tmp_path: Path, closes: Callable[[bool | None], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    closes(True)
    monkeypatch.setattr(settling, "MOST_WAITING", 3)
    waiting = Settling(SETTLE, lambda key, identity: key != "known")
    for i, name in enumerate(("known", "d", "c", "b", "a")):
        (tmp_path / name).write_bytes(b"x")
        waiting.meet(name, str(tmp_path / name))
        waiting.meet(name, str(tmp_path / name))
        assert waiting.missed == (i == 4)
        sleep(0.02)
    assert (len(waiting), names(waiting, 2)) == (3, ["d", "c"])  # as they arrived
    assert names(waiting) == ["b"]


def test_a_link_that_leads_nowhere_has_a_state(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    assert state_of(str(tmp_path / "link")) == Identity.of(os.lstat(tmp_path / "link"))
    assert state_of(str(tmp_path / "nowhere")) is None
    assert state_of("nul\0") is None
