from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from anomscan.files import lock as lock_module
from anomscan.files.lock import Busy, locked, try_lock
from tests.conftest import REPOSITORY

HOLDER = """
import sys, time
from pathlib import Path
from anomscan.files.lock import locked
with locked(Path(sys.argv[1]), 0):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@contextmanager
def held_elsewhere(file: Path, seconds: float = 60) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLDER, str(file), str(seconds)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield process
        finally:
            process.kill()


def test_busy_names_the_process_that_holds_it(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path / "lock") as holder:
        with pytest.raises(Busy, match=f"^{holder.pid}$"), locked(tmp_path / "lock", 0):
            pytest.fail("the block must not run")
        assert (tmp_path / "lock").read_text() == str(holder.pid)


def test_a_killed_holder_blocks_nobody(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path / "lock") as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with locked(tmp_path / "lock", 0) as alone:
            assert alone
            assert (tmp_path / "lock").read_text() == str(os.getpid())


def test_who_waits_gets_it_when_it_is_free(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path / "lock", 0.3) as holder:
        with locked(tmp_path / "lock", 30) as alone:
            assert alone
        assert holder.wait() == 0


def test_waiting_ends(tmp_path: Path) -> None:
    with locked(tmp_path / "lock", 0):
        began = time.monotonic()
        with pytest.raises(Busy, match=str(os.getpid())), locked(tmp_path / "lock", 0.2):
            pytest.fail("the block must not run")
        assert 0.2 <= time.monotonic() - began < 5


def test_a_lock_whose_file_was_removed_keeps_nobody_out_and_lets_nobody_in_twice(tmp_path: Path) -> None:
    """A holder may remove the file at its end; who was waiting for it then takes the new one."""
    inside, most, errors = 0, 0, []

    def work() -> None:
        nonlocal inside, most
        try:
            for _ in range(20):
                with locked(tmp_path / "lock", 30):
                    inside += 1
                    most = max(most, inside)
                    time.sleep(0.001)
                    inside -= 1
                    (tmp_path / "lock").unlink()
        except Exception as error:
            errors.append(error)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors
    assert most == 1


def test_who_locked_a_file_that_is_gone_has_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened, then removed by its holder and made anew by a third, and only then locked."""
    file, real = tmp_path / "lock", lock_module.try_lock
    with ExitStack() as third:

        def late(descriptor: int) -> bool | None:
            if not (tmp_path / "third").exists():
                (tmp_path / "third").touch()
                file.unlink()
                assert real(third.enter_context(open(file, "wb")).fileno())
            return real(descriptor)

        monkeypatch.setattr(lock_module, "try_lock", late)
        with pytest.raises(Busy), locked(file, 0):
            pytest.fail("the block must not run")


def test_an_error_inside_lets_go(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / "lock", 0):
        raise KeyboardInterrupt
    with locked(tmp_path / "lock", 0) as alone:
        assert alone


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_without_locks_nobody_is_kept_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path / "lock", 0) as first, locked(tmp_path / "lock", 0) as second:
        assert (first, second) == (False, False)


def test_another_error_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    with pytest.raises(FileNotFoundError), locked(tmp_path / "missing" / "lock", 0):
        pytest.fail("the block must not run")
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="input/output"), locked(tmp_path / "lock", 0):
        pytest.fail("the block must not run")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_lock_can_be_tried(tmp_path: Path) -> None:
    with open(tmp_path / "lock", "wb") as first, open(tmp_path / "lock", "rb") as second:
        assert try_lock(first.fileno()) is True
        assert try_lock(second.fileno()) is False
    with open(tmp_path / "lock", "rb") as third:
        assert try_lock(third.fileno()) is True
