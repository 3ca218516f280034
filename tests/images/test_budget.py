from __future__ import annotations

import threading

import pytest

from anomscan.images.budget import Budget


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
