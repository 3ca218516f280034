"""Kill commands at random moments, and see that nothing is lost, damaged or left over.

``python benchmarks/kills.py`` kills 200 times: ``adapt``, ``index``, ``score -o --move-anomalous``,
``score --resume``, ``export`` and ``watch --once --move-anomalous``. After each, outputs are whole or absent
(a watch, which appends: all rows but the last one are whole), every image is in one place (one that was being
moved may have both names), and the model loads; the same command again ends well, gives the bytes that an
undisturbed run gives, of a watch the same rows, and leaves nothing over. Exits with 1 at the first fault.
``watch_load.py`` kills ``watch`` while files arrive.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Protocol

from workshop import (
    Ended,
    Fault,
    check_images,
    check_leftovers,
    check_model,
    duration,
    furnish,
    refill,
    run,
    scratch,
    start,
)

from anomscan.model.folder import read_manifest
from anomscan.screen.journal import journal_of

MOVE = ("score", "in", "--model", "m", "--fpr", "0.1", "-o", "out.csv", "--move-anomalous", "aside")


class Score:
    """``score -o --move-anomalous``; half of the second runs go on, ``--resume``, the others start over."""

    resume: bool | None = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        refill(folder)
        self.seconds = duration(folder, *MOVE)
        self.whole = (folder / "out.csv").read_bytes()

    def kill(self, share: float) -> Ended:
        """Once, and once more while it is gone on with."""
        folder = self.folder
        refill(folder)
        (folder / "out.csv").unlink(missing_ok=True)
        ended = start(folder, *MOVE).killed_after(share * self.seconds)
        self._check()
        resume = random.random() < 0.5 if self.resume is None else self.resume
        if resume and not self._is_done():
            start(folder, *MOVE, "--resume").killed_after(random.random() * self.seconds)
            self._check()
        if not self._is_done():
            run(folder, *MOVE, *(["--resume"] if resume else [])).well()
        if resume and (folder / "out.csv").read_bytes() != self.whole:
            raise Fault("the rows of the run that went on are others")
        check_images(folder, in_flight=0)
        check_leftovers(folder, "m")
        return ended

    def _check(self) -> None:
        """Of a run that was killed, or gone on with: never of one that was started over."""
        out = self.folder / "out.csv"
        check_images(self.folder, in_flight=1)
        if out.exists() and out.read_bytes() != self.whole:
            raise Fault("out.csv is not whole")

    def _is_done(self) -> bool:
        """Whether it was killed when all was done: there is nothing to go on with."""
        out = self.folder / "out.csv"
        return out.exists() and not journal_of(str(out)).exists()


class Resume(Score):
    """``score --resume``, always."""

    resume = True


class Index:
    """``index`` of other normals than the model has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(folder / "m", folder / "old")
        self.command = ("index", "more", "--model", "indexed")
        self._restore()
        self.seconds = duration(folder, *self.command)
        self.files = read_manifest(str(folder / "indexed")).files

    def _restore(self) -> None:
        shutil.rmtree(self.folder / "indexed", ignore_errors=True)
        shutil.copytree(self.folder / "old", self.folder / "indexed")

    def kill(self, share: float) -> Ended:
        """Once."""
        self._restore()
        ended = start(self.folder, *self.command).killed_after(share * self.seconds)
        check_model(self.folder / "indexed")
        run(self.folder, *self.command).well()
        check_model(self.folder / "indexed")
        check_leftovers(self.folder, "indexed")
        if read_manifest(str(self.folder / "indexed")).files != self.files:
            raise Fault("the model is another than that of an undisturbed run")
        return ended


class Watch:
    """``watch --once --move-anomalous``; half of the second runs are killed, too."""

    COMMAND = ("watch", "in", "--once", "--model", "m", "--fpr", "0.1", "--settle", "0", "-o", "rows.csv")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command = (*self.COMMAND, "--move-anomalous", "aside")
        self._restore()
        self.seconds = duration(folder, *self.command)
        self.rows = sorted(self._lines())

    def _restore(self) -> None:
        refill(self.folder)
        for path in self.folder.glob("rows.csv*"):
            path.unlink()

    def _lines(self) -> list[bytes]:
        file = self.folder / "rows.csv"
        return file.read_bytes().splitlines(keepends=True) if file.exists() else []

    def kill(self, share: float) -> Ended:
        """Once, or twice."""
        self._restore()
        ended = start(self.folder, *self.command).killed_after(share * self.seconds)
        self._check()
        if random.random() < 0.5:
            start(self.folder, *self.command).killed_after(random.random() * self.seconds)
            self._check()
        run(self.folder, *self.command).well()
        if sorted(self._lines()) != self.rows:
            raise Fault("the rows are others than those of an undisturbed watch")
        check_images(self.folder, in_flight=0)
        check_leftovers(self.folder, "m")
        return ended

    def _check(self) -> None:
        """Whole rows of the undisturbed watch, none twice, and no image moved that has none."""
        check_images(self.folder, in_flight=1)
        whole = [line for line in self._lines() if line.endswith(b"\n")]
        if len(set(whole)) != len(whole) or not set(whole) <= set(self.rows):
            raise Fault("rows.csv has a row twice, or one that an undisturbed watch does not write")
        moved = self.folder / "aside"
        names = {path.name for path in moved.iterdir() if path.name[0] != "."} if moved.exists() else set()
        if not names <= {Path(line.split(b",")[1].decode()).name for line in whole}:
            raise Fault("an image was moved before its row was written")


