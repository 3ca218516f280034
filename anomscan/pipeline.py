"""Work done side by side in threads and handed on in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, ahead: int
) -> Iterator[Result]:
    """``map(function, items)`` in threads, at most ``ahead`` items ahead of whoever consumes it.

    The results and their order do not depend on ``threads``, and memory is bounded by ``ahead`` whatever
    the number of items. It pays where ``function`` releases the interpreter lock, as Pillow, onnxruntime
    and FAISS do. ``items`` is read by the consumer's thread; two of these in a row are a pipeline.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
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
