"""``score`` on a Ray cluster of two nodes, with a worker killed in the middle, beside the local engine.

Both nodes are on this machine; each has one of two cores, and a store and a scheduler of its own.

The images are those of ``--from`` under many names, so that reading, decoding, the network and the search are
what they are in use. Prints images a second and core of both, in one run, with the start of the nodes and
workers and without, how many rows there were, how far the scores are apart, and whether the order is the same
but for images whose scores are as near as that to each other: copies. Few images travel in smaller chunks.
Linux.

    python benchmarks/ray_local.py                    # 20,000 images
    python benchmarks/ray_local.py --images 300
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

from anomscan.adapt.options import FocusChoice
from anomscan.cluster import CHUNK
from anomscan.fit.index import IndexOptions, index
from anomscan.images.find import Search
from anomscan.model.model import read_model
from anomscan.network.extractor import BATCH
from anomscan.pipeline import available_cores
from anomscan.report.rows import Row
from anomscan.screen.ray import RayEngine
from anomscan.screen.run import Engine, ScoreJob, run

SAMPLES = Path(__file__).parent.parent / "sample_data"
NAME, VALUE = "ANOMSCAN_RAY_BENCHMARK", str(uuid.uuid4())
"""A variable of the environment that the workers inherit."""


@contextmanager
def two_nodes() -> Iterator[str]:
    """The address of a cluster with a core a node."""
    import ray.cluster_utils

    nodes = ray.cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1)
    try:
        yield nodes.address
    finally:
        nodes.shutdown()


def workers() -> Iterator[int]:
    """Process numbers of the workers that this benchmark has started."""
    mark = f"{NAME}={VALUE}".encode()
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            is_ours = process.name.isdecimal() and mark in (process / "environ").read_bytes()
            if is_ours and (process / "cmdline").read_bytes().startswith(b"ray::MapWorker"):
                yield int(process.name)


class Clock:
    """Progress of a run: when its first and last images were done; it kills a worker at a third of them."""

    def __init__(self, images: int, *, kills: bool) -> None:
        self._images, self._kills = images, kills
        self.killed = self.first_done = 0
        self.first = self.last = 0.0

    def __call__(self, what: str, done: int, total: int | None, remark: str) -> None:
        """Take the time; see ``types.Progress``."""
        self.last = time.monotonic()
        if not self.first:
            self.first, self.first_done = self.last, done
        if self._kills and not self.killed and done >= self._images // 3:
            for number in workers():
                os.kill(number, signal.SIGKILL)
                self.killed = 1
                break


def score(
    folder: str, model: str, engine: Engine | None, images: int, cores: int, began: float
) -> dict[str, object]:
    """Rows of a run, its seconds since ``began``, and images a second and core with its start and without."""
    clock = Clock(images, kills=engine is not None)
    job = ScoreJob(Search().find([folder]), read_model(model, cores), threads=cores, engine=engine)
    with run(job, clock) as outcome:
        rows = list(outcome.ranking.rows())
    seconds, steady = time.monotonic() - began, clock.last - clock.first
    return {
        "rows": rows,
        "seconds": round(seconds, 2),
        "first answer after": round(clock.first - began, 2),
        "images/s/core": round(len(rows) / seconds / cores, 2),
        "images/s/core after the first answer": round((len(rows) - clock.first_done) / steady / cores, 2),
        "workers killed": clock.killed,
    }


def in_order(one: list[Row], other: list[Row], within: float) -> bool:
    """Whether the rows of ``other`` are in the order of ``one``, up to scores that near to each other."""
    scores = {row.path: row.score for row in one}
    told = [score for row in other if (score := scores[row.path]) is not None]
    return all(before >= after - within for before, after in pairwise(told))


def apart(one: list[Row], other: list[Row]) -> float:
    """The largest difference of a score, of the same images."""
    scores = {row.path: row.score for row in one}
    assert scores.keys() == {row.path for row in other}
    return max(abs((scores[row.path] or 0.0) - (row.score or 0.0)) for row in other)


def main() -> None:
    """Measure both engines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--from", dest="source", type=Path, default=SAMPLES / "incoming")
    parser.add_argument("--model", help="a model folder (default: sample_data/normal, indexed)")
    given = parser.parse_args()
    os.environ[NAME] = VALUE
    chunk = min(CHUNK, max(BATCH, given.images // 80 * BATCH))
    cores = available_cores()
    with tempfile.TemporaryDirectory() as scratch:
        model = given.model
        if model is None:
            model = str(Path(scratch, "model"))
            options = IndexOptions(focus=FocusChoice("image", None, None))
            index(str(SAMPLES / "normal"), model, options, lambda *_: None)
        folder = Path(scratch, "incoming")
        folder.mkdir()
        sources = sorted(path for path in given.source.iterdir() if path.is_file())
        for number in range(given.images):
            source = sources[number % len(sources)]
            (folder / f"{number:08}{source.suffix}").symlink_to(source.resolve())
        local = score(str(folder), model, None, given.images, cores, time.monotonic())
        began = time.monotonic()
        with two_nodes() as address:
            engine = RayEngine(model, address, 1, chunk=chunk)
            cluster = score(str(folder), model, engine, given.images, 2, began)
    one, other = local.pop("rows"), cluster.pop("rows")
    assert isinstance(one, list)
    assert isinstance(other, list)
    told = {"cores": cores, "local": local, "ray": cluster, "rows": [len(one), len(other)]}
    told |= {"scores apart": apart(one, other), "same order": in_order(one, other, 1e-6)}
    json.dump({**told, "images a chunk": chunk}, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
