from __future__ import annotations

import os
import signal

import pytest

from anomscan.signals import ended_by_signals


class Before(Exception):
    pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_one_stops_and_the_second_does_what_it_did(number: signal.Signals) -> None:
    def before(number: int, frame: object) -> None:
        raise Before

    outside, stopped = signal.signal(number, before), []
    try:
        with ended_by_signals(lambda: stopped.append(1)):
            os.kill(os.getpid(), number)
            assert stopped == [1]
            with pytest.raises(Before):
                os.kill(os.getpid(), number)
        assert signal.getsignal(number) is before
    finally:
        signal.signal(number, outside)


def test_one_that_is_ignored_stays_so() -> None:
    outside = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals(lambda: pytest.fail("it was not ignored")):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, outside)
