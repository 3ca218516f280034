from __future__ import annotations

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomscan.images.decode import decode
from anomscan.images.find import Source
from anomscan.images.worker import GO, LENGTH, receive, understood
from anomscan.types import Preprocessing
from tests.conftest import REPOSITORY, draw

PREPROCESSING = Preprocessing(64, 64, "bicubic", (0.0,) * 3, (1.0,) * 3)


def packed(what: object) -> bytes:
    content = pickle.dumps(what)
    return LENGTH.pack(len(content)) + content


def answers(output: bytes) -> list[tuple[dict[str, Any], bytes]]:
    """What a process has said."""
    found, stream = [], io.BytesIO(output)
    while head := stream.read(LENGTH.size):
        answer = json.loads(stream.read(*LENGTH.unpack(head)))
        found.append((answer, stream.read(answer["pixels"])))
    return found


def test_it_answers_what_decoding_here_gives_and_loads_no_network(tmp_path: Path) -> None:
    draw(0).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("hello")
    asked = packed((PREPROCESSING, 30.0)) + packed(Source(str(tmp_path / "a.png"))) + GO
    asked += packed(Source(str(tmp_path / "b.png")))
    script = (
        "import sys; from anomscan.images.worker import main; main()\n"
        "print(*({'onnxruntime', 'torch', 'faiss'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], input=asked, cwd=REPOSITORY, capture_output=True, check=True
    )
    assert done.stderr.strip() == b""
    ready, needs, image, broken = answers(done.stdout)
    assert ready[0]["ready"]
    assert needs[0]["needs"] >= 96 * 96 * 3
    assert "not an image" in broken[0]["reason"]
    path = str(tmp_path / "a.png")
    here, there = decode(path, PREPROCESSING), understood(image[0], path, path, image[1])
    np.testing.assert_array_equal(here.pixels, there.pixels)
    assert (here.path, here.file, here.identity, here.remarks) == (
        there.path,
        there.file,
        there.identity,
        there.remarks,
    )


def test_nonsense_is_no_image() -> None:
    good = {"shape": [1, 1, 3], "identity": [1] * 6, "remarks": {"flat": True, "pages": 2}}
    assert understood(good, "a", "a", b"abc").remarks.pages == 2
    for change in ({"shape": [9, 9, 3]}, {"shape": None}, {"identity": ["x"]}, {"remarks": {"evil": 1}}):
        with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
            understood({**good, **change}, "a", "a", b"abc")
    assert receive(io.BytesIO(b"")) is None


PARENT = """
import subprocess, sys, os, signal, time
worker = subprocess.Popen([sys.executable, "-m", "anomscan.images.worker"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE)
worker.stdin.write(bytes.fromhex(sys.argv[1]))
worker.stdin.flush()
worker.stdout.read(1)  # it is ready
print(worker.pid, flush=True)
sys.stdin.read()
"""


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it ends with its input, or its alarm")
@pytest.mark.parametrize("stopped", [False, True])
def test_it_does_not_outlive_its_parent(stopped: bool) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, packed((PREPROCESSING, 30.0)).hex()],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        if stopped:  # as a decoder that never returns it does not see its input end
            os.kill(pid, signal.SIGSTOP)
        assert alive(pid)
        parent.kill()
    end = time.monotonic() + 10
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(pid)
