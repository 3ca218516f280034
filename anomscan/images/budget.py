"""How much memory may be in use at once, whatever the number of threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


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


MEMORY_IN_FLIGHT = Budget(500_000_000)
"""Bytes that images which are being decoded, or drawn, take together; see ``memory.bytes_needed``."""
