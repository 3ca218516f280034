"""Signals that ask a command which never ends by itself to end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = ("SIGINT", "SIGTERM", "SIGHUP")


@contextmanager
def ended_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Within the block, the first of ``ENDING`` calls ``stop``; a second one does what it did before.

    One that is ignored, as SIGHUP under nohup, stays so.
    """
    numbers = [getattr(signal, name) for name in ENDING if hasattr(signal, name)]
    before: dict[int, object] = {number: signal.getsignal(number) for number in numbers}

    def end(number: int, frame: FrameType | None) -> None:
        _put(before)
        stop()

    _put({number: end for number, handler in before.items() if handler is not signal.SIG_IGN})
    try:
        yield
    finally:
        _put(before)


def _put(handlers: dict[int, object]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)  # type: ignore[arg-type]
