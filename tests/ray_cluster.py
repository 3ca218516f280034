"""A cluster of two nodes on this machine, of whose workers one is killed in the middle; Linux.

What needs it runs in a process of its own, a script: Ray takes over too much of the one that it is in.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from anomscan import cluster
from anomscan.types import Progress

needs_ray = pytest.mark.skipif(
    find_spec("ray") is None or sys.platform != "linux", reason="Ray is not installed, or there is no /proc"
)
MARK = f"ANOMSCAN_RAY_TEST={uuid.uuid4()}"
PATIENCE = 60.0


class Slow(cluster.Worker):
    """A worker that writes down what it begins, and goes on with all but the first when one was killed."""

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        number, log = int(batch["number"][0]), os.environ["ANOMSCAN_RAY_LOG"]
        with open(log, "a") as file:
            file.write(f"{number}\n")
        end = time.monotonic() + PATIENCE
        while number and not Path(f"{log}.killed").exists() and time.monotonic() < end:
            time.sleep(0.05)
        return super().__call__(batch)


def kill_one_worker() -> int:
    """Kill one of the workers of this cluster; how many were."""
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            is_ours = process.name.isdecimal() and MARK.encode() in (process / "environ").read_bytes()
            if is_ours and (process / "cmdline").read_bytes().startswith(b"ray::MapWorker"):
                os.kill(int(process.name), signal.SIGKILL)
                return 1
    return 0


class Killer:
    """A progress that kills a worker when the first ``what`` is done; ``log`` is where workers write."""

    def __init__(self, what: str, log: str) -> None:
        self._what, self._log, self.killed = what, log, 0
        self.progress: Progress = self._called

    def _called(self, what: str, done: int, total: int | None, remark: str) -> None:
        if what == self._what and not self.killed:
            self.killed = kill_one_worker()
            Path(f"{self._log}.killed").touch()

    def begun(self) -> list[int]:
        """Numbers of the chunks that workers have begun."""
        return [int(line) for line in Path(self._log).read_text().split()]


@contextmanager
def two_nodes(log: str) -> Iterator[str]:
    """The address of a cluster with a core a node, whose workers are ``Slow``."""
    import ray.cluster_utils

    os.environ["ANOMSCAN_RAY_LOG"] = log
    os.environ.update([MARK.split("=")])
    cluster.Worker = Slow  # type: ignore[misc]
    nodes = ray.cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1)
    try:
        yield nodes.address
    finally:
        nodes.shutdown()
