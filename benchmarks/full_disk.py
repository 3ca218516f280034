"""Let the disk be full at some point of what a command writes, and see that it is one sentence and no more.

``python benchmarks/full_disk.py`` (Linux, root: it mounts a small file system in memory) lets each command
write to a disk that has room for a growing part of what it needs, 30 points from nothing to all but a
little. It exits with 1 and one sentence; what was there before is there after, nothing is there in part, no
image is lost, and nothing is left over but a journal that the sentence speaks of. Exits with 1 at the first
fault, with 2 where nothing can be mounted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from workshop import Fault, check_images, check_leftovers, check_model, furnish, refill, run, scratch

from tests.conftest import draw, fake_model

SIZE = 4 << 20
MANY = 300
"""Normals of the model that is exported, so that the file has some pages."""


@dataclass(frozen=True)
class Case:
    """A command, and the files on the disk that are there whole or not at all afterwards."""

    arguments: tuple[str, ...]
    outputs: tuple[str, ...] = ()


def cases(folder: Path) -> dict[str, Case]:
    """By what is full."""
    images = tuple(sorted(f"in/{path.name}" for path in (folder / "all").iterdir()) * 20)
    move = ("score", "in", "--model", "m", "--fpr", "0.1", "-o", "disk/out.csv")
    return {
        "score -o": Case(("score", *images, "--model", "m", "-o", "disk/out.csv"), ("out.csv",)),
        "score --report": Case(
            ("score", "in", "--model", "m", "-o", "out.csv", "--report", "disk/r.html"), ("r.html",)
        ),
        "score --move-anomalous": Case((*move, "--move-anomalous", "disk/aside"), ("out.csv",)),
        "score --copy-anomalous": Case((*move, "--copy-anomalous", "disk/aside"), ("out.csv",)),
        "index": Case(("index", "more", "--model", "disk/m")),
        "index --add": Case(("index", "--add", "one.png", "--model", "disk/m")),
        "export --with-scorer": Case(
            ("export", "disk/x.onnx", "--model", "large", "--images", "more", "--with-scorer"), ("x.onnx",)
        ),
    }


@contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """A file system in memory at ``place``; exits where only root could make one."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        print("only root can mount a small file system")
        sys.exit(2)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def prepare(folder: Path, leaving: int | None) -> None:
    """An old model on the disk, all images in ``in``, and room for so many bytes, or all there is."""
    disk = folder / "disk"
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(folder / "m", disk / "m")
    for path in (folder / "out.csv", *folder.glob(".*.journal*")):
        path.unlink(missing_ok=True)
    refill(folder)
    if leaving is not None:
        status = os.statvfs(disk)
        (disk / "filled").write_bytes(bytes(max(0, status.f_bavail * status.f_frsize - leaving)))


def needed(folder: Path, case: Case) -> int:
    """Bytes below which the command fails, to a page or two, by halving."""
    low, high = 0, SIZE
    while high - low > 8192:
        middle = (low + high) // 2
        prepare(folder, middle)
        if run(folder, *case.arguments).code == 0:
            high = middle
        else:
            low = middle
    return low


def check(folder: Path, case: Case, leaving: int) -> None:
    """Run it with so much room; raises Fault."""
    prepare(folder, leaving)
    before = _content(folder / "disk" / "m")
    ended = run(folder, *case.arguments).with_one_of(0, 1)
    disk = folder / "disk"
    if ended.code == 0:
        return
    if not ended.said.startswith("anomscan: ") or ended.said.count("\n") != 1:
        raise Fault(f"not one sentence: {ended.said}")
    for name in case.outputs:
        if (disk / name).exists() and not (disk / name).stat().st_size:
            raise Fault(f"{name} is there, and empty")
    if _content(disk / "m") != before:
        raise Fault("the old model is not what it was")
    check_model(disk / "m")
    aside = folder / "aside"
    if (disk / "aside").exists():
        shutil.copytree(disk / "aside", aside)
    copies = "--copy-anomalous" in case.arguments
    check_images(folder, in_flight=len(list(aside.iterdir())) if copies and aside.exists() else 0)
    kept = list(disk.glob(".*.journal*"))
    if kept and "--resume" not in ended.said:
        raise Fault(f"a journal is left, and nobody is told: {ended.said}")
    for path in kept:
        path.unlink()
    check_leftovers(disk, "m")


def _content(model: Path) -> dict[str, bytes]:
    """The files of a model; its lock holds the number of whoever wrote last."""
    return {path.name: path.read_bytes() for path in model.iterdir() if path.name != ".lock"}


def main() -> None:
    """All commands, at each point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--points", type=int, default=30, help="of what each writes")
    parser.add_argument("--only", nargs="+", help="these commands")
    arguments = parser.parse_args()
    began = time.monotonic()
    with scratch(0) as place:
        folder = Path(place)
        furnish(folder, images=32)
        shutil.copy(folder / "more" / "000.png", folder / "one.png")
        (folder / "many").mkdir()
        for i in range(MANY):
            draw(5000 + i).resize((48, 48)).save(folder / "many" / f"{i:03}.png")
        fake_model(folder / "many", folder / "large", 0.1)
        with small_disk(folder / "disk"):
            for name, case in cases(folder).items():
                if arguments.only and name not in arguments.only:
                    continue
                most = needed(folder, case)
                for point in range(arguments.points):
                    leaving = most * point // arguments.points
                    try:
                        check(folder, case, leaving)
                    except Fault as fault:
                        print(f"{name}, with room for {leaving} of {most} bytes: {fault}")
                        sys.exit(1)
                print(f"{name}: {arguments.points} points of {most} bytes, no fault")
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
