"""A ranking as one HTML file to look at: no network, no other file, every name as text.

The page's script and style are those of the template, named by their hashes in its content security policy;
what changes is the data, in a JSON block that no browser executes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from anomscan.bundle import Model
from anomscan.calibration import Calibration
from anomscan.config import Manifest, Progress, available_cores
from anomscan.drift import LARGEST_SAMPLE
from anomscan.errors import UnreadableImage
from anomscan.extractor import Features
from anomscan.images import printable, thumbnail
from anomscan.report import Row
from anomscan.screening import FeatureSample, Ranking
from anomscan.summary import SHIFTED, Summary

BINS = 40
NEAREST = 3
"""Normals beside an image, at most."""
MOST_UNREADABLE = 1000
INCOMING_SIDE, NORMAL_SIDE = 224, 128
"""Largest side of a picture, in pixels."""


def write_report(
    file: Path,
    ranking: Ranking,
    top: int,
    summary: Summary,
    model: Model,
    calibration: Calibration | None,
    sample: FeatureSample,
    progress: Progress,
) -> None:
    """Write the ``top`` most anomalous images of ``ranking``, and the whole in figures, to ``file``.

    Args:
        file: the HTML file.
        ranking: scored by ``model``, decided.
        top: images in the table; the figures are of all.
        summary: of this ranking.
        model: what it was compared with.
        calibration: what its p-values come from, if anything.
        sample: the features of ``top`` images at least, and of some others.
        progress: see ``config.Progress``.
    """
    rows = list(islice((row for row in ranking.rows(top) if row.rank is not None), top))
    features = sample.features()
    pictures = _Pictures()
    nearest = [_nearest(features[row.path], model, pictures) for row in rows]
    places, others, normals = _plane(rows, features, model)
    data: dict[str, Any] = {
        "title": _title(summary),
        "about": _about(summary),
        "notice": SHIFTED if summary.drift and summary.drift.shifted else None,
        "decided": summary.anomalous is not None,
        "calibrated": calibration is not None,
        "rows": [
            {
                "rank": row.rank,
                "path": printable(row.path),
                "score": row.score,
                "p": row.p_value,
                "anomalous": row.anomalous,
                "picture": pictures.number(row.path, INCOMING_SIDE),
                "nearest": near,
                "place": place,
            }
            for row, near, place in zip(rows, nearest, places, strict=True)
        ],
        "histogram": _histogram(ranking, summary, calibration),
        "map": {"normals": normals, "others": others},
        "unreadable": [
            {"path": printable(row.path), "error": row.error}
            for row in islice(ranking.rows(0), MOST_UNREADABLE)
        ],
        "unreadable_count": summary.unreadable,
        "provenance": _provenance(model.manifest, summary),
        "pictures": pictures.drawn(progress),
    }
    for row in data["rows"]:  # those that cannot be read have none
        for shown in (row, *row["nearest"]):
            if data["pictures"][shown["picture"]] is None:
                shown["picture"] = None
    file.write_text(_page(data), encoding="utf-8")


@dataclass
class _Pictures:
    """Small pictures, each once."""

    _wanted: dict[tuple[str, int], int] = field(default_factory=dict)

    def number(self, path: str, side: int) -> int:
        return self._wanted.setdefault((path, side), len(self._wanted))

    def drawn(self, progress: Progress) -> list[str | None]:
        """The pictures as data URLs, in the order of their numbers; None for those that cannot be read."""

        def drawn(wanted: tuple[str, int]) -> str | None:
            try:
                return "data:image/webp;base64," + base64.b64encode(thumbnail(*wanted)).decode("ascii")
            except UnreadableImage:
                return None

        with ThreadPoolExecutor(available_cores()) as pool:
            urls = []
            for url in pool.map(drawn, self._wanted):
                urls.append(url)
                progress("drawing the report", len(urls), len(self._wanted), "")
        return urls


def _nearest(feature: Features, model: Model, pictures: _Pictures) -> list[dict[str, Any]]:
    distances, neighbours = model.gallery.search(feature[None], min(NEAREST, len(model.gallery)))
    return [
        {
            "path": printable(model.normals[i]),
            "distance": float(distance),
            "picture": pictures.number(model.normals[i], NORMAL_SIDE),
        }
        for distance, i in zip(distances[0], neighbours[0], strict=True)
    ]


def _plane(
    rows: list[Row], features: dict[str, Features], model: Model
) -> tuple[list[list[float]], list[list[float]], list[list[float]]]:
    """Where rows, other images and normals lie in the plane of their first two principal components."""
    normals = model.gallery.some(LARGEST_SAMPLE)
    listed = {row.path for row in rows}
    groups = [
        [features[row.path] for row in rows],
        [feature for path, feature in features.items() if path not in listed],
        list(normals),
    ]
    together = np.array([feature for group in groups for feature in group], np.float64)
    centred = together - together.mean(axis=0)
    _, axes = np.linalg.eigh(centred @ centred.T)  # of the kernel: fewer images than features
    values = np.linalg.norm(axes[:, -2:].T @ centred, axis=1)
    coordinates = (axes[:, -2:] * values)[:, ::-1].round(6)
    ends = np.cumsum([len(group) for group in groups])
    placed: list[list[list[float]]] = [part.tolist() for part in np.split(coordinates, ends[:-1])]
    return placed[0], placed[1], placed[2]


def _histogram(ranking: Ranking, summary: Summary, calibration: Calibration | None) -> dict[str, Any]:
    """Counts in ``BINS`` parts, from the lowest score to far above the normals; the last holds the rest."""
    lowest, usual, highest = (summary.quantiles.get(share, 0.0) for share in ("0", "0.95", "1"))
    limit = summary.limit if summary.limit is not None and np.isfinite(summary.limit) else None
    held_out = np.empty(0) if calibration is None else calibration.scores.astype(np.float64)
    lowest = float(held_out.min(initial=lowest))
    usual = max(float(held_out.max()) if len(held_out) else usual, limit or usual)
    high = max(usual, min(highest, 2 * usual - lowest))
    return {
        "low": lowest,
        "high": high,
        "beyond": highest > high,
        "incoming": ranking.histogram(lowest, high, BINS),
        "held_out": np.histogram(held_out, BINS, (lowest, high))[0].tolist() if len(held_out) else [],
        "limit": limit,
        "inclusive": summary.decision.threshold is not None,
    }


def _title(summary: Summary) -> str:
    scored = summary.images - summary.unreadable
    images = f"{scored:,} image{'s' * (scored != 1)}"
    return images if summary.anomalous is None else f"{summary.anomalous:,} of {images} anomalous"


def _about(summary: Summary) -> str:
    decision = summary.decision
    if decision.fpr is not None:
        text = f"At most {100 * decision.fpr:g} % of normal images are called anomalous."
    elif decision.fdr is not None:
        text = f"At most {100 * decision.fdr:g} % of those called anomalous are normal, on average."
    elif decision.threshold is not None:
        text = f"Anomalous from a score of {decision.threshold:g} on."
    else:
        text = "Most anomalous first; nothing was decided."
    return f"{text} {summary.created.replace('T', ' ')[:16]} UTC"


def _provenance(manifest: Manifest, summary: Summary) -> Iterable[tuple[str, str]]:
    calibration, drift = manifest.calibration, summary.drift
    held_out = f"{calibration.images} images of {printable(calibration.root)}" if calibration else "none"
    return [
        ("anomscan", summary.anomscan),
        ("model", f"{manifest.id}, made {manifest.created}"),
        ("network", f"{manifest.backbone.name}, {manifest.method.preset}, {manifest.method.steps} steps"),
        ("scorer", f"{manifest.scorer.name}, k = {manifest.scorer.k}"),
        ("normals", f"{manifest.data.images} images of {printable(manifest.data.root)}"),
        ("held out", held_out),
        ("data fingerprint", manifest.data.fingerprint),
        ("drift", f"distance {drift.distance:.3f}, p-value {drift.p_value:.3g}" if drift else "not tested"),
        ("speed", f"{summary.seconds:.1f} s, {summary.images_per_second:.1f} images a second"),
        ("versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())),
    ]


def _page(data: dict[str, Any]) -> str:
    """The template with its data; in JSON no character can end the block it stands in."""
    template = files("anomscan").joinpath("report.html").read_text(encoding="utf-8")
    text = json.dumps(data, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    for kind, pattern in (("style", r"<style>(.*?)</style>"), ("script", r"<script>(.*?)</script>")):
        found = re.search(pattern, template, re.DOTALL)
        assert found is not None  # noqa: S101 - the template is ours
        digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode("ascii")
        template = template.replace(f"{{{{{kind}-hash}}}}", f"sha256-{digest}")
    return template.replace("{{data}}", text)
