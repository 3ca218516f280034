"""What ``kills.py``, ``writers.py`` and ``full_disk.py`` share: tiny images, a cheap model, and commands.

A command is a process of its own, see ``command.py``, that is disturbed once it has imported what it needs: a
run takes a second or less. Groups of images are small and a checkpoint is kept at every step, so that there
is something between the first and the last moment.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from anomscan.model.folder import read_manifest, verified  # noqa: E402
from tests.conftest import draw, draw_odd, fake_model  # noqa: E402


class Fault(Exception):
    """Something was lost, damaged, left over or said wrongly."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, negative for a signal, and what it said."""

    code: int
    said: str

    def well(self) -> Ended:
        """The same; raises Fault where it failed."""
        return self.with_one_of(0)

    def with_one_of(self, *codes: int) -> Ended:
        """The same; raises Fault where the exit code is another, or it said something as Python does."""
        if self.code not in codes or "Traceback" in self.said:
            raise Fault(f"exit code {self.code}: {self.said}")
        return self


@dataclass
class Command:
    """A command whose work has begun."""

    process: subprocess.Popen[bytes]
    heard: IO[bytes]

    def wait(self) -> Ended:
        """Until it has ended."""
        code = self.process.wait()
        with self.heard:
            self.heard.seek(0)
            return Ended(code, self.heard.read().decode("utf-8", "replace"))

    def killed_after(self, seconds: float) -> Ended:
        """Kill it then, unless it has ended."""
        time.sleep(seconds)
        self.process.kill()
        return self.wait()


def start(folder: Path, *arguments: str) -> Command:
    """Begin ``anomscan ARGUMENTS`` in a folder; returns when it is about to work, or has failed before."""
    reading, writing = os.pipe()
    heard = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed when the command has ended
    process = subprocess.Popen(
        [sys.executable, "-P", HERE / "command.py", str(writing), *arguments],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=heard,
        pass_fds=[writing],
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
    )
    os.close(writing)
    with open(reading, "rb") as begun:
        begun.read()
    return Command(process, heard)


def run(folder: Path, *arguments: str) -> Ended:
    """The same, to its end."""
    return start(folder, *arguments).wait()


def furnish(folder: Path, images: int = 64) -> None:
    """Normals in ``normal``, of which ``m`` is a model, and ``more``; images in ``all``, every eighth odd."""
    for name, count, first in (("normal", 24, 0), ("more", 32, 100), ("all", images, 1000)):
        (folder / name).mkdir()
        for i in range(count):
            odd = name == "all" and i % 8 == 3
            (draw_odd if odd else draw)(first + i).resize((48, 48)).save(folder / name / f"{i:03}.png")
    fake_model(folder / "normal", folder / "m", 0.5)


def refill(folder: Path) -> None:
    """All images in ``in`` again, and none anywhere else."""
    for name in ("in", "aside"):
        shutil.rmtree(folder / name, ignore_errors=True)
    shutil.copytree(folder / "all", folder / "in")


def check_images(folder: Path, *, in_flight: int) -> None:
    """Every image is in one place, whole; ``in_flight`` may have their names in both."""
    there: list[bytes] = []
    for name in ("in", "aside"):
        if (folder / name).exists():
            there += [path.read_bytes() for path in (folder / name).iterdir() if path.name[0] != "."]
    expected = {path.read_bytes() for path in (folder / "all").iterdir()}
    if set(there) != expected:
        raise Fault(
            f"{len(expected - set(there))} images are lost, {len(set(there) - expected)} are not whole"
        )
    if len(there) - len(expected) > in_flight:
        raise Fault(f"{len(there) - len(expected)} images are in two places")


def check_model(folder: Path) -> None:
    """The model loads: all of its files are what its manifest says."""
    manifest = read_manifest(str(folder))
    for role in manifest.files:
        verified(str(folder), manifest, role)


def check_leftovers(folder: Path, *models: str) -> None:
    """Nothing is hidden, and a model's folder holds nothing but the model."""
    hidden = [path for path in folder.rglob(".*") if path.name != ".lock"]
    for model in models:
        manifest = read_manifest(str(folder / model))
        named = {"model.json", ".lock", *(file.name for file in manifest.files.values())}
        hidden += [path for path in (folder / model).iterdir() if path.name not in named]
    if hidden:
        raise Fault(f"left over: {', '.join(str(path.relative_to(folder)) for path in hidden)}")


def duration(folder: Path, *arguments: str) -> float:
    """Seconds that a command works, to its good end."""
    command, began = start(folder, *arguments), time.monotonic()
    command.wait().well()
    return time.monotonic() - began


def scratch(seed: int) -> tempfile.TemporaryDirectory[str]:
    """A folder to work in; the same random moments for the same seed."""
    random.seed(seed)
    return tempfile.TemporaryDirectory(prefix="anomscan-workshop-")
