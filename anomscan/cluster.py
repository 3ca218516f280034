"""Work done on the machines of a Ray cluster and handed on in order. Ray runs only here.

Ray Data hands chunks of work to a pool of actors, each with the files that it needs, which are sent once. It
starts an actor that dies again, and gives its chunk to one that lives; an answer comes back once and in its
place, and that is checked.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np

from anomscan.errors import AnomscanError, ClusterError
from anomscan.extras import extra

Item = TypeVar("Item")
Work = Callable[[list[Any]], Any]
"""What an actor does with a chunk; the answer travels."""
Make = Callable[[Path, int], Work]
"""Makes it, of the folder with the files and a number of cores; it travels, too."""

CHUNK = 128
"""Images that travel together; a multiple of those that pass through the network together."""
CORES = 4
"""Cores of an actor, where no number was asked for and each machine has as many."""
QUIET_SECONDS = 600.0
"""After so long without an answer all is given up: no actor starts, or images kill each that gets them."""


@dataclass(frozen=True)
class Cluster:
    """Machines that have room for ``actors`` of so many ``cores`` each; ``ray`` is connected to them."""

    ray: Any
    cores: int
    actors: int

    def answers(self, chunks: Sequence[list[Any]], files: Mapping[str, bytes], make: Make) -> Iterator[Any]:
        """What the actors make of each chunk, in order, each once.

        Args:
            chunks: the work.
            files: what every actor finds in its folder when it begins, by name.
            make: makes of them what works.

        Raises:
            ClusterError: a chunk was lost for good, or came back twice.
            AnomscanError: what an actor raises.
        """
        context = self.ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        rows = [{"number": number, "chunk": pickle.dumps(chunk)} for number, chunk in enumerate(chunks)]
        asked = self.ray.data.from_items(rows, override_num_blocks=len(rows))
        asked.context.execution_options.preserve_order = True
        asked.context.execution_no_progress_timeout_s = QUIET_SECONDS
        told = asked.map_batches(
            Worker,
            batch_size=1,
            compute=self.ray.data.ActorPoolStrategy(size=min(self.actors, len(rows))),
            num_cpus=self.cores,
            fn_constructor_args=(self.ray.put(dict(files)), make, self.cores, os.getcwd()),
        )
        expected = 0
        for row in told.iter_rows():
            if row["number"] != expected:
                raise ClusterError(
                    "the Ray cluster lost images, or gave some twice; run the same command again"
                )
            expected += 1
            answer = pickle.loads(row["answer"])  # noqa: S301 - it is ours
            if isinstance(answer, AnomscanError):
                raise answer
            yield answer
        if expected != len(chunks):
            raise ClusterError("the Ray cluster lost images; run the same command again")


@contextmanager
def connected(address: str | None, cores: int | None = None) -> Iterator[Cluster]:
    """A cluster, in which what Ray gives up for becomes a sentence.

    Args:
        address: of it; None for the one of this machine, or one that is started and ended here.
        cores: of an actor; None for ``CORES``, or what the smallest machine has.

    Raises:
        MissingExtra: Ray is not installed.
        ClusterError: the cluster cannot be reached, has no cores, or gives up.
    """
    with _ray(address) as ray, _failures():
        yield Cluster(ray, *_shares(ray, cores))


class Worker:
    """An actor: files, and what a machine does with them.

    Args:
        shipped: reference to the files, by name.
        make: see ``Make``.
        cores: of the actor.
        folder: where relative paths begin.
    """

    def __init__(self, shipped: Any, make: Make, cores: int, folder: str) -> None:
        self._shipped, self._make, self._cores, self._folder = shipped, make, cores, folder
        self._work: Work | None = None

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What is asked for by number and chunk: the number, and the answer, or why there is none."""
        answers = [self._answer(pickle.loads(chunk)) for chunk in batch["chunk"]]  # noqa: S301 - it is ours
        return {"number": batch["number"], "answer": np.array(answers, object)}

    def _answer(self, chunk: list[Any]) -> bytes:
        try:
            self._work = self._work or self._made()
            return pickle.dumps(self._work(chunk))
        except AnomscanError as error:
            return pickle.dumps(error)

    def _made(self) -> Work:
        """What works; of the files nothing is left behind."""
        import ray

        with suppress(OSError):  # without that folder here, no relative path can be right
            os.chdir(self._folder)
        with TemporaryDirectory(prefix="anomscan-") as folder:
            for name, content in ray.get(self._shipped).items():
                Path(folder, name).write_bytes(content)
            return self._make(Path(folder), self._cores)


def chunked(items: Iterable[Item], size: int) -> list[list[Item]]:
    """The items, ``size`` at a time."""
    rest = iter(items)
    chunks: list[list[Item]] = []
    while chunk := list(islice(rest, size)):
        chunks.append(chunk)
    return chunks


@contextmanager
def _ray(address: str | None) -> Iterator[Any]:
    """Ray, connected."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # standard error is for sentences
    with extra("ray", "--engine ray"):
        import ray
        import ray.data
    try:
        own = signal.getsignal(signal.SIGTERM)
        with _silence():
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        signal.signal(signal.SIGTERM, own)  # Ray takes it over
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ClusterError(f"no Ray cluster at {address or 'this machine'}: {first}") from error
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # Ray tells there that a worker died
        try:
            yield ray
        finally:
            ray.shutdown()


@contextmanager
def _silence() -> Iterator[None]:
    """Let nothing be written to standard error, not even from below Python: Ray tells how it logs."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _failures() -> Iterator[None]:
    """Say in one sentence what Ray gives up for."""
    from ray.data.exceptions import ExecutionTimeoutError, SystemException
    from ray.exceptions import RayError

    try:
        yield
    except (RayError, SystemException, ExecutionTimeoutError) as error:
        first = (str(error.__cause__ or error).strip() or type(error).__name__).splitlines()[0]
        first = first.partition(". ")[0]
        raise ClusterError(
            f"the Ray cluster gave up: {first}; where workers die at the same images again, try --isolate"
        ) from error


def _shares(ray: Any, cores: int | None) -> tuple[int, int]:
    """Cores of an actor, and how many actors the machines have room for."""
    machines = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    machines = [machine for machine in machines if machine]
    if not machines:
        raise ClusterError("the Ray cluster has no cores")
    cores = cores or min(CORES, *machines)
    actors = sum(machine // cores for machine in machines)
    if not actors:
        raise ClusterError(f"no machine of the Ray cluster has {cores} cores; ask for fewer --threads")
    return cores, actors
