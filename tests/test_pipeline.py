from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from anomscan.pipeline import available_cores, counted, in_order


@pytest.mark.parametrize("threads", [1, 3])
def test_results_keep_the_order(threads: int) -> None:
    assert list(in_order(lambda n: n * n, range(50), threads, ahead=4)) == [n * n for n in range(50)]


def test_it_reads_only_a_little_ahead() -> None:
    items = iter(range(1000))
    results = in_order(lambda n: n, items, threads=2, ahead=5)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    results.close()  # type: ignore[attr-defined]
    assert next(items) <= 3 + 5


def test_work_goes_on_side_by_side() -> None:
    together = threading.Barrier(2, timeout=10)
    assert list(in_order(lambda n: together.wait() >= 0, range(4), threads=2, ahead=4)) == [True] * 4


def test_an_error_ends_it_where_it_stands() -> None:
    results = in_order(lambda n: 1 // n, [1, 0, 1], threads=2, ahead=3)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_progress_hears_of_every_item_once_it_was_used() -> None:
    heard: list[tuple[str, int, int | None, str]] = []
    items = counted("looking", "ab", 2, lambda *report: heard.append(report))
    assert next(items) == "a"
    assert heard == []
    assert list(items) == ["b"]
    assert heard == [("looking", 1, 2, ""), ("looking", 2, 2, "")]


def test_there_is_a_core() -> None:
    assert 1 <= available_cores() <= 4096


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"/sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"/sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ({"/sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"/sys/fs/cgroup/cpu.max": "1600000 100000\n"}, 8),
        (
            {
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            {
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
        ({"/sys/fs/cgroup/cpu.max": "no numbers"}, 8),
        ({}, 8),
    ],
)
def test_cores_are_those_that_the_container_may_use(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
) -> None:
    def read(path: Path) -> str:
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert available_cores() == cores
