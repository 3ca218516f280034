"""Index a folder for two models that are alike, here and on a cluster of two nodes, where a worker is killed.

``ray_cluster.py FOLDER HERE THERE LOG``; HERE and THERE are model folders, LOG is a file to write.

Prints a JSON object: which chunks were begun, how many workers were killed.
"""

from __future__ import annotations

import json
import sys

from anomscan.fit.index import IndexOptions, index
from anomscan.fit.ray import on_cluster
from tests.ray_cluster import Killer, two_nodes


def main(folder: str, here: str, there: str, log: str) -> None:
    index(folder, here, IndexOptions(), lambda *_: None)
    killer = Killer("embedding the normals", log)
    with two_nodes(log) as address, on_cluster(address, chunk=4) as engine:
        index(folder, there, IndexOptions(), killer.progress, engine=engine)
    json.dump({"begun": killer.begun(), "killed": killer.killed}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
