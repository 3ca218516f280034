"""How much memory may be in use at once, whatever the number of threads."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache

_M_MMAP_THRESHOLD, _LARGE_BLOCK = -3, 12 << 20
"""A setting of the allocator of glibc, and the bytes from which on blocks are given back when they are freed:
Pillow holds a large image in blocks of nearly 16 MiB."""


class Budget:
    """Lets threads work as long as what they work on fits together; one that is larger than all works alone.

    Args:
        total: what fits.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._used = 0
        self._changed = threading.Condition()
        self._ask: Callable[[int], None] | None = None

    def leave_to(self, ask: Callable[[int], None]) -> None:
        """Let somebody else decide: ``ask`` returns once an amount may be used, and the last one is not."""
        self._ask = ask

    @contextmanager
    def reserved(self, amount: int) -> Iterator[None]:
        """Wait until ``amount`` fits beside what others have reserved, and hold it."""
        give_large_blocks_back()
        if self._ask is not None:
            self._ask(amount)
            yield
            return
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + amount <= self._total)
            self._used += amount
        try:
            yield
        finally:
            with self._changed:
                self._used -= amount
                self._changed.notify_all()


@lru_cache(1)
def give_large_blocks_back() -> None:
    """Let memory that is freed be free: glibc keeps it for the thread that had it once it had much.

    Else every thread of a run holds as much as the largest image that it ever decoded.
    """
    if sys.platform == "linux":
        import ctypes

        with suppress(OSError, AttributeError):  # another C library has no such habit
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)


MEMORY_IN_FLIGHT = Budget(500_000_000)
"""Bytes that images which are being decoded, or drawn, take together; see ``memory.bytes_needed``."""
