"""What ``kills.py``, ``writers.py`` and ``full_disk.py`` share: tiny images, a cheap model, and commands.

A command is a process of its own, see ``command.py``, that is disturbed once it has imported what it needs: a
run takes a second or less. Groups of images are small and a checkpoint is kept at every step, so that there
is something between the first and the last moment.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

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


class _Server:
    """The process that forks, see ``command.py``; any thread may start commands and wait for them."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", HERE / "command.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(HERE.parent), "OPENBLAS_NUM_THREADS": "1"},
        )
        self._news = threading.Condition()
        self._count = 0
        self._begun: dict[int, int] = {}
        self._ended: dict[int, int] = {}
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            what, number, value = line.split()
            with self._news:
                (self._begun if what == b"begun" else self._ended)[int(number)] = int(value)
                self._news.notify_all()
        os._exit(1)  # it has said why

    def start(self, folder: Path, *arguments: str) -> Command:
        """Ask for a command."""
        descriptor, heard = tempfile.mkstemp(prefix="heard-")
        os.close(descriptor)
        assert self._process.stdin is not None
        with self._news:
            self._count += 1
            number = self._count
            request = json.dumps([number, str(folder), heard, arguments])
            self._process.stdin.write(request.encode() + b"\n")
            self._process.stdin.flush()
            return Command(self, number, Path(heard))

    def begun(self, number: int) -> None:
        """Wait until a command is about to work, or has ended before."""
        with self._news:
            self._news.wait_for(lambda: number in self._begun or number in self._ended)

    def kill(self, number: int) -> None:
        """End a command that has begun by SIGKILL, unless it has ended."""
        with self._news:
            if number not in self._ended:
                with suppress(ProcessLookupError):  # it has ended, and nobody was told yet
                    os.kill(self._begun[number], signal.SIGKILL)

    def wait(self, number: int) -> int:
        """The exit code of a command that was started, negative for a signal."""
        with self._news:
            self._news.wait_for(lambda: number in self._ended)
            return self._ended.pop(number)


@dataclass
class Command:
    """A command that runs, or has ended."""

    server: _Server
    number: int
    heard: Path

    def begun(self) -> Command:
        """Itself, when it has imported what it needs."""
        self.server.begun(self.number)
        return self

    def wait(self) -> Ended:
        """Until it has ended."""
        code = self.server.wait(self.number)
        said = self.heard.read_text(errors="replace")
        self.heard.unlink()
        return Ended(code, said)

    def killed_after(self, seconds: float) -> Ended:
        """Kill it when it has worked for so long, unless it has ended."""
        self.begun()
        time.sleep(seconds)
        self.server.kill(self.number)
        return self.wait()


@cache
def _server() -> _Server:
    return _Server()


def start(folder: Path, *arguments: str) -> Command:
    """Begin ``anomscan ARGUMENTS`` in a folder, in a process of its own."""
    return _server().start(folder, *arguments)


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
    command, began = start(folder, *arguments).begun(), time.monotonic()
    command.wait().well()
    return time.monotonic() - began


def scratch(seed: int) -> tempfile.TemporaryDirectory[str]:
    """A folder to work in; the same random moments for the same seed."""
    random.seed(seed)
    _server()  # before there are threads, which might make one each
    return tempfile.TemporaryDirectory(prefix="anomscan-workshop-")
