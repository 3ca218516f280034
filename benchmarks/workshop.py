"""What ``kills.py``, ``writers.py`` and ``full_disk.py`` share: tiny images, a cheap model, forked commands.

A command runs in a fork of a process that has imported everything: what is disturbed is the work, not the
start of Python, and a run takes a second or less. Groups of images are small and a checkpoint is kept at
every step, so that there is something between the first and the last moment.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from anomscan.model.folder import read_manifest, verified
from tests.conftest import draw, draw_odd, fake_model

GROUP = 16
"""Images that are scored, and committed to the journal, together."""


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
    """A command that runs; its process is ``pid``."""

    pid: int
    heard: Path

    def wait(self) -> Ended:
        """Until it has ended."""
        _, status = os.waitpid(self.pid, 0)
        said = self.heard.read_text()
        self.heard.unlink()
        return Ended(os.waitstatus_to_exitcode(status), said)

    def killed_after(self, seconds: float) -> Ended:
        """Kill it then, unless it has ended."""
        time.sleep(seconds)
        os.kill(self.pid, signal.SIGKILL)
        return self.wait()


def start(folder: Path, *arguments: str) -> Command:
    """Begin ``anomscan ARGUMENTS`` in a folder, in a process of its own."""
    descriptor, heard = tempfile.mkstemp(prefix="heard-")
    pid = os.fork()
    if pid:
        os.close(descriptor)
        return Command(pid, Path(heard))
    code = 99
    try:
        os.dup2(descriptor, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.chdir(folder)
        sys.argv = ["anomscan", *arguments]
        from anomscan.__main__ import main

        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def run(folder: Path, *arguments: str) -> Ended:
    """The same, to its end."""
    return start(folder, *arguments).wait()


def take_small_steps() -> None:
    """Import all that the commands do, and let them commit often."""
    from anomscan.adapt import checkpoint, make  # noqa: F401
    from anomscan.fit import adapt, export, feedback, index  # noqa: F401
    from anomscan.report import heatmaps, html  # noqa: F401
    from anomscan.screen import run as screening  # noqa: F401
    from anomscan.screen import screener

    screener.SEARCH = GROUP
    checkpoint.EVERY, checkpoint.DEAREST = 0.0, math.inf


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


def duration(what: Callable[[], object]) -> float:
    """Seconds that it takes."""
    began = time.monotonic()
    what()
    return time.monotonic() - began


def scratch(seed: int) -> tempfile.TemporaryDirectory[str]:
    """A folder to work in; the same random moments for the same seed."""
    random.seed(seed)
    take_small_steps()
    return tempfile.TemporaryDirectory(prefix="anomscan-workshop-")
