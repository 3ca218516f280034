"""Score a folder here and on a cluster of two nodes, of which one worker is killed.

``ray_cluster.py FOLDER MODEL LOG``; LOG is a file to write.

Prints a JSON object: the rows of both, which chunks were begun, how many workers were killed.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace

from anomscan.images.find import Search
from anomscan.model.model import read_model
from anomscan.screen.ray import RayEngine
from anomscan.screen.run import ScoreJob, run
from tests.ray_cluster import Killer, two_nodes


def main(folder: str, model: str, log: str) -> None:
    job = ScoreJob(list(Search().find([folder])), read_model(model, 1), threads=1)
    killer = Killer("scoring", log)
    with run(job, lambda *_: None) as outcome:
        here = [asdict(row) for row in outcome.ranking.rows()]
    with two_nodes(log) as address:
        elsewhere = RayEngine(model, address, chunk=4)
        with run(replace(job, engine=elsewhere), killer.progress) as outcome:
            there = [asdict(row) for row in outcome.ranking.rows()]
    json.dump({"here": here, "there": there, "begun": killer.begun(), "killed": killer.killed}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
