from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from anomscan.errors import OutputError
from anomscan.files.delivery import Delivery, deliver
from anomscan.files.storage import Identity


def looked_at(*paths: Path) -> list[tuple[str, Identity]]:
    """Files, in the state in which they are now."""
    return [(str(path), Identity.of(os.stat(path))) for path in paths]


def written(path: Path, text: str = "content") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture(params=["links", "no links", "another disk"])
def disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Every kind of file system that files are delivered on or between."""
    link = os.link

    def refuse(source: Path, target: Path, **options: bool) -> None:
        if Path(source).parent == Path(target).parent and request.param == "another disk":
            link(source, target, **options)
        else:
            raise OSError({"no links": errno.EPERM, "another disk": errno.EXDEV}[request.param], "no")

    if request.param != "links":
        monkeypatch.setattr(os, "link", refuse)
    return str(request.param)


@pytest.mark.usefixtures("disk")
def test_files_are_delivered_and_nothing_is_overwritten(tmp_path: Path) -> None:
    a, b = (written(tmp_path / name / "x.png", name) for name in "ab")
    target = tmp_path / "new" / "folder"
    copied = deliver(looked_at(a, b), str(target), move=False)
    assert (copied.done, copied.left) == (2, [])
    assert content(target) == {"x.png": "a", "x-1.png": "b"}
    written(a, "another")
    deliver(looked_at(a), str(target), move=True)
    assert (target / "x-2.png").read_text() == "another"
    assert not a.exists()
    assert len(content(target)) == 3


@pytest.mark.usefixtures("disk")
@pytest.mark.parametrize("move", [True, False])
def test_what_lies_there_already_is_not_brought_again(tmp_path: Path, move: bool) -> None:
    """As a run that was killed may have left it: here under a number, since another has its name."""
    target = tmp_path / "out"
    taken, path = written(target / "x.png", "other"), written(tmp_path / "x.png", "mine")
    os.utime(path, ns=(10**18, 10**18))
    deliver(looked_at(path), str(target), move=False)
    done = deliver(looked_at(path), str(target), move=move)
    assert (done.done, done.left) == (1, [])
    assert content(target) == {"x.png": "other", "x-1.png": "mine"}
    assert path.exists() != move
    assert taken.exists()


def test_a_second_name_that_a_killed_mover_has_made_is_the_only_one(tmp_path: Path) -> None:
    path, target = written(tmp_path / "x.png"), tmp_path / "out"
    target.mkdir()
    os.link(path, target / "x.png")
    deliver(looked_at(path), str(target), move=True)
    assert content(target) == {"x.png": "content"}
    assert not path.exists()


def test_of_the_same_content_and_another_date_both_are_kept(tmp_path: Path) -> None:
    target = tmp_path / "out"
    os.utime(written(target / "x.png"), ns=(10**18, 10**18))
    deliver(looked_at(written(tmp_path / "x.png")), str(target), move=True)
    assert sorted(content(target)) == ["x-1.png", "x.png"]


def test_a_link_to_the_file_itself_is_no_delivery(tmp_path: Path) -> None:
    path, target = written(tmp_path / "x.png"), tmp_path / "out"
    target.mkdir()
    (target / "x.png").symlink_to(path)
    deliver(looked_at(path), str(target), move=True)
    assert (target / "x-1.png").read_text() == "content"


@pytest.mark.usefixtures("disk")
def test_the_times_and_rights_of_a_file_come_along(tmp_path: Path) -> None:
    path = written(tmp_path / "x.png")
    path.chmod(0o640)
    os.utime(path, ns=(10**18, 10**18))
    for move in (False, True):
        deliver(looked_at(path), str(tmp_path / "out"), move=move)
    for there in (tmp_path / "out").iterdir():
        assert (there.stat().st_mode & 0o777, there.stat().st_mtime_ns) == (0o640, 10**18)


def test_a_file_that_has_gone_does_not_keep_the_others(tmp_path: Path) -> None:
    there = written(tmp_path / "there.png")
    gone = written(tmp_path / "gone.png")
    files = looked_at(gone, there)
    gone.unlink()
    done = deliver(files, str(tmp_path / "out"), move=True)
    assert list(content(tmp_path / "out")) == ["there.png"]
    assert (done.done, done.left) == (1, [f"{gone} has gone meanwhile"])


def test_a_file_that_cannot_be_read_does_not_keep_the_others_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = looked_at(*(written(tmp_path / name) for name in ("bad.png", "good.png", "bad too.png")))
    copy = shutil.copyfile

    def fail(source: str, target: Path) -> object:
        if "bad" in source:
            raise OSError(errno.EIO, "Input/output error")
        return copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", fail)
    with pytest.raises(
        OutputError,
        match=r"cannot copy .*bad\.png to .*: Input/output error \(and 1 more\); 1 file was copied to",
    ):
        deliver(files, str(tmp_path / "out"), move=False)
    assert list(content(tmp_path / "out")) == ["good.png"]


def test_a_folder_that_cannot_be_made_is_an_error_and_nothing_leaves(tmp_path: Path) -> None:
    path = written(tmp_path / "x.png")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot move .*x\.png to .*; 0 files were moved to"):
        deliver(looked_at(path), str(tmp_path / "file" / "out"), move=True)
    assert path.exists()


@pytest.mark.usefixtures("disk")
@pytest.mark.parametrize("move", [True, False])
def test_a_file_that_has_changed_since_stays(tmp_path: Path, move: bool) -> None:
    path = written(tmp_path / "x.png")
    files = looked_at(path)
    written(path, "another image")
    done = deliver(files, str(tmp_path / "out"), move=move)
    assert done.done == 0
    assert "has changed since it was scored" in done.left[0]
    assert path.read_text() == "another image"
    assert content(tmp_path / "out") == {}


def test_a_file_that_grows_while_it_is_copied_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "x.png")
    files = looked_at(path)
    copy = shutil.copyfile

    def grow(source: str, target: Path) -> None:
        copy(source, target)
        written(path, "content and more")

    monkeypatch.setattr(shutil, "copyfile", grow)
    done = deliver(files, str(tmp_path / "out"), move=False)
    assert done.left == [f"{path} is still being written, and stays"]
    assert content(tmp_path / "out") == {}


def test_a_file_of_that_folder_stays_where_it_is(tmp_path: Path) -> None:
    path = written(tmp_path / "out" / "x.png")
    done = deliver(looked_at(path), str(tmp_path / "out"), move=True)
    assert (done.done, content(tmp_path / "out")) == (0, {"x.png": "content"})
    assert "is in" in done.left[0]


@pytest.mark.usefixtures("disk")
def test_moving_a_link_delivers_the_file_and_removes_the_link(tmp_path: Path) -> None:
    real, link = written(tmp_path / "real.png"), tmp_path / "link.png"
    link.symlink_to(real)
    deliver(looked_at(link), str(tmp_path / "out"), move=True)
    (there,) = (tmp_path / "out").iterdir()
    assert (there.name, there.is_symlink(), there.read_text()) == ("link.png", False, "content")
    assert not link.is_symlink()
    assert real.exists()


def test_a_file_leaves_its_place_only_when_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "x.png")
    unlink = os.unlink

    def look(gone: str | Path, **options: int) -> None:
        if str(gone) == str(path):
            assert content(tmp_path / "out") == {"x.png": "content"}
        unlink(gone, **options)

    monkeypatch.setattr(os, "unlink", look)
    deliver(looked_at(path), str(tmp_path / "out"), move=True)
    assert not path.exists()


def test_an_interruption_says_what_was_done(tmp_path: Path) -> None:
    files = looked_at(written(tmp_path / "x.png"))

    def interrupted() -> object:
        yield from files
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        deliver(interrupted(), str(tmp_path / "out"), move=True)  # type: ignore[arg-type]
    assert caught.value.__notes__ == [f"1 file was moved to {tmp_path / 'out'}"]


def test_what_a_dead_mover_left_goes_also_where_links_need_no_copy(tmp_path: Path) -> None:
    left = written(tmp_path / "out" / ".anomscan-0123456789abcdef.part")
    deliver(looked_at(written(tmp_path / "x.png")), str(tmp_path / "out"), move=True)
    assert not left.exists()


def test_a_delivery_is_a_sentence() -> None:
    assert str(Delivery("out", move=False, done=2)) == "2 files were copied to out"
    assert str(Delivery("o\nut", move=True, done=1)) == "1 file was moved to o\\nut"


@pytest.mark.parametrize("move", [True, False])
def test_what_a_killed_run_has_delivered_is_not_there_twice(tmp_path: Path, disk: str, move: bool) -> None:
    """Killed after the file had its name in the folder, and before it left its place; under a number, too."""
    aside = tmp_path / "aside"
    other = written(aside / "x.png", "another of that name")
    files = looked_at(written(tmp_path / "a" / "x.png"), written(tmp_path / "b" / "y.png"))
    deliver(files, str(aside), move=False)
    assert sorted(content(aside)) == ["x-1.png", "x.png", "y.png"]
    done = deliver(files, str(aside), move=move, again=True)
    assert (done.done, done.left) == (2, [])
    assert content(aside) == {"x.png": "another of that name", "x-1.png": "content", "y.png": "content"}
    assert Path(files[0][0]).exists() is not move
    assert other.exists()
    fresh = looked_at(written(tmp_path / "c" / "x.png", "third"))
    assert deliver(fresh, str(aside), move=move, again=True).done == 1
    assert content(aside)["x-2.png"] == "third"