class Export:
    """``export`` of the extractor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command = ("export", "x.onnx", "--model", "m", "--images", "more")
        self.seconds = duration(folder, *self.command)
        self.whole = (folder / "x.onnx").read_bytes()

    def kill(self, share: float) -> Ended:
        """Once."""
        out = self.folder / "x.onnx"
        out.unlink(missing_ok=True)
        ended = start(self.folder, *self.command).killed_after(share * self.seconds)
        if out.exists() and out.read_bytes() != self.whole:
            raise Fault("x.onnx is not whole")
        run(self.folder, *self.command).well()
        if out.read_bytes() != self.whole:
            raise Fault("x.onnx is another file than that of an undisturbed run")
        check_leftovers(self.folder, "m")
        return ended


class Adapt:
    """``adapt`` of a small network with random weights, into a folder that has a model."""

    def __init__(self, folder: Path) -> None:
        import safetensors.torch
        import timm
        import torch

        self.folder = folder
        torch.manual_seed(0)
        safetensors.torch.save_file(timm.create_model("resnet10t").state_dict(), folder / "w.safetensors")
        network = ("--backbone", "resnet10t", "--weights", "w.safetensors", "--size", "32")
        self.command = ("adapt", "normal", "--model", "adapted", "--method", "msc", "--steps", "12", *network)
        self._restore()
        self.seconds = duration(folder, *self.command)
        self.files = read_manifest(str(folder / "adapted")).files
        self._restore()
        run(folder, *self.command).well()
        if read_manifest(str(folder / "adapted")).files != self.files:
            raise Fault("two undisturbed runs give two models")
        self.went_on = 0

    def _restore(self) -> None:
        shutil.rmtree(self.folder / "adapted", ignore_errors=True)
        shutil.copytree(self.folder / "m", self.folder / "adapted")

    def kill(self, share: float) -> Ended:
        """Once."""
        self._restore()
        ended = start(self.folder, *self.command).killed_after(share * self.seconds)
        check_model(self.folder / "adapted")
        again = run(self.folder, *self.command).well()
        self.went_on += "going on after step" in again.said
        check_model(self.folder / "adapted")
        check_leftovers(self.folder, "adapted")
        if read_manifest(str(self.folder / "adapted")).files != self.files:
            raise Fault("the model is another than that of an undisturbed run")
        return ended


class Kind(Protocol):
    """A command; ``seconds`` is how long an undisturbed run works."""

    seconds: float

    def __init__(self, folder: Path) -> None: ...

    def kill(self, share: float) -> Ended:
        """Kill it after that share of its time, see that all is well, run it again and compare."""
        ...


COMMANDS: dict[str, type[Kind]] = {
    "adapt": Adapt,
    "index": Index,
    "score": Score,
    "resume": Resume,
    "export": Export,
    "watch": Watch,
}


def main() -> None:
    """Kill, and count."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="in all")
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS), help="these commands")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    began = time.monotonic()
    with scratch(arguments.seed) as place:
        folder = Path(place)
        furnish(folder)
        kinds = {name: COMMANDS[name](folder) for name in arguments.only}
        killed: Counter[str] = Counter()
        for name in itertools.cycle(arguments.only):
            if killed.total() == arguments.kills:
                break
            share = random.random()
            try:
                was_killed = kinds[name].kill(share).code == -signal.SIGKILL
            except Fault as fault:
                print(f"{name}, kill {killed.total() + 1}, after {share:.2f} of its time: {fault}")
                sys.exit(1)
            killed[name] += was_killed
            if was_killed and killed.total() % 5 == 0:
                print(f"{dict(killed)}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
            if not was_killed:  # the machine has more time for it than when it was measured
                kinds[name].seconds *= 0.95
        for name, kind in kinds.items():
            further = f", {kind.went_on} went on from a checkpoint" if isinstance(kind, Adapt) else ""
            print(f"{name}: {killed[name]} times killed in its {kind.seconds:.2f} s{further}")
    print(f"{killed.total()} kills, no fault; {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
