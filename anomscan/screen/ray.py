"""Scoring on the machines of a Ray cluster: paths go there and scores come back.

To the rest of a run it is an ``Engine`` like that of this machine; see ``cluster`` for how work travels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from anomscan.cluster import CHUNK, chunked, connected
from anomscan.images.find import Found, Unreadable
from anomscan.model.folder import MANIFEST, verified
from anomscan.model.manifest import Manifest
from anomscan.model.model import read_model
from anomscan.screen.remarks import as_seen
from anomscan.screen.run import Judged, ScoreJob, here
from anomscan.screen.screener import Screener
from anomscan.types import Progress


@dataclass(frozen=True)
class RayEngine:
    """Scores on a cluster, see ``screen.run.Engine``.

    Args:
        folder: of the model, whose files are sent to the machines.
        address: see ``cluster.connected``.
        cores: of an actor, see there.
        device: where the network runs.
        chunk: images that travel together.
    """

    folder: str
    address: str | None = None
    cores: int | None = None
    device: str = "cpu"
    chunk: int = CHUNK

    def __call__(
        self, job: ScoreJob, screener: Screener, sources: Iterable[Found], progress: Progress
    ) -> Iterator[Judged]:
        """The images as judged by the actors, in the order of ``sources``, which are read to their end first.

        Raises:
            MissingExtra, ClusterError: see ``cluster.connected``.
            AnomscanError: what an actor raises.
        """
        chunks = chunked(sources, self.chunk)
        if not chunks:
            return
        done = 0
        settings = {name: getattr(job, name) for name in ("k", "keep", "max_pixels", "isolate")}
        with connected(self.address, self.cores) as cluster:
            files = _files(self.folder, job.model.manifest)
            for judged in cluster.answers(chunks, files, Scoring(self.device, settings)):
                for each in judged:
                    done += 1 if isinstance(each, Unreadable) else len(each[0].images)
                    progress("scoring", done, None, "")
                    yield each


@dataclass(frozen=True)
class Scoring:
    """Makes of the files of a model what scores with it, see ``cluster.Make``.

    Args:
        device: see ``read_model``.
        settings: fields of its ``ScoreJob``.
    """

    device: str
    settings: Mapping[str, Any]

    def __call__(self, folder: Path, threads: int) -> Callable[[list[Found]], list[Judged]]:
        """What judges images, without their pixels."""
        model = read_model(str(folder), threads, self.device)
        job = ScoreJob((), model, threads=threads, **self.settings)
        screener = Screener(model, job.k)

        def judged(sources: list[Found]) -> list[Judged]:
            return [slim(each, job.keep) for each in here(job, screener, sources, lambda *_: None)]

        return judged


def slim(judged: Judged, keep: int) -> Judged:
    """The same without pixels, and without maps where no picture is made of them."""
    if isinstance(judged, Unreadable):
        return judged
    scored, boxes = judged
    outputs = replace(scored.outputs, patches=None, maps=scored.outputs.maps if keep else None)
    images = [as_seen(image) for image in scored.images]
    return replace(scored, images=images, outputs=outputs), boxes


def _files(folder: str, manifest: Manifest) -> dict[str, bytes]:
    """The files of a model, by name."""
    files = {file.name: verified(folder, manifest, role) for role, file in manifest.files.items()}
    return {
        MANIFEST: json.dumps(manifest.to_json()).encode("ascii"),
        **{name: path.read_bytes() for name, path in files.items()},
    }
