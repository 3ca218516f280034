"""Score a folder here and on a cluster of two nodes, of which one worker is killed.

``ray_cluster.py FOLDER MODEL LOG``; LOG is a file to write.

Prints a JSON object: the rows of both, which chunks were begun, how many workers were killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray.cluster_utils

from anomscan.images.find import Search
from anomscan.model.model import read_model
from anomscan.screen import ray as engine
from anomscan.screen.run import ScoreJob, run

MARK = f"ANOMSCAN_RAY_TEST={uuid.uuid4()}"
CHUNK, PATIENCE = 4, 60.0


class Slow(engine.Worker):
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


def main(folder: str, model: str, log: str) -> None:
    os.environ["ANOMSCAN_RAY_LOG"] = log
    os.environ.update([MARK.split("=")])
    engine.CHUNK, engine.Worker = CHUNK, Slow  # type: ignore[misc]
    loaded, killed = read_model(model, 1), 0
    job = ScoreJob(list(Search().find([folder])), loaded, threads=1)

    def progress(what: str, done: int, total: int | None, remark: str) -> None:
        nonlocal killed
        if not killed:
            killed = kill_one_worker()
            Path(f"{log}.killed").touch()

    with run(job, lambda *_: None) as outcome:
        here = [asdict(row) for row in outcome.ranking.rows()]
    cluster = ray.cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    try:
        elsewhere = engine.RayEngine(model, cluster.address)
        with run(replace(job, engine=elsewhere), progress) as outcome:
            there = [asdict(row) for row in outcome.ranking.rows()]
    finally:
        cluster.shutdown()
    begun = [int(line) for line in Path(log).read_text().split()]
    json.dump({"here": here, "there": there, "begun": begun, "killed": killed}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
