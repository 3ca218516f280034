"""Small versions of the benchmarks that kill commands and fill the disk."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.test_line import INHERITED


def benchmark(*arguments: str) -> str:
    """What it prints; it ends with another code than 0 at a fault."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY / "benchmarks",
        env={**INHERITED, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 2 and "only root" in done.stdout:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_kills_at_random_moments_leave_nothing_lost_damaged_or_over() -> None:
    said = benchmark("kills.py", "--kills", "10", "--only", "index", "score", "resume", "export", "watch")
    assert "10 kills, no fault" in said


def test_a_disk_that_is_full_at_some_point_is_one_sentence() -> None:
    commands = ("score -o", "score --move-anomalous", "index")
    said = benchmark("full_disk.py", "--points", "3", "--only", *commands)
    assert said.count("no fault") == 3
