from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from anomscan.atomic import deliver, sha256, whole_file
from anomscan.errors import OutputError


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    target.write_text("old")
    with whole_file(target) as path:
        path.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    target.write_text("old")

    def fail() -> None:
        with whole_file(target) as path:
            path.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_keeps_pointing_where_it_does(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with whole_file(tmp_path / "link") as path:
        path.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_what_cannot_be_written_is_said_before_any_work(tmp_path: Path) -> None:
    for target in (tmp_path, tmp_path / "missing" / "out.csv", Path("/proc/out.csv")):
        with pytest.raises(OutputError, match="cannot write"), whole_file(target):
            pytest.fail("the block must not run")


def test_a_device_is_written_directly() -> None:
    with whole_file(Path("/dev/null")) as path:
        assert path == Path("/dev/null")


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()


def test_files_are_delivered_and_nothing_is_overwritten(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_text(name)
    target = tmp_path / "new" / "folder"
    deliver([str(tmp_path / "a" / "x.png"), str(tmp_path / "b" / "x.png")], target, move=False)
    assert {path.name: path.read_text() for path in target.iterdir()} == {"x.png": "a", "x-1.png": "b"}
    deliver([str(tmp_path / "a" / "x.png")], target, move=True)
    assert (target / "x-2.png").read_text() == "a"
    assert not (tmp_path / "a" / "x.png").exists()


def test_a_file_that_has_gone_does_not_keep_the_others(tmp_path: Path) -> None:
    (tmp_path / "there.png").touch()
    paths = [str(tmp_path / name) for name in ("gone.png", "there.png", "gone too.png")]
    with pytest.raises(OutputError, match=r"cannot move .*gone\.png.*No such file.*\(and 1 more\)"):
        deliver(paths, tmp_path / "out", move=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["there.png"]
