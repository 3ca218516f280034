from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from anomscan.files.cache import cache_folder, cached

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
CONTENT = b"the content"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "anomscan"


def put(content: bytes) -> str:
    fsspec.filesystem("memory").pipe_file("/cache/x.onnx", content)
    return "memory://cache/x.onnx"


def test_a_file_is_brought_once_and_kept_under_its_digest(folder: Path) -> None:
    place = cached(put(CONTENT), DIGEST)
    assert place == folder / f"{DIGEST}.onnx"
    assert place.read_bytes() == CONTENT
    assert cached(put(b"another by now"), DIGEST) == place


def test_one_that_was_altered_here_is_brought_again(folder: Path) -> None:
    place = cached(put(CONTENT), DIGEST)
    assert place is not None
    place.write_bytes(b"altered")
    assert cached(put(CONTENT), DIGEST) == place
    assert place.read_bytes() == CONTENT


def test_another_content_is_not_kept(folder: Path) -> None:
    assert cached(put(b"another"), DIGEST) is None
    assert list(folder.iterdir()) == []


def test_one_that_is_not_there_is_an_error_and_leaves_nothing(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        cached("memory://cache/none", DIGEST)
    assert list(folder.iterdir()) == []


def test_without_a_variable_it_is_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert cache_folder() == tmp_path / "me" / ".cache" / "anomscan"
