from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from anomscan.adapt.options import AdaptOptions, BackboneChoice
from anomscan.errors import InputError
from anomscan.fit.adapt import adapt
from anomscan.fit.look import Gathering
from anomscan.images.decode import Decoded, decode_all
from anomscan.images.find import Found, Source, Unreadable, find
from anomscan.images.isolate import Decoders, decode_all_apart, sifted
from anomscan.model.folder import read_manifest
from anomscan.types import Preprocessing
from tests.conftest import REPOSITORY, Run, draw

PREPROCESSING = Preprocessing(64, 64, "bicubic", (0.0,) * 3, (1.0,) * 3)
HOSTILE = """
import ctypes, os, sys, time
from PIL import ImageFile
load = ImageFile.ImageFile.load
def hostile(self):
    name = os.path.basename(getattr(self.fp, "name", ""))
    if name.startswith("crash"):
        ctypes.string_at(0)
    if name.startswith("abort"):
        os.abort()
    if name.startswith("exit"):
        os._exit(7)
    if name.startswith("hang"):
        ctypes.PyDLL(None).sleep(1000)  # holds the interpreter, as a loop in a decoder may
    return load(self)
ImageFile.ImageFile.load = hostile
"""
"""A decoder that some files get the better of."""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(12):
        draw(seed).save(folder / f"{seed:02}.png")
    draw(3).save(folder / "wide.jpg")
    (folder / "text.png").write_text("hello")
    return folder


def add_hostile(images: Path, *names: str) -> None:
    for name in names:
        draw(0).save(images / f"{name}.png")


def command() -> tuple[str, ...]:
    return (sys.executable, "-c", f"{HOSTILE}\nfrom anomscan.images.worker import main\nmain()")


def workers() -> set[int]:
    """The processes that this one has started and not ended."""
    asked = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(os.getpid())]  # COLUMNS would cut what they are
    found = subprocess.run(asked, capture_output=True, text=True, check=True)
    return {int(line.split()[0]) for line in found.stdout.splitlines() if "images.worker" in line}


@pytest.mark.parametrize("threads", [1, 3])
def test_what_comes_is_what_comes_without(images: Path, threads: int) -> None:
    apart = list(decode_all_apart(find([str(images)]), PREPROCESSING, threads, 30.0))
    here = list(decode_all(find([str(images)]), PREPROCESSING, threads))
    assert len(apart) == len(here) == 14
    for one, other in zip(apart, here, strict=True):
        if isinstance(one, Unreadable) or isinstance(other, Unreadable):
            assert one == other
        else:
            np.testing.assert_array_equal(one.pixels, other.pixels)
            assert (one.path, one.file, one.identity, one.remarks) == (
                other.path,
                other.file,
                other.identity,
                other.remarks,
            )
    assert not workers()


def test_a_crash_and_a_hang_cost_a_row_each(images: Path) -> None:
    add_hostile(images, "crash", "abort", "exit", "hang", "hang2")
    sources: list[Found] = [*find([str(images)]), Unreadable("gone", "why")]
    found = list(decode_all_apart(sources, PREPROCESSING, 2, 1.5, command()))
    reasons = {Path(image.path).stem: image.reason for image in found if isinstance(image, Unreadable)}
    assert sum(isinstance(image, Decoded) for image in found) == 13
    assert reasons.pop("text").startswith("not an image")
    assert reasons == {
        "crash": "decoding it ends the process that does so (SIGSEGV)",
        "abort": "decoding it ends the process that does so (SIGABRT)",
        "exit": "decoding it ends the process that does so (exit 7)",
        "hang": "decoding it takes longer than 1.5 s; see --decode-limit",
        "hang2": "decoding it takes longer than 1.5 s; see --decode-limit",
        "gone": "why",
    }
    assert not workers()


