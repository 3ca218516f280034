"""Decode in processes of their own: one that crashes or never returns costs a row, not the run.

They are given the same budget of memory, so that all of them together take no more than threads do. One that
takes longer than it may is killed; another one takes its place.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import anomscan
from anomscan.errors import InputError
from anomscan.images.budget import MEMORY_IN_FLIGHT
from anomscan.images.decode import LOOK_AHEAD, Decoded
from anomscan.images.find import Found, Source, Unreadable
from anomscan.images.worker import GO, LENGTH, understood
from anomscan.pipeline import available_cores, counted, in_order_by
from anomscan.types import Preprocessing, Progress, Reading

COMMAND = (sys.executable, "-P", "-m", "anomscan.images.worker")
_START_SECONDS = 120.0
_MOST_ASKED = 2
"""How often a process may ask for memory for one image."""
_LONGEST_ANSWER, _MOST_PIXELS = 1 << 20, 1 << 30
"""Bytes that are believed of a process which a file may have taken over."""


def decode_all_apart(
    sources: Iterable[Found],
    preprocessing: Preprocessing,
    threads: int,
    seconds: float,
    command: Sequence[str] = COMMAND,
) -> Iterator[Decoded | Unreadable]:
    """The same as ``decode_all``, in ``threads`` processes, each image in at most ``seconds``.

    Raises:
        InputError: the processes do not start.
    """
    with Decoders(preprocessing, threads, seconds, command) as decoders:
        yield from decoders.decode_all(sources)


def sifted(
    sources: Sequence[Found],
    seconds: float,
    max_pixels: int,
    progress: Progress = lambda *_: None,
    command: Sequence[str] = COMMAND,
) -> list[Found]:
    """The images; unreadable where one crashes a process that decodes it, or takes longer than ``seconds``.

    Each is decoded whole and at a reduced scale, so that this process may decode what is left either way.
    Whatever else is wrong with an image, whoever decodes it will find.

    Raises:
        InputError: the processes do not start.
    """
    with Decoders(Reading(max_pixels=max_pixels), available_cores(), seconds, command) as decoders:
        tried = decoders.try_all(sources)
        return list(counted("decoding the images apart", tried, len(sources), progress))


Result = TypeVar("Result")


class _Ended(Exception):
    """The process is no more, or answers nonsense."""


@dataclass
class _Worker:
    """A process, and whether it was killed because it took too long."""

    process: subprocess.Popen[bytes]
    late: bool = False

    def send(self, what: object) -> None:
        content = pickle.dumps(what)
        self.write(LENGTH.pack(len(content)) + content)

    def write(self, content: bytes) -> None:
        assert self.process.stdin is not None  # noqa: S101 - it is a pipe
        try:
            self.process.stdin.write(content)
            self.process.stdin.flush()
        except OSError as error:
            raise _Ended from error

    def receive(self, seconds: float) -> tuple[dict[str, Any], bytes]:
        """The next answer, and the pixels behind it, within so many seconds; raises _Ended."""
        timer = threading.Timer(seconds, self._too_late)
        timer.daemon = True
        timer.start()
        try:
            (length,) = LENGTH.unpack(self._read(LENGTH.size))
            if length > _LONGEST_ANSWER:
                raise _Ended
            answer = json.loads(self._read(length))
            count = int(answer["pixels"])
            if not 0 <= count <= _MOST_PIXELS:
                raise _Ended
            return answer, self._read(count)
        except (ValueError, TypeError, KeyError) as error:
            raise _Ended from error
        finally:
            timer.cancel()

    def _read(self, count: int) -> bytes:
        assert self.process.stdout is not None  # noqa: S101 - it is a pipe
        content = self.process.stdout.read(count)
        if len(content) < count:
            raise _Ended
        return content

    def _too_late(self) -> None:
        self.late = True
        self.process.kill()

    def end(self) -> int:
        """Kill it; how it ended."""
        self.process.kill()
        code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # what was to be sent is of no use any more
                    continue
        return code


class Decoders:
    """Processes that decode, one batch of images after another, until they are closed; a context manager.

    Args:
        rules: how they decode; by a ``Reading`` they only try.
        threads: how many there are at most, each started when it is first needed.
        seconds: what an image may take.
        command: starts one.
    """

    def __init__(
        self,
        rules: Preprocessing | Reading,
        threads: int,
        seconds: float,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._rules, self._seconds, self._command = rules, seconds, command
        tiles = rules.tile_count if isinstance(rules, Preprocessing) else 1
        self._ahead = max(1, LOOK_AHEAD * threads // tiles)
        self._pool = ThreadPoolExecutor(threads)  # a process lives no longer than the thread that started it
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._all: list[_Worker] = []
        self._closed = False

    def decode_all(self, sources: Iterable[Found]) -> Iterator[Decoded | Unreadable]:
        """The images in their order, or why not; raises InputError where no process starts."""
        return in_order_by(self._pool, self._decoded, sources, self._ahead)

    def try_all(self, sources: Iterable[Found]) -> Iterator[Found]:
        """The same sources, or what happens to a process that decodes them; raises as ``decode_all``."""
        return in_order_by(self._pool, self._tried, sources, self._ahead)

    def close(self) -> None:
        """Kill them all."""
        with self._lock:
            self._closed, workers = True, self._all
            self._all = []
        for worker in workers:
            worker.end()
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Decoders:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _decoded(self, source: Found) -> Decoded | Unreadable:
        if isinstance(source, Unreadable):
            return source

        def read(answer: dict[str, Any], pixels: bytes) -> Decoded | Unreadable:
            if "reason" in answer:
                return Unreadable(source.name, str(answer["reason"]))
            return understood(answer, source.name, source.path, pixels)

        return self._asked(source, read)

    def _tried(self, source: Found) -> Found:
        return source if isinstance(source, Unreadable) else self._asked(source, lambda *_: source)

    def _asked(self, source: Source, read: Callable[[dict[str, Any], bytes], Result]) -> Result | Unreadable:
        worker = self._take()
        try:
            found = self._ask(worker, source, read)
        except _Ended:
            return Unreadable(source.name, self._end_of(worker))
        self._idle.put(worker)
        return found

    def _take(self) -> _Worker:
        while True:
            try:
                worker = self._idle.get_nowait()
            except queue.Empty:
                return self._started()
            if worker.process.poll() is None:
                return worker
            self._forget(worker)  # it was ended while it had nothing to do

    def _started(self) -> _Worker:
        package = str(Path(anomscan.__file__).parent.parent)
        path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        with self._lock:
            if self._closed:
                raise InputError("the images are no longer wanted")
            worker = _Worker(
                subprocess.Popen(  # noqa: S603 - it is this package
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
                )
            )
            self._all.append(worker)
        try:
            worker.send((self._rules, self._seconds))
            worker.receive(_START_SECONDS)
        except _Ended as ended:
            raise InputError("the processes of --isolate do not start; try without it") from ended
        return worker

    def _ask(
        self, worker: _Worker, source: Source, read: Callable[[dict[str, Any], bytes], Result]
    ) -> Result:
        worker.send(source)
        answer, pixels = worker.receive(self._seconds)
        for _ in range(_MOST_ASKED):
            if "needs" not in answer:
                break
            with MEMORY_IN_FLIGHT.reserved(int(answer["needs"])):
                worker.write(GO)
                answer, pixels = worker.receive(self._seconds)
        if "needs" in answer:
            raise _Ended
        try:
            return read(answer, pixels)
        except (ValueError, TypeError, KeyError) as error:
            raise _Ended from error

    def _end_of(self, worker: _Worker) -> str:
        """Why it is no more, for a row."""
        code = self._forget(worker)
        if worker.late:
            return f"decoding it takes longer than {self._seconds:g} s; see --decode-limit"
        name = signal.Signals(-code).name if code < 0 else f"exit {code}"
        return f"decoding it ends the process that does so ({name})"

    def _forget(self, worker: _Worker) -> int:
        """Take it from the list; how it ended."""
        with self._lock:
            if worker in self._all:
                self._all.remove(worker)
        return worker.end()
