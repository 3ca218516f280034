"""A cluster of two nodes on this machine, of whose workers one is killed in the middle; Linux.

What needs it runs in a process of its own, a script: Ray takes over too much of the one that it is in.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from anomscan import cluster
from anomscan.types import Progress
from tests.conftest import REPOSITORY

needs_ray = pytest.mark.skipif(
    find_spec("ray") is None or sys.platform != "linux", reason="Ray is not installed, or there is no /proc"
)
PATIENCE = 60.0


class Slow(cluster.Worker):
    """A worker that writes down what it begins, and goes on with all but the first when one was killed."""

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        number, log = int(batch["number"][0]), os.environ["ANOMSCAN_RAY_LOG"]
        with open(log, "a") as file:
            file.write(f"{number} {os.getpid()}\n")
        end = time.monotonic() + PATIENCE
        while number and not Path(f"{log}.killed").exists() and time.monotonic() < end:
            time.sleep(0.05)
        return super().__call__(batch)


class Killer:
    """A progress that kills a worker in the middle of a chunk when the first ``what`` is done.

    ``log`` is where workers write what they begin.
    """

    def __init__(self, what: str, log: str) -> None:
        self._what, self._log, self.killed = what, log, 0
        self.progress: Progress = self._called

    def _called(self, what: str, done: int, total: int | None, remark: str) -> None:
        if what == self._what and not self.killed:
            self.killed = self._kill()
            Path(f"{self._log}.killed").touch()

    def _kill(self) -> int:
        """Kill one that waits; how many were."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            for number, process in self._lines():
                if number:
                    os.kill(process, signal.SIGKILL)
                    return 1
            time.sleep(0.05)
        return 0

    def begun(self) -> list[int]:
        """Numbers of the chunks that workers have begun."""
        return [number for number, _ in self._lines()]

    def _lines(self) -> list[tuple[int, int]]:
        pairs = (line.split() for line in Path(self._log).read_text().splitlines())
        return [(int(number), int(process)) for number, process in pairs]


def told_by(script: Path, *arguments: Path) -> dict[str, Any]:
    """What a script tells of a run on such a cluster, of which a worker was killed in the middle."""
    done = subprocess.run(
        [sys.executable, script, *arguments],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["killed"] == 1
    assert len(told["begun"]) > len(set(told["begun"])), "no worker was in the middle of anything"
    return told


@contextmanager
def two_nodes(log: str) -> Iterator[str]:
    """The address of a cluster with a core a node, whose workers are ``Slow``."""
    import ray.cluster_utils

    os.environ["ANOMSCAN_RAY_LOG"] = log
    cluster.Worker = Slow  # type: ignore[misc]
    nodes = ray.cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1)
    try:
        yield nodes.address
    finally:
        nodes.shutdown()
