from __future__ import annotations

import os
from pathlib import Path

import pytest

from anomscan.errors import InputError
from anomscan.model.whereabouts import Whereabouts


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Normals, the same somewhere else, and a private picture."""
    for name in (
        "normal/a.png",
        "normal/sub/b.png",
        "moved/sub/b.png",
        "moved/c.png",
        "private/d.png",
        "normally.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_normals_are_found_where_the_model_was_made(disk: Path) -> None:
    where = Whereabouts(str(disk / "normal"))
    for name in ("a.png", "sub/b.png"):
        assert where.of(str(disk / "normal" / name)) == str(disk / "normal" / name)
    assert where.of(f"{disk}/normal/a.png#2") == f"{disk}/normal/a.png#2"
    assert where.remark() is None


@pytest.mark.parametrize(
    "path",
    ["private/d.png", "normal/../private/d.png", "normally.png", "normal/link.png", "normal/out/d.png"],
)
def test_what_lies_elsewhere_is_not_opened(disk: Path, path: str) -> None:
    (disk / "normal" / "link.png").symlink_to(disk / "private" / "d.png")
    (disk / "normal" / "out").symlink_to(disk / "private")
    where = Whereabouts(str(disk / "normal"))
    assert where.of(f"{disk}/{path}") is None
    assert where.remark() == (
        f"1 normal is not opened, outside of {disk}/normal: name their folder with --normals DIR"
    )
    permitted = Whereabouts(str(disk / "normal"), [str(disk)])
    assert permitted.of(f"{disk}/{path}") is not None
    assert permitted.remark() is None


@pytest.mark.parametrize("root", ["", ".", "normal", os.sep, "~", os.path.dirname(os.path.expanduser("~"))])
def test_a_root_that_says_nothing_allows_nothing(
    disk: Path, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(disk))
    monkeypatch.chdir(disk)
    for path in (f"{disk}/normal/a.png", "normal/a.png"):
        assert Whereabouts(os.path.expanduser(root), ()).of(path) is None
    assert (
        Whereabouts(os.path.expanduser(root), [str(disk / "normal")]).of(f"{disk}/normal/a.png") is not None
    )


def test_normals_that_have_moved_are_found_under_their_names(disk: Path) -> None:
    old = disk / "old"
    where = Whereabouts(str(old))
    assert where.of(str(old / "sub" / "b.png")) is None
    assert where.of(str(old / "c.png")) is None
    assert (
        where.remark() == "2 normals are not where the model has them: name their folder with --normals DIR"
    )
    where = Whereabouts(str(old), [str(disk / "normal"), str(disk / "moved")])
    assert where.of(str(old / "sub" / "b.png")) == str(disk / "normal" / "sub" / "b.png")
    assert where.of(str(old / "c.png")) == str(disk / "moved" / "c.png")
    assert where.of(f"{old}/../private/d.png") is None


def test_a_folder_that_is_none_is_said(disk: Path) -> None:
    with pytest.raises(InputError, match=r"--normals .*gone is no folder"):
        Whereabouts(str(disk), [str(disk / "gone")])
