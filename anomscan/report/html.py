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
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from anomscan.model.manifest import Manifest
from anomscan.model.whereabouts import Whereabouts
from anomscan.report.evidence import Evidence
from anomscan.report.heatmaps import heat, hottest
from anomscan.report.pictures import Pictures
from anomscan.report.rows import Row
from anomscan.report.summary import SHIFTED, Summary
from anomscan.scoring.gallery import Gallery
from anomscan.stats.drift import LARGEST_SAMPLE
from anomscan.text import printable
from anomscan.types import Features, Progress

BINS = 40
NEAREST = 3
"""Normals beside an image, at most."""
INCOMING_SIDE, NORMAL_SIDE, SPOT_SIDE = 224, 128, 160
"""Largest side of a picture, in pixels."""


def write_report(file: Path, evidence: Evidence, progress: Progress) -> str | None:
    """Write a page that shows ``evidence`` to ``file``; returns why normals are not shown, if so."""
    summary, model = evidence.summary, evidence.model
    pictures = Pictures(evidence.reading)
    rows = _rows(evidence, pictures)
    places, others, normals = _plane(evidence)
    for row, place in zip(rows, places, strict=True):
        row["place"] = place
    data: dict[str, Any] = {
        "title": _title(summary),
        "about": _about(summary),
        "notice": SHIFTED if summary.shifted else None,
        "decided": summary.anomalous is not None,
        "calibrated": evidence.calibration is not None,
        "rows": rows,
        "histogram": _histogram(evidence),
        "map": {"normals": normals, "others": others},
        "unreadable": [{"path": printable(row.path), "error": row.error} for row in evidence.unreadable],
        "unreadable_count": summary.unreadable,
        "provenance": [*_provenance(model.manifest, summary), *_pictures_remark(evidence)],
        "pictures": pictures.drawn(progress),
    }
    _forget_unreadable(rows, data["pictures"])
    file.write_text(_page(data), encoding="utf-8")
    return evidence.normals.remark() if evidence.normals else None


def _pictures_remark(evidence: Evidence) -> list[tuple[str, str]]:
    remark = evidence.normals.remark() if evidence.normals else None
    return [("pictures", remark)] if remark else []


def _rows(evidence: Evidence, pictures: Pictures) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for row in evidence.rows:
        shown = {
            "rank": row.rank,
            "path": printable(row.path),
            "score": row.score,
            "p": row.p_value,
            "anomalous": row.anomalous,
            "review": row.review,
            "part": _part(row),
            "picture": pictures.whole(row.path, INCOMING_SIDE),
            "nearest": _nearest(evidence.features[row.path], evidence, pictures),
        }
        further = {
            "spot": _spot(row.path, evidence, pictures),
            "reject": _reject(evidence.features[row.path], evidence, pictures),
        }
        rows.append({**shown, **{name: found for name, found in further.items() if found is not None}})
    return rows


def _part(row: Row) -> str | None:
    """What is said of the part that a row stands for, if it does."""
    if row.part is None:
        return None
    names = ", ".join(printable(view) for view in row.views or ())
    return f"part {printable(row.part)}: {row.judged_by}; {names}"


def _forget_unreadable(rows: list[dict[str, Any]], pictures: list[str | None]) -> None:
    """Let what shows a picture that could not be drawn have none."""
    for row in rows:
        spot = row.get("spot", {})
        for shown in (row, *row["nearest"], spot, spot.get("normal") or {}, row.get("reject", {})):
            for key in ("picture", "heat", "seen"):
                if shown.get(key) is not None and pictures[shown[key]] is None:
                    shown[key] = None


def _spot(image: str, evidence: Evidence, pictures: Pictures) -> dict[str, Any] | None:
    """Where the image differs most from the normals, and the place of a normal, or reject, most like it."""
    maps, scale, source = evidence.maps.get(image), evidence.scale, evidence.patch_source
    if maps is None or scale is None:
        return None
    distances, nearest = maps.distances[0], maps.nearest[0]
    cell = hottest(distances)
    spot: dict[str, Any] = {
        "heat": pictures.heated(image, heat(distances, scale), INCOMING_SIDE),
        "seen": pictures.around(image, cell, distances.shape, SPOT_SIDE),
        "distance": float(distances[cell]),
        "normal": None,
    }
    position = int(nearest[cell])
    if source is not None and position >= 0:
        rejected = evidence.model.patches is not None and position >= len(evidence.model.patches)
        path, *place = source(position)
        where = _where_rejected(path, evidence) if rejected else _where(path, evidence)
        cell = (place[0], place[1])
        picture = pictures.around(where, cell, distances.shape, SPOT_SIDE) if where else None
        spot["normal"] = {"path": printable(path), "picture": picture}
        if rejected:
            spot["normal"]["rejected"] = True
    return spot


