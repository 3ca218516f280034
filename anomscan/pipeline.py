"""Work done side by side in threads and handed on in order."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from anomscan.types import Progress


def available_cores() -> int:
    """Cores this process may run on, by its affinity and by the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _quota())))


def _quota() -> float:
    """Cores' worth of time that the container is given; infinite where there is no limit."""
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError):  # the older kind of control group
        folder = Path("/sys/fs/cgroup/cpu")
        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return math.inf if int(quota) < 0 else int(quota) / int(period)
    return math.inf


Item = TypeVar("Item")
Result = TypeVar("Result")


def counted(what: str, items: Iterable[Item], total: int | None, progress: Progress) -> Iterator[Item]:
    """The same items; each is reported to ``progress`` once it was used."""
    for done, item in enumerate(items, start=1):
        yield item
        progress(what, done, total, "")


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, ahead: int
) -> Iterator[Result]:
    """``map(function, items)`` in threads, at most ``ahead`` items ahead of whoever consumes it.

    The results and their order do not depend on ``threads``, and memory is bounded by ``ahead`` whatever
    the number of items. It pays where ``function`` releases the interpreter lock, as Pillow, onnxruntime
    and FAISS do. ``items`` is read by the consumer's thread; two of these in a row are a pipeline.
    """
    with ThreadPoolExecutor(threads) as pool:
        yield from in_order_by(pool, function, items, ahead)


def in_order_by(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """``in_order`` in threads that stay when it has ended."""
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
