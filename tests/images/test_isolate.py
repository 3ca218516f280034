from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from anomscan.errors import InputError
from anomscan.images.decode import Decoded, decode_all
from anomscan.images.find import Found, Source, Unreadable, find
from anomscan.images.isolate import decode_all_apart
from anomscan.types import Preprocessing
from tests.conftest import Run, draw

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


def children() -> set[str]:
    found = subprocess.run(
        ["ps", "-o", "args=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=False
    )
    return {line for line in found.stdout.splitlines() if "anomscan.images.worker" in line}


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
    assert not children()


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
    assert not children()


def test_whoever_stops_early_does_not_wait_for_a_hang(images: Path) -> None:
    add_hostile(images, "0hang", "hang")
    found = decode_all_apart(find([str(images)]), PREPROCESSING, 2, 60.0, command())
    assert isinstance(next(found), Decoded)
    began = time.monotonic()
    found.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 10
    assert not children()


def test_processes_that_do_not_start_end_the_run(images: Path) -> None:
    with pytest.raises(InputError, match="do not start"):
        list(
            decode_all_apart(
                [Source(str(images / "00.png"))], PREPROCESSING, 1, 1.0, (sys.executable, "-c", "")
            )
        )


def test_score_isolate_survives_what_kills_a_run_without(
    model_folder: Path, images: Path, run: Run, tmp_path: Path
) -> None:
    add_hostile(images, "crash")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(HOSTILE)
    environment = {"PYTHONPATH": os.pathsep.join((str(tmp_path / "site"), str(Path(__file__).parents[2])))}
    asked = ("score", images, "--model", model_folder)
    assert run(*asked, **environment).returncode < 0
    done = run(*asked, "--isolate", **environment)
    assert done.returncode == 3
    rows = done.stdout.decode().splitlines()
    assert len(rows) == 1 + 15
    assert [row for row in rows if "crash.png" in row] == [
        f",{images}/crash.png,,,,,decoding it ends the process that does so (SIGSEGV)"
    ]
    assert run(*asked, "--decode-limit", "3").returncode == 2
