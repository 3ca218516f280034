from __future__ import annotations

import os
from pathlib import Path

import pytest

from anomscan.files.storage import storage_of


def test_an_identity_changes_with_every_write_and_replacement(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"one")
    of = storage_of(str(path)).identity
    seen = [of(str(path))]
    assert seen[0] == of(str(path))
    path.write_bytes(b"longer")
    seen.append(of(str(path)))
    os.utime(path, ns=(1, 1))
    seen.append(of(str(path)))
    (tmp_path / "y").write_bytes(b"longer")
    os.utime(tmp_path / "y", ns=(1, 1))
    (tmp_path / "y").replace(path)
    seen.append(of(str(path)))
    assert len(set(seen)) == 4


def test_an_identity_follows_links_and_knows_the_kind(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    of = storage_of(str(tmp_path)).identity
    kinds = {name: of(str(tmp_path / name)) for name in ("file", "link", "pipe", ".")}
    assert kinds["link"] == kinds["file"]
    assert [name for name, kind in kinds.items() if kind.is_file] == ["file", "link"]
    assert [name for name, kind in kinds.items() if kind.is_folder] == ["."]
    with pytest.raises(FileNotFoundError):
        of(str(tmp_path / "gone"))


def test_a_list_says_what_can_be_listed_itself(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "to folder").symlink_to(tmp_path / "folder")
    (tmp_path / "to itself").symlink_to(tmp_path / "to itself")
    (tmp_path / "to nowhere").symlink_to("x" * 200 + "/" + "y" * 300)
    (tmp_path / "\udcff").touch()
    assert dict(storage_of(str(tmp_path)).list(str(tmp_path))) == {
        "folder": True,
        "to folder": True,
        "to itself": False,
        "to nowhere": False,
        "\udcff": False,
    }


def test_what_is_read_can_seek(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"content")
    with storage_of("x").open(str(tmp_path / "x")) as file:
        assert file.read(3) == b"con"
        file.seek(0)
        assert file.read() == b"content"


def test_a_published_file_replaces_the_old_one_at_once(tmp_path: Path) -> None:
    (tmp_path / "staged").write_text("new")
    (tmp_path / "x").write_text("old")
    with open(tmp_path / "x") as reader:
        storage_of("x").publish(tmp_path / "staged", str(tmp_path / "x"))
        assert reader.read() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "new"
    with pytest.raises(FileNotFoundError):
        storage_of("x").publish(tmp_path / "staged", str(tmp_path / "x"))


def test_a_pipe_that_nobody_writes_to_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            storage_of(str(path)).open(str(path))
