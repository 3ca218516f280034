from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

from anomscan.images.budget import Budget
from tests.conftest import REPOSITORY


def test_what_fits_together_works_together_and_no_more() -> None:
    budget, lock, inside, most = Budget(10), threading.Lock(), 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(50):
            with budget.reserved(4):
                with lock:
                    inside += 1
                    most = max(most, inside)
                with lock:
                    inside -= 1

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert inside == 0
    assert most <= 2


def test_two_that_fit_are_in_at_once() -> None:
    budget, together = Budget(10), threading.Barrier(2, timeout=10)

    def work() -> None:
        with budget.reserved(5):
            together.wait()

    other = threading.Thread(target=work)
    other.start()
    work()
    other.join()


def test_what_is_larger_than_all_works_alone() -> None:
    budget, entered = Budget(10), threading.Event()

    def work() -> None:
        with budget.reserved(1):
            entered.set()

    other = threading.Thread(target=work)
    with budget.reserved(100):
        other.start()
        assert not entered.wait(0.05)
    other.join(10)
    assert entered.is_set()


def test_an_error_gives_it_back() -> None:
    budget = Budget(10)
    with pytest.raises(KeyboardInterrupt), budget.reserved(10):
        raise KeyboardInterrupt
    with budget.reserved(10):
        pass


MANY_THREADS = """
import sys
from anomscan.images.decode import decode_all
from anomscan.images.find import Source
from anomscan.types import Preprocessing

sources = [Source(sys.argv[1])] * 8
rules = Preprocessing(64, 64, "bicubic", (0.0,) * 3, (1.0,) * 3)
assert all(hasattr(image, "pixels") for image in decode_all(sources, rules, 8))
(peak,) = (int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(1024 * peak)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it measures memory as Linux does")
def test_what_one_thread_no_longer_needs_another_one_can_have(tmp_path: Path) -> None:
    """Each of eight threads decodes an image of 144 MB; without, they keep 1.2 GB for themselves."""
    Image.new("RGB", (6000, 6000)).save(tmp_path / "large.png", compress_level=1)
    command = [sys.executable, "-c", MANY_THREADS, str(tmp_path / "large.png")]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=REPOSITORY)
    assert int(done.stdout) < 800_000_000
