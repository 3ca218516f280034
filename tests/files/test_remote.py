from __future__ import annotations

import errno
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from anomscan.errors import MissingExtra, OutputError, UsageError
from anomscan.files import remote
from anomscan.files.remote import PAUSES, REMOTE, Remote, whole_object
from anomscan.files.storage import storage_of

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(REMOTE, "_away", False)
    system = fsspec.filesystem("memory")
    system.pipe({"/b/x.png": b"content", "/b/sub/y.png": b"more"})
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def test_a_url_has_its_storage() -> None:
    assert storage_of("memory://b/x.png") is REMOTE
    assert storage_of("b/x.png") is not REMOTE


def test_an_identity_is_that_of_a_state_of_a_file(memory: Any) -> None:
    seen = [REMOTE.identity("memory://b/x.png"), REMOTE.identity("memory://b/sub/y.png")]
    assert seen[0] == REMOTE.identity("memory://b/x.png")
    assert (seen[0].is_file, seen[0].is_folder, seen[0].size) == (True, False, 7)
    assert abs(seen[0].changed_ns / 1e9 - time.time()) < 60
    memory.pipe_file("/b/x.png", b"other")
    seen.append(REMOTE.identity("memory://b/x.png"))
    assert len(set(seen)) == 3
    folder = REMOTE.identity("memory://b/sub")
    assert (folder.is_file, folder.is_folder) == (False, True)
    assert REMOTE.identity("memory://b/sub/") == folder
    with pytest.raises(FileNotFoundError) as caught:
        REMOTE.identity("memory://b/gone")
    assert (caught.value.strerror, caught.value.filename) == ("No such file or directory", "memory://b/gone")


def test_a_list_says_what_can_be_listed_itself() -> None:
    assert dict(REMOTE.list("memory://b")) == {"x.png": False, "sub": True}
    assert dict(REMOTE.list("memory://b/")) == {"x.png": False, "sub": True}


def test_an_object_that_stands_for_its_folder_is_none_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"/b/": "file", "/b/x": "file", "/b/y/": "directory"}
    entries = [{"name": name, "type": kind} for name, kind in kinds.items()]
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.ls", lambda *_, **__: entries)
    assert dict(REMOTE.list("memory://b")) == {"x": False, "y": True}


@pytest.mark.parametrize("most", [remote.IN_MEMORY, 3])
def test_what_is_read_can_seek(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(remote, "IN_MEMORY", most)
    with REMOTE.open("memory://b/x.png") as file:
        assert file.read(3) == b"con"
        file.seek(0)
        assert file.read() == b"content"


def test_a_folder_is_not_opened() -> None:
    with pytest.raises(OSError, match="not a regular file"):
        REMOTE.open("memory://b/sub")


def test_a_file_that_comes_short_is_read_again(monkeypatch: pytest.MonkeyPatch, memory: Any) -> None:
    own, seen = type(memory).cat_file, []

    def short(system: Any, path: str, **options: Any) -> bytes:
        seen.append(path)
        return bytes(own(system, path, **options))[: 3 if len(seen) < 3 else None]

    monkeypatch.setattr(type(memory), "cat_file", short)
    assert REMOTE.open("memory://b/x.png").read() == b"content"
    assert len(seen) == 3


def test_files_are_published_fetched_and_removed(memory: Any, tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"new")
    REMOTE.publish(tmp_path / "new", "memory://b/x.png")
    assert memory.cat_file("/b/x.png") == b"new"
    REMOTE.fetch("memory://b/x.png", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == b"new"
    REMOTE.remove("memory://b/x.png")
    assert not memory.exists("/b/x.png")


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> list[str]:
    calls: list[str] = []

    def info(_: Any, path: str, **options: Any) -> Any:
        calls.append(path)
        raise error

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.info", info)
    return calls


def test_while_a_storage_stays_away_each_file_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Remote()
    with monkeypatch.context() as patch:
        calls = failing(patch, TimeoutError())
        for attempts in (3, 4, 5):
            with pytest.raises(OSError, match=r"the storage cannot be reached \(TimeoutError\)"):
                storage.identity("memory://b/x.png")
            assert len(calls) == attempts
    assert storage.identity("memory://b/x.png").is_file
    calls = failing(monkeypatch, TimeoutError())
    with pytest.raises(OSError, match="cannot be reached"):
        storage.identity("memory://b/x.png")
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (PermissionError("Access Denied"), errno.EACCES),
        (FileNotFoundError("The specified bucket does not exist"), errno.ENOENT),
        (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC),
        (ValueError("no such name"), errno.EIO),
        (type("NoCredentialsError", (OSError,), {})("Unable to locate credentials"), errno.EIO),
    ],
)
def test_what_another_attempt_would_not_mend_is_tried_once(
    monkeypatch: pytest.MonkeyPatch, error: Exception, number: int
) -> None:
    calls = failing(monkeypatch, error)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number says which
        Remote().identity("memory://b/x.png")
    assert (caught.value.errno, len(calls)) == (number, 1)
    assert caught.value.strerror


def test_the_pauses_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(remote, "PAUSES", PAUSES)
    monkeypatch.setattr(time, "sleep", waited.append)
    failing(monkeypatch, ConnectionResetError())
    with pytest.raises(OSError, match="cannot be reached"):
        Remote().identity("memory://b/x.png")
    assert waited == list(PAUSES) == sorted(PAUSES)


def test_an_object_appears_whole_or_not_at_all(memory: Any) -> None:
    with whole_object("memory://b/out") as path:
        path.write_bytes(b"all of it")
        assert not memory.exists("/b/out")
    assert memory.cat_file("/b/out") == b"all of it"
    with suppress(KeyError), whole_object("memory://b/out") as path:
        path.write_bytes(b"half")
        raise KeyError
    assert memory.cat_file("/b/out") == b"all of it"


def test_a_folder_or_a_place_that_is_not_there_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(OutputError, match="it is a folder"), whole_object("memory://b/sub"):
        pytest.fail("it began")
    failing(monkeypatch, FileNotFoundError())
    with pytest.raises(OutputError, match=r"there is no memory://c$"), whole_object("memory://c/out"):
        pytest.fail("it began")


def test_who_may_write_but_not_look_is_believed(monkeypatch: pytest.MonkeyPatch, memory: Any) -> None:
    with monkeypatch.context() as patch:
        failing(patch, PermissionError("Access Denied"))
        with whole_object("memory://b/out") as path:
            path.write_bytes(b"x")
    assert memory.cat_file("/b/out") == b"x"


def test_what_could_not_be_written_is_kept_here(
    monkeypatch: pytest.MonkeyPatch, memory: Any, tmp_path: Path
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(type(memory), "put_file", refuse)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(OutputError) as caught, whole_object("memory://b/out.csv") as path:
        path.write_bytes(b"rows")
    (kept,) = tmp_path.iterdir()
    assert str(caught.value).endswith(f"Permission denied; what was to be written there is in {kept}")
    assert (kept.suffix, kept.read_bytes()) == (".csv", b"rows")


def test_a_storage_that_nobody_knows_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="there is no storage nowhere://"):
        REMOTE.identity("nowhere://x")


@pytest.mark.parametrize(("scheme", "name"), [("gs", "gs"), ("az", "az"), ("sftp", "remote")])
def test_a_missing_package_is_named_by_its_extra(
    monkeypatch: pytest.MonkeyPatch, scheme: str, name: str
) -> None:
    for package in ("gcsfs", "adlfs", "paramiko"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"^{scheme}:// needs .*anomscan\[{name}\]'"):
        REMOTE.identity(f"{scheme}://x/y")