def test_what_crashes_or_hangs_is_sifted_out_and_nothing_else(images: Path) -> None:
    add_hostile(images, "crash", "hang")
    sources: list[Found] = [*find([str(images)]), Unreadable("gone", "why")]
    progress: list[int] = []
    found = sifted(sources, 1.5, 10**9, lambda _, done, *__: progress.append(done), command())
    assert len(found) == len(progress) == 17
    reasons = {Path(one.path).stem: one.reason for one in found if isinstance(one, Unreadable)}
    assert reasons == {
        "crash": "decoding it ends the process that does so (SIGSEGV)",
        "hang": "decoding it takes longer than 1.5 s; see --decode-limit",
        "gone": "why",
    }
    assert [one for one in found if isinstance(one, Source)] == [
        one for one in sources if Path(one.path).stem not in reasons
    ]
    assert not workers()


def test_what_crashes_at_one_scale_only_is_sifted_out(tmp_path: Path) -> None:
    draw(0, side=800).save(tmp_path / "whole.jpg")
    draw(0, side=800).save(tmp_path / "reduced.jpg")
    of_scales = f"""
{HOSTILE}
def choosy(self):
    name = os.path.basename(getattr(self.fp, "name", ""))
    if name.startswith("whole") == (self.size == (800, 800)):
        os.abort()
    return load(self)
ImageFile.ImageFile.load = choosy
from anomscan.images.worker import main
main()
"""
    found = sifted(list(find([str(tmp_path)])), 30.0, 10**9, command=(sys.executable, "-c", of_scales))
    reasons = [one.reason for one in found if isinstance(one, Unreadable)]
    assert reasons == ["decoding it ends the process that does so (SIGABRT)"] * 2


def test_a_process_that_asks_for_memory_again_and_again_is_ended(images: Path) -> None:
    greedy = """
import sys
from anomscan.images.worker import _answer, receive
requests, answers = sys.stdin.buffer, sys.stdout.buffer
receive(requests)
_answer(answers, {"ready": True})
while receive(requests) is not None:
    while True:
        _answer(answers, {"needs": 1})
        requests.read(1)
"""
    sources: list[Found] = [Source(str(images / "00.png"))]
    (found,) = sifted(sources, 30.0, 10**9, command=(sys.executable, "-c", greedy))
    assert found == Unreadable(sources[0].path, "decoding it ends the process that does so (SIGKILL)")


def test_whoever_stops_early_does_not_wait_for_a_hang(images: Path) -> None:
    add_hostile(images, "0hang", "hang")
    found = decode_all_apart(find([str(images)]), PREPROCESSING, 2, 60.0, command())
    assert isinstance(next(found), Decoded)
    assert workers()
    began = time.monotonic()
    found.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 10
    assert not workers()


