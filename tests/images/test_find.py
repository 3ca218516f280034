from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from anomscan.errors import InputError, NoImages
from anomscan.images.find import Found, Search, Source, Unreadable, find, find_images
from tests.conftest import draw


def names(folder: Path) -> list[str]:
    return [os.path.relpath(source.path, folder) for source in find([str(folder)])]


def test_find_walks_in_byte_order_and_takes_image_suffixes_only(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/z.jpeg", "a/B.tif", "a.webp", "notes.txt", "c.gif"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert names(tmp_path) == ["a/B.tif", "a/z.jpeg", "a.webp", "b.PNG", "c.gif"]


def test_find_enters_linked_folders_once_and_no_loop(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.png").touch()
    (tmp_path / "real" / "loop").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "real")
    assert names(tmp_path) == ["again/x.png"]


def test_a_path_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(InputError, match=r"nowhere: No such file or directory"):
        list(find(["nowhere"]))


def test_a_listed_file_that_has_gone_is_a_row(tmp_path: Path) -> None:
    draw(0).save(tmp_path / "there.png")
    gone, there = str(tmp_path / "gone.png"), str(tmp_path / "there.png")
    assert list(find([gone, there], strict=False)) == [
        Unreadable(gone, "No such file or directory"),
        Source(there),
    ]


def test_a_link_to_itself_hides_nothing_beside_it(tmp_path: Path) -> None:
    for name in ("a.png", "z.png"):
        (tmp_path / name).touch()
    for name in ("loop", "loop.png"):
        (tmp_path / name).symlink_to(tmp_path / name)
    assert names(tmp_path) == ["a.png", "loop.png", "z.png"]


def test_a_folder_that_cannot_be_opened_is_unreadable_and_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "locked/x.png", "z.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    scandir = os.scandir

    def refuse(folder: bytes) -> object:
        if folder.endswith(b"locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert list(find([str(tmp_path)])) == [
        Source(str(tmp_path / "a.png")),
        Unreadable(str(tmp_path / "locked"), "Permission denied"),
        Source(str(tmp_path / "z.png")),
    ]


def test_folders_may_be_nested_deeper_than_the_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    depth = 1500
    monkeypatch.chdir(tmp_path)
    for _ in range(depth):
        os.mkdir("d")
        os.chdir("d")
    Path("x.png").touch()
    os.chdir(tmp_path)
    found = list(find(["d"]))
    os.chdir("/".join(["d"] * depth))
    os.unlink("x.png")
    for _ in range(depth):  # pytest's own cleaning is recursive
        os.chdir("..")
        os.rmdir("d")
    assert found == [Source("/".join(["d"] * depth) + "/x.png")]


def test_it_is_lazy(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    found = find([str(tmp_path / "a.png"), "nowhere"])
    assert next(found) == Source(str(tmp_path / "a.png"))
    with pytest.raises(InputError, match="nowhere"):
        next(found)


def test_what_no_file_can_be_called_is_a_reason() -> None:
    for path, reason in (("a\0b", "null"), ("x" * 300, "File name too long")):
        with pytest.raises(InputError, match=reason):
            list(find([path]))
        (unreadable,) = find([path], strict=False)
        assert isinstance(unreadable, Unreadable)
        assert reason in unreadable.reason


def test_names_of_any_bytes_are_found(tmp_path: Path) -> None:
    for name in (b"\xff.png", b"a\nb.png", "ü.png".encode()):
        open(os.path.join(os.fsencode(tmp_path), name), "wb").close()
    assert names(tmp_path) == ["a\nb.png", "ü.png", "\udcff.png"]


def test_paths_come_from_the_command_line_and_from_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(0).save(tmp_path / "a.png")
    there = Source(str(tmp_path / "a.png"))
    read, write = os.pipe()
    os.write(write, b"gone.png\0" + os.fsencode(tmp_path / "a.png"))
    os.close(write)
    with os.fdopen(read) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        found = list(Search().given([str(tmp_path), "-"], null=True))
    assert found == [there, Unreadable("gone.png", "No such file or directory"), there]
    with pytest.raises(InputError, match=r"gone\.png"):
        list(Search().given(["gone.png"]))


def test_a_folder_of_normals_holds_some(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(NoImages, match=r"1 file without an image suffix was not looked at \(\.txt 1\)"):
        find_images(str(tmp_path))
    (tmp_path / "notes.txt").unlink()
    with pytest.raises(NoImages, match="no file with an image suffix"):
        find_images(str(tmp_path))
    (tmp_path / "a.png").touch()
    assert find_images(str(tmp_path)) == [Source(str(tmp_path / "a.png"))]
    with pytest.raises(InputError, match="No such file"):
        find_images(str(tmp_path / "gone"))


def touch(folder: Path, *files: str) -> None:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def paths(folder: Path, found: Iterable[Found]) -> list[str]:
    return [os.path.relpath(source.path, folder) for source in found]


def test_hidden_and_system_names_are_passed_over_and_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", ".b.png", ".git/c.png", "@eaDir/a.png", "x/Lost+Found/d.png", "x/e.png")
    search = Search()
    assert paths(tmp_path, search.find([str(tmp_path)])) == ["a.png", "x/e.png"]
    assert search.messages() == ["4 hidden or system names were passed over"]
    assert paths(tmp_path, Search().find([str(tmp_path / ".git")])) == [".git/c.png"]
    assert paths(tmp_path, Search().find([str(tmp_path / ".b.png")])) == [".b.png"]


def test_other_files_are_counted_by_their_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.RAW", "c.raw", "notes", "d.t\nxt")
    search = Search()
    assert paths(tmp_path, search.find([str(tmp_path)])) == ["a.png"]
    (message,) = search.messages()
    assert message.startswith("4 files without an image suffix were not looked at (.raw 2, ")
    assert ".t\\nxt 1" in message
    touch(tmp_path, "x/notes")
    with pytest.raises(NoImages, match=r": 1 file without an image suffix was not looked at \(none 1\)"):
        find_images(str(tmp_path / "x"))


def test_what_is_excluded_is_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "a_mask.png", "x/a.png", "x/y/a.png", "masks/a.png")
    search = Search(exclude=("*_mask.png", "masks", "x/y"))
    assert paths(tmp_path, search.find([str(tmp_path)])) == ["a.png", "x/a.png"]
    assert search.messages() == ["3 names were excluded"]


def test_a_folder_is_never_walked_by_whatever_name(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "out/b.png")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    search = Search(never=[str(tmp_path / "out"), str(tmp_path / "not there yet")])
    assert paths(tmp_path, search.find([str(tmp_path)])) == ["a.png"]


def test_files_that_are_too_young_are_left(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    os.utime(tmp_path / "a.png", (0, 0))  # copied with its time kept, and still young here
    search = Search(min_age=60)
    assert list(search.find([str(tmp_path), str(tmp_path / "a.png")])) == []
    assert search.messages() == ["2 files are too young and were left for the next run"]
    assert paths(tmp_path, Search(min_age=1e-9).find([str(tmp_path)])) == ["a.png"]


def test_a_list_of_lines_may_come_from_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.png", "b.png\r")
    read, write = os.pipe()
    os.write(write, b"\r\n".join(os.fsencode(tmp_path / name) for name in ("a.png", "b.png")) + b"\r\n")
    os.close(write)
    with os.fdopen(read) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert paths(tmp_path, Search().given(["-"])) == ["a.png", "b.png\r"]


def test_a_page_has_a_name_of_its_own() -> None:
    assert Source("a.tif").name == "a.tif"
    assert Source("a.tif", 2).name == "a.tif#2"


def test_without_an_order_the_same_is_found(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.png", "a/.hidden.png", "a/out.png", "aside/x.png", "n.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    searches = [Search(["out*"], [str(tmp_path / "aside")], in_order=order) for order in (True, False)]
    found = [[source.path for source in search.find([str(tmp_path)])] for search in searches]
    assert sorted(found[1]) == found[0] == [str(tmp_path / "a" / "z.png"), str(tmp_path / "b.png")]
    assert searches[0].passed_over == searches[1].passed_over


def test_what_a_walk_would_come_to(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for name in ("a/b.png", "b.png", ".h/b.png", "a/.b.png", "aside/b.png", "b.txt", "no/b.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    search = Search(["no"], [str(root / "aside")])
    assert search.comes_to(str(root), str(root / "b.png"))
    assert search.comes_to(str(root), str(root / "a" / "b.png"))
    for name in (".h/b.png", "a/.b.png", "aside/b.png", "b.txt", "no/b.png", "gone/b.png"):
        assert not search.comes_to(str(root), str(root / name)), name
