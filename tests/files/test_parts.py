from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from anomscan.files import parts
from anomscan.files.parts import part_in, remove_leftovers


def test_a_part_is_hidden_and_goes_with_its_writer(tmp_path: Path) -> None:
    with part_in(tmp_path) as part:
        assert part.name.startswith(".")
        assert part.read_bytes() == b""
        part.write_text("all of it")
        part.rename(tmp_path / "x")
    with pytest.raises(KeyboardInterrupt), part_in(tmp_path):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_part_has_the_rights_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with part_in(tmp_path) as part:
        assert part.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_dead_writers_left_goes_and_what_living_ones_write_stays(tmp_path: Path) -> None:
    (tmp_path / "x.part").touch()
    with part_in(tmp_path) as living:
        dead = living.with_name(living.name.replace(living.name[10:20], "0" * 10))
        dead.touch()
        with part_in(tmp_path) as part:
            assert part != living
            assert living.exists()
            assert not dead.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["x.part"]


def test_a_part_that_another_run_took_for_a_leftover_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the moment in which it is there and the one in which it is locked."""
    lock, before = parts.try_lock, []

    def late(descriptor: int) -> bool | None:
        if not before:
            before.extend(tmp_path.iterdir())
            with monkeypatch.context() as patch:
                patch.setattr(parts, "try_lock", lock)
                remove_leftovers(tmp_path)
        return lock(descriptor)

    monkeypatch.setattr(parts, "try_lock", late)
    with part_in(tmp_path) as part:
        assert part.exists()
        assert [part] != before
    assert before


def test_without_locks_only_what_is_old_is_left_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with part_in(tmp_path) as part:
        old, young = (part.with_name(part.name.replace(part.name[10:20], digit * 10)) for digit in "01")
        young.touch()
        old.touch()
        os.utime(old, (0, 0))
        with part_in(tmp_path):
            assert part.exists()
            assert young.exists()
            assert not old.exists()


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), part_in(tmp_path / "missing"):
        pytest.fail("the block must not run")
