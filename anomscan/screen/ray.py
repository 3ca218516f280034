"""Scoring on the machines of a Ray cluster: paths go there and scores come back. Ray runs only here.

Ray Data hands chunks of sources to a pool of actors, each with the ``Screener`` of one machine and a model
that is sent once. It starts an actor that dies again, and gives its chunk to one that lives; a chunk comes
back once and in its place, and that is checked. To the rest of a run it is an ``Engine`` like that of this
machine.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from anomscan.errors import AnomscanError, ClusterError
from anomscan.extras import extra
from anomscan.images.find import Found, Unreadable
from anomscan.model.folder import MANIFEST, verified
from anomscan.model.manifest import Manifest
from anomscan.model.model import read_model
from anomscan.screen.remarks import as_seen
from anomscan.screen.run import Judged, ScoreJob, here
from anomscan.screen.screener import Screener
from anomscan.types import Progress

CHUNK = 128
"""Images that travel together; the same on every cluster, since the last digits of a feature depend on it."""
CORES = 4
"""Cores of an actor, where no number was asked for and each machine has as many."""
QUIET_SECONDS = 600.0
"""After so long without an answer all is given up: no actor starts, or images kill each that gets them."""


@dataclass(frozen=True)
class RayEngine:
    """Scores on a cluster, see ``screen.run.Engine``.

    Args:
        folder: of the model, whose files are sent to the machines.
        address: of the cluster; None for the one of this machine, or one that is started and ended here.
        cores: of an actor; None for ``CORES``.
        device: where the network runs.
    """

    folder: str
    address: str | None = None
    cores: int | None = None
    device: str = "cpu"

    def __call__(
        self, job: ScoreJob, screener: Screener, sources: Iterable[Found], progress: Progress
    ) -> Iterator[Judged]:
        """The images as judged by the actors, in the order of ``sources``, which are read to their end first.

        Raises:
            MissingExtra: Ray is not installed.
            ClusterError: the cluster cannot be reached, has no cores, or lost a chunk for good.
            AnomscanError: what an actor raises.
        """
        chunks = list(_chunks(sources))
        if not chunks:
            return
        done = 0
        with _cluster(self.address) as ray, _failures():
            cores, actors = _shares(ray, self.cores)
            settings = {name: getattr(job, name) for name in ("k", "keep", "max_pixels", "isolate")}
            shipped = ray.put(_files(self.folder, job.model.manifest))
            given = (shipped, self.device, {**settings, "threads": cores}, os.getcwd())
            for judged in _answers(ray, chunks, given, cores, actors):
                for each in judged:
                    done += 1 if isinstance(each, Unreadable) else len(each[0].images)
                    progress("scoring", done, None, "")
                    yield each


class Worker:
    """An actor: a model, and what a machine does with it.

    Args:
        shipped: reference to the files of the model, by name.
        device: see ``read_model``.
        settings: fields of its ``ScoreJob``.
        folder: where relative paths begin.
    """

    def __init__(self, shipped: Any, device: str, settings: Mapping[str, Any], folder: str) -> None:
        self._shipped, self._device, self._settings, self._folder = shipped, device, settings, folder
        self._ready: tuple[ScoreJob, Screener] | None = None

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What is asked for by number and chunk: the number, and the images as judged, or why none is."""
        answers = [self._answer(pickle.loads(chunk)) for chunk in batch["chunk"]]  # noqa: S301 - it is ours
        return {"number": batch["number"], "answer": np.array(answers, object)}

    def _answer(self, sources: list[Found]) -> bytes:
        try:
            job, screener = self._ready = self._ready or self._unpacked()
            judged = here(job, screener, sources, lambda *_: None)
            return pickle.dumps([slim(each, job.keep) for each in judged])
        except AnomscanError as error:
            return pickle.dumps(error)

    def _unpacked(self) -> tuple[ScoreJob, Screener]:
        """The job, with the model, and its screener; of the model's files nothing is left behind."""
        import ray

        with suppress(OSError):  # without that folder here, no relative path can be right
            os.chdir(self._folder)
        with TemporaryDirectory(prefix="anomscan-") as folder:
            for name, content in ray.get(self._shipped).items():
                Path(folder, name).write_bytes(content)
            model = read_model(folder, self._settings["threads"], self._device)
        job = ScoreJob((), model, **self._settings)
        return job, Screener(model, job.k)


def slim(judged: Judged, keep: int) -> Judged:
    """The same without pixels, and without maps where no picture is made of them."""
    if isinstance(judged, Unreadable):
        return judged
    scored, boxes = judged
    outputs = replace(scored.outputs, patches=None, maps=scored.outputs.maps if keep else None)
    images = [as_seen(image) for image in scored.images]
    return replace(scored, images=images, outputs=outputs), boxes


def _chunks(sources: Iterable[Found]) -> Iterator[list[Found]]:
    rest = iter(sources)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


def _files(folder: str, manifest: Manifest) -> dict[str, bytes]:
    """The files of a model, by name."""
    files = {file.name: verified(folder, manifest, role) for role, file in manifest.files.items()}
    return {
        MANIFEST: json.dumps(manifest.to_json()).encode("ascii"),
        **{name: path.read_bytes() for name, path in files.items()},
    }


@contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
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


def _answers(
    ray: Any, chunks: list[list[Found]], given: tuple[Any, ...], cores: int, actors: int
) -> Iterator[list[Judged]]:
    """What the actors make of each chunk, in order, each once."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = [{"number": number, "chunk": pickle.dumps(chunk)} for number, chunk in enumerate(chunks)]
    asked = ray.data.from_items(rows, override_num_blocks=len(rows))
    asked.context.execution_options.preserve_order = True
    asked.context.execution_no_progress_timeout_s = QUIET_SECONDS
    told = asked.map_batches(
        Worker,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(rows))),
        num_cpus=cores,
        fn_constructor_args=given,
    )
    expected = 0
    for row in told.iter_rows():
        if row["number"] != expected:
            raise ClusterError("the Ray cluster lost images, or gave some twice; score them again")
        expected += 1
        answer = pickle.loads(row["answer"])  # noqa: S301 - it is ours
        if isinstance(answer, AnomscanError):
            raise answer
        yield answer
    if expected != len(chunks):
        raise ClusterError("the Ray cluster lost images; score them again")