def test_the_same_process_decodes_batch_after_batch(images: Path) -> None:
    with Decoders(PREPROCESSING, 2, 30.0) as decoders:
        pids = set()
        for _ in range(3):
            assert isinstance(*decoders.decode_all([Source(str(images / "00.png"))]), Decoded)
            pids |= workers()
        assert len(pids) == 1
        (pid,) = pids
        os.kill(pid, signal.SIGKILL)  # while it has nothing to do
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert isinstance(*decoders.decode_all([Source(str(images / "01.png"))]), Decoded)
        assert pid not in workers()
    assert not workers()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_for_the_parent_costs_no_image(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """A terminal and a service manager send it to every process of the service."""
    slow = HOSTILE.replace("return load", "time.sleep(0.5); return load")
    (tmp_path / "sitecustomize.py").write_text(slow)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Decoders(PREPROCESSING, 1, 30.0) as decoders:
        found = decoders.decode_all([Source(str(images / f"{name:02}.png")) for name in range(3)])
        assert isinstance(next(found), Decoded)
        (pid,) = workers()
        os.kill(pid, number)
        assert [type(image) for image in found] == [Decoded, Decoded]
        assert workers() == {pid}


def test_processes_that_do_not_start_end_the_run(images: Path) -> None:
    with pytest.raises(InputError, match="do not start"):
        list(
            decode_all_apart(
                [Source(str(images / "00.png"))], PREPROCESSING, 1, 1.0, (sys.executable, "-c", "")
            )
        )


@pytest.fixture
def hostile(run: Run, tmp_path: Path) -> Run:
    """The command line with that decoder, in the process itself and in those that it starts."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(HOSTILE)
    path = os.pathsep.join((str(tmp_path / "site"), str(REPOSITORY)))
    return lambda *arguments: run(*arguments, PYTHONPATH=path)


def test_score_isolate_survives_what_kills_a_run_without(
    model_folder: Path, images: Path, hostile: Run
) -> None:
    add_hostile(images, "crash")
    asked = ("score", images, "--model", model_folder)
    assert hostile(*asked).returncode < 0
    done = hostile(*asked, "--isolate")
    assert done.returncode == 3
    rows = done.stdout.decode().splitlines()
    assert len(rows) == 1 + 15
    assert [row for row in rows if "crash.png" in row] == [
        f",{images}/crash.png,,,,,decoding it ends the process that does so (SIGSEGV)"
    ]
    assert hostile(*asked, "--decode-limit", "3").returncode == 2


def test_watch_isolate_gets_past_what_kills_every_watch_without(
    calibrated_folder: Path, images: Path, hostile: Run
) -> None:
    add_hostile(images, "crash", "hang")
    asked = ("watch", images, "--model", calibrated_folder, "--once", "--settle", "0.1", "-o", "log.csv")
    for _ in range(2):  # what is not reported comes again, and kills again
        assert hostile(*asked).returncode < 0
    done = hostile(*asked, *APART)
    assert (done.returncode, done.stderr.decode()) == (3, "3 of 16 files could not be read\n")
    again = hostile(*asked)
    assert (again.returncode, again.stdout) == (0, b"")
    log = (images.parent / "log.csv").read_text().splitlines()
    assert len(log) == 1 + 16
    assert {row.rsplit(",", 1)[1] for row in log if "crash" in row or "hang" in row} == {CRASHES, HANGS}
    assert hostile(*asked, "--decode-limit", "3").returncode == 2


CRASHES, HANGS = (
    "decoding it ends the process that does so (SIGSEGV)",
    "decoding it takes longer than 2 s; see --decode-limit",
)
APART = ("--isolate", "--decode-limit", "2")


def test_index_isolate_leaves_out_what_kills_a_run_without(
    model_folder: Path, images: Path, hostile: Run, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(model_folder, tmp_path / "model"))
    (images / "text.png").unlink()
    before = hostile("index", images, "--model", model)
    assert before.returncode == 0
    whole = read_manifest(str(model)).files
    add_hostile(images, "crash")
    assert hostile("index", images, "--model", model, "--max-pixels", "100000").returncode < 0
    add_hostile(images, "hang")
    done = hostile("index", images, "--model", model, *APART)
    assert done.returncode == 3
    said = done.stderr.decode().splitlines()
    assert said[:2] == [f"skipped {images}/crash.png: {CRASHES}", f"skipped {images}/hang.png: {HANGS}"]
    found = read_manifest(str(model))
    assert (found.data.images, found.data.unreadable) == (10, 2)  # and three are held out
    assert found.files["extractor"] == whole["extractor"]

    more = tmp_path / "more"
    more.mkdir()
    add_hostile(more, "crash", "fine")
    assert hostile("index", "--add", more, "--model", model).returncode < 0
    added = hostile("index", "--add", more, "--model", model, *APART)
    assert (added.returncode, added.stderr.decode().splitlines()[0]) == (
        3,
        f"skipped {more}/crash.png: {CRASHES}",
    )
    assert [Path(path).name for path in read_manifest(str(model)).changes[-1].paths] == ["fine.png"]


def test_adapt_isolate_decodes_all_its_folders_apart_first(
    small: BackboneChoice, images: Path, others: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the decoder of another process only, so that this one goes on where it should have died."""
    (tmp_path / "sitecustomize.py").write_text(HOSTILE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    add_hostile(images, "crash", "hang")
    apart: list[int | None] = []

    def progress(what: str, done: int, total: int | None, _: str) -> None:
        if what == "decoding the images apart" and done == total:
            apart.append(total)

    options = AdaptOptions("panda-oe", small, outliers=str(others), steps=1)
    gathering = Gathering(isolate=2.0)
    fitted = adapt(str(images), str(tmp_path / "model"), options, progress, gathering=gathering)
    reasons = {Path(image.path).stem: image.reason for image in fitted.unreadable}
    assert reasons.pop("text").startswith("not an image")
    assert reasons == {"crash": CRASHES, "hang": HANGS}
    assert apart == [16, 12]