def _reject(feature: Features, evidence: Evidence, pictures: Pictures) -> dict[str, Any] | None:
    """The missed anomaly that is most like the image as a whole, if the model has any."""
    rejects = evidence.model.rejects
    if rejects is None:
        return None
    gallery = Gallery.build(rejects.features, evidence.model.manifest.scorer.metric)
    distances, rows = gallery.search(feature[None], 1)
    path = rejects.paths[int(rows[0, 0])]
    where = _where_rejected(path, evidence)
    picture = pictures.whole(where, NORMAL_SIDE) if where else None
    return {"path": printable(path), "distance": float(distances[0, 0]), "picture": picture}


def _nearest(feature: Features, evidence: Evidence, pictures: Pictures) -> list[dict[str, Any]]:
    model = evidence.model
    most = NEAREST * model.manifest.preprocessing.tile_count
    distances, neighbours = model.gallery.search(feature[None], min(most, len(model.gallery)))
    nearest: dict[str, float] = {}
    for distance, i in zip(distances[0], neighbours[0], strict=True):
        nearest.setdefault(model.normals[i], float(distance))  # several tiles of a normal are one
    found: list[dict[str, Any]] = []
    for path, distance in list(nearest.items())[:NEAREST]:
        where = _where(path, evidence)
        picture = pictures.whole(where, NORMAL_SIDE) if where else None
        found.append({"path": printable(path), "distance": distance, "picture": picture})
    return found


def _where(normal: str, evidence: Evidence) -> str | None:
    """Where a normal may be opened, if it may."""
    return evidence.normals.of(normal) if evidence.normals else None


def _where_rejected(path: str, evidence: Evidence) -> str | None:
    """Where a reject may be opened, if it may; nothing is said of those that may not."""
    normals = evidence.normals
    return Whereabouts(normals.root, normals.folders).of(path) if normals else None


def _plane(evidence: Evidence) -> tuple[list[list[float]], list[list[float]], list[list[float]]]:
    """Where rows, other images and normals lie in the plane of their first two principal components."""
    normals = evidence.model.gallery.some(LARGEST_SAMPLE)
    listed = {row.path for row in evidence.rows}
    groups = [
        [evidence.features[row.path] for row in evidence.rows],
        [feature for path, feature in evidence.features.items() if path not in listed],
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


def _histogram(evidence: Evidence) -> dict[str, Any]:
    """Counts in ``BINS`` parts, from the lowest score to far above the normals; the last holds the rest."""
    summary, calibration = evidence.summary, evidence.calibration
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
        "incoming": evidence.histogram(lowest, high, BINS),
        "held_out": np.histogram(held_out, BINS, (lowest, high))[0].tolist() if len(held_out) else [],
        "limit": limit,
        "inclusive": summary.decision.threshold is not None,
    }


def _title(summary: Summary) -> str:
    images = f"{summary.scored:,} image{'s' * (summary.scored != 1)}"
    if summary.parts is not None:
        images = f"{summary.parts:,} part{'s' * (summary.parts != 1)}"
    return images if summary.anomalous is None else f"{summary.anomalous:,} of {images} anomalous"


def _about(summary: Summary) -> str:
    decision = summary.decision
    if decision.fpr is not None:
        what = "images" if summary.parts is None else "parts"
        text = f"At most {100 * decision.fpr:g} % of normal {what} are called anomalous."
        if summary.review_limit is not None:
            text += (
                f" {summary.review} more are to be looked at, with p-values up to {summary.review_limit:.2g}."
            )
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
    if calibration and calibration.rule.is_all:
        held_out = f"none: {calibration.images} normals calibrate, each scored by the others"
    return [
        ("anomscan", summary.anomscan),
        ("model", f"{manifest.id}, made {manifest.created}"),
        ("network", f"{manifest.backbone.name}, {manifest.method.preset}, {manifest.method.steps} steps"),
        ("scorer", f"{manifest.scorer.name}, k = {manifest.scorer.k}"),
        ("normals", f"{manifest.data.images} images of {printable(manifest.data.root)}"),
        ("held out", held_out),
        *((("rejects", f"{manifest.rejects.images} missed anomalies"),) if manifest.rejects else ()),
        ("data fingerprint", manifest.data.fingerprint),
        ("drift", f"distance {drift.distance:.3f}, p-value {drift.p_value:.3g}" if drift else "not tested"),
        ("speed", f"{summary.seconds:.1f} s, {summary.images_per_second:.1f} images a second"),
        ("versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())),
    ]


def _page(data: dict[str, Any]) -> str:
    """The template with its data; in JSON no character can end the block it stands in."""
    template = files("anomscan.report").joinpath("report.html").read_text(encoding="utf-8")
    text = json.dumps(data, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    for kind, pattern in (("style", r"<style>(.*?)</style>"), ("script", r"<script>(.*?)</script>")):
        found = re.search(pattern, template, re.DOTALL)
        assert found is not None  # noqa: S101 - the template is ours
        digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode("ascii")
        template = template.replace(f"{{{{{kind}-hash}}}}", f"sha256-{digest}")
    return template.replace("{{data}}", text)
