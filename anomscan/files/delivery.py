"""Copy or move files into a folder, whole or not at all."""

from __future__ import annotations

import errno
import filecmp
import itertools
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from anomscan.errors import OutputError
from anomscan.files.atomic import sync
from anomscan.files.parts import part_in, remove_leftovers
from anomscan.files.storage import Identity
from anomscan.files.urls import is_url
from anomscan.text import printable

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


@dataclass
class Delivery:
    """What was delivered to a folder, how many files, and why others were left where they are."""

    folder: str
    move: bool
    done: int = 0
    left: list[str] = field(default_factory=list)
    _failed: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        files = f"{self.done} file{'s' * (self.done != 1)}"
        verb = "moved" if self.move else "copied"
        return f"{files} {'were' if self.done != 1 else 'was'} {verb} to {printable(self.folder)}"


def deliver(
    files: Iterable[tuple[str, Identity]], folder: str, *, move: bool, again: bool = False
) -> Delivery:
    """Copy or move files into ``folder``; a name that is taken gets a number, nothing is overwritten.

    What lies there already, of the same name, date and content, is not brought again: a run that was killed
    in the middle of a file and one after it leave it there once.

    A file appears under its name when all of it is there and on the disk; only then a file that is moved
    leaves its old place. One that has changed since it was looked at, or changes meanwhile, stays where it
    is, as does one that a URL names; one that has gone is somebody else's by now. Of a symbolic link the file
    is delivered that it leads to; moving removes the link and leaves that file.

    Args:
        files: paths, and the state in which each was looked at.
        folder: made if it is not there.
        move: whether they leave their place.
        again: whether a run that was killed may have delivered some of them: what is there already, under the
            name of the file and with its time and content, is not put there twice.

    Raises:
        OutputError: ``folder`` cannot be written or a file not be read; raised after all others were
            delivered. An interruption leaves with a note of what was done until then.
    """
    delivery = Delivery(folder, move)
    place = Path(folder)
    remove_leftovers(place)
    try:
        for path, identity in files:
            try:
                place.mkdir(parents=True, exist_ok=True)
                _deliver_one(path, identity, place, delivery, again=again)
            except FileNotFoundError:
                delivery.left.append(f"{printable(path)} has gone meanwhile")
            except OSError as error:
                verb = "move" if move else "copy"
                delivery._failed.append(f"cannot {verb} {printable(path)} to {folder}: {error.strerror}")
    except BaseException as stop:
        stop.add_note(str(delivery))
        raise
    if delivery._failed:
        more = f" (and {len(delivery._failed) - 1} more)" if delivery._failed[1:] else ""
        raise OutputError(f"{delivery._failed[0]}{more}; {delivery}")
    return delivery


def _deliver_one(path: str, identity: Identity, place: Path, delivery: Delivery, *, again: bool) -> None:
    if is_url(path):
        delivery.left.append(f"{printable(path)} is not on this machine, and stays")
        return
    if _identity(path) != identity:
        delivery.left.append(f"{printable(path)} has changed since it was scored, and stays")
        return
    if _is_inside(path, place):
        delivery.left.append(f"{printable(path)} is in {printable(delivery.folder)} already")
        return
    linked = again and _is_there(path, place)
    if not linked and delivery.move and not os.path.islink(path):
        linked = _linked(path, identity, place)
    if not linked and not _copied(path, identity, place):
        delivery.left.append(f"{printable(path)} is still being written, and stays")
        return
    if delivery.move:
        os.unlink(path)
        sync(Path(path).parent)
    delivery.done += 1


def _is_there(path: str, place: Path) -> bool:
    """Whether ``place`` holds the same file, or a copy of it with its time, under its name or a number."""
    for target in _names(place, Path(path)):
        try:
            if os.path.samefile(path, target):
                return True
            if target.stat().st_mtime_ns == os.stat(path).st_mtime_ns and filecmp.cmp(path, target, False):
                return True
        except FileNotFoundError:
            return False
    raise AssertionError("the numbers do not end")


def _linked(path: str, identity: Identity, place: Path) -> bool:
    """Give the file a second name in ``place``; False where that needs a copy, on another file system."""
    try:
        target, is_new = _named(Path(path), place, Path(path).name)
    except OSError as error:
        if error.errno in _NO_LINKS:
            return False
        raise
    if is_new and _identity(str(target)) != identity:  # replaced between a look and the link
        target.unlink()
        return False
    return True


def _copied(path: str, identity: Identity, place: Path) -> bool:
    """Copy the file to ``place``; False, and nothing there, if it is not what it was when that is done."""
    with part_in(place) as part:
        shutil.copyfile(path, part)
        shutil.copystat(path, part)
        if _identity(path) != identity or part.stat().st_size != identity.size:
            return False
        sync(part)
        _named(part, place, Path(path).name)
        return True


def _named(source: Path, place: Path, name: str) -> tuple[Path, bool]:
    """Give ``source`` a name in ``place``: its own, or with a number, never one that is taken.

    Returns:
        The name, and whether it is a new one: not where the same lies there already.
    """
    for target in _names(place, Path(name)):
        with suppress(FileExistsError):
            try:
                os.link(source, target, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _NO_LINKS or source.parent != place:
                    raise
                if target.exists():
                    raise FileExistsError from error
                source.rename(target)  # a file system without links, such as FAT
            sync(place)
            return target, True
        if _is_same(source, target):
            sync(target)
            return target, False
    raise AssertionError("the numbers do not end")


def _is_same(source: Path, target: Path) -> bool:
    """Whether a file lies at ``target`` that has the date and the content of ``source``."""
    with suppress(FileNotFoundError):
        one, other = os.stat(source), os.lstat(target)
        return os.path.samestat(one, other) or (
            stat.S_ISREG(other.st_mode)
            and (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)
            and filecmp.cmp(source, target, shallow=False)
        )
    return False


def _names(place: Path, name: Path) -> Iterator[Path]:
    for suffix in itertools.chain([""], (f"-{number}" for number in itertools.count(1))):
        yield place / f"{name.stem}{suffix}{name.suffix}"


def _identity(path: str) -> Identity:
    return Identity.of(os.stat(path))


def _is_inside(path: str, place: Path) -> bool:
    return os.path.samefile(os.path.dirname(path) or os.curdir, place)
