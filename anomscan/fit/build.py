"""From a network and normal images to a model folder. The only builder."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field

import anomscan
from anomscan.fit.embed import Embedded, embed
from anomscan.fit.normals import Normals, group_names
from anomscan.images.find import Unreadable
from anomscan.model.folder import ModelDraft
from anomscan.model.manifest import CalibrationInfo, Change, DataInfo, HoldOut, Manifest
from anomscan.model.model import write_normals
from anomscan.network.extractor import Extractor
from anomscan.network.network import Network
from anomscan.pipeline import available_cores
from anomscan.scoring.base import Scorer
from anomscan.scoring.reduction import Reduction
from anomscan.stats.calibration import Calibration
from anomscan.text import now
from anomscan.types import Outputs, Progress


@dataclass(frozen=True)
class Fitted:
    """What was written, the normals that could not be read, and what the user should know besides."""

    manifest: Manifest
    unreadable: list[Unreadable]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class HeldOut:
    """Normals that calibrate, with scores still to be made, and what is recorded of them."""

    calibration: Calibration
    info: CalibrationInfo

    @classmethod
    def of(cls, images: Embedded, rule: HoldOut, copies: Mapping[str, int]) -> HeldOut:
        """Embedded normals, in groups by ``rule``; ``copies`` see ``group_names``, by absolute path."""
        names = group_names(images.paths, rule.group_by, copies)
        features = images.outputs.image
        calibration = Calibration(features, features[:0, 0], names, images.paths)
        info = CalibrationInfo(rule, images.root, len(images.paths), calibration.groups, images.fingerprint)
        return cls(calibration, info)

    def scored(self, scorer: Scorer) -> Calibration:
        """The calibration by a fitted scorer, as ``score`` would score these images."""
        scores = scorer.score(Outputs(self.calibration.features), scorer.info.k)
        return self.calibration.rescored(scores)


@dataclass(frozen=True)
class Material:
    """What a model is built from: n normals for the gallery, others to calibrate with, and their record."""

    outputs: Outputs
    paths: list[str]
    held_out: HeldOut | None
    data: DataInfo
    changes: list[Change] = field(default_factory=list)


def build(
    draft: ModelDraft,
    network: Network,
    scorer: Scorer,
    material: Material,
    progress: Progress,
    reduction: Reduction | None = None,
) -> Manifest:
    """Fit the scorer, build its gallery, calibrate, and make it all the model of the draft's folder.

    Raises:
        GalleryTooSmall: fewer normals than the scorer or ``reduction`` needs.
        OutputError: the old model stays.
    """
    progress("building the gallery", 0, None, "")
    indexed = scorer.fit(material.outputs, network.method.seed, reduction)
    draft.put(network.files).put(scorer.save(draft.scratch))
    draft.put(write_normals(draft.scratch, [material.paths[row] for row in indexed.rows]))
    if material.held_out is not None:
        draft.put(material.held_out.scored(scorer).save(draft.scratch))
    return draft.commit(
        Manifest(
            anomscan=anomscan.__version__,
            created=now(),
            backbone=network.backbone,
            preprocessing=network.preprocessing,
            method=network.method,
            scorer=scorer.info,
            data=material.data,
            versions=_versions(),
            files={},
            gallery=indexed.gallery,
            int8=network.int8,
            calibration=material.held_out.info if material.held_out else None,
            changes=material.changes,
        )
    )


def build_from(
    draft: ModelDraft,
    network: Network,
    scorer: Scorer,
    normals: Normals,
    progress: Progress,
    reduction: Reduction | None = None,
) -> Fitted:
    """Embed the normals with the network that will score, and build the model from them.

    Raises:
        InputError: no normal can be read.
        GalleryTooSmall, OutputError: see ``build``.
    """
    extractor = Extractor(network.graph, available_cores())
    preprocessing = network.preprocessing
    images = embed("embedding the normals", normals.root, normals.sources, extractor, preprocessing, progress)
    unreadable, held_out = images.unreadable, None
    if normals.held_out:
        others = embed("calibrating", normals.root, normals.held_out, extractor, preprocessing, progress)
        unreadable, held_out = (
            [*unreadable, *others.unreadable],
            HeldOut.of(others, normals.rule, normals.look.by_absolute_path()),
        )
    data = DataInfo(images.root, len(images.paths), len(unreadable), images.fingerprint)
    material = Material(images.outputs, images.paths, held_out, data)
    manifest = build(draft, network, scorer, material, progress, reduction)
    return Fitted(manifest, unreadable, [*normals.look.notes, *notes(draft)])


def notes(draft: ModelDraft) -> list[str]:
    """What the user should know of how the draft was written."""
    if draft.alone:
        return []
    return [
        f"the file system of {draft.folder} has no locks: let nothing else write this model at the same time"
    ]


def _versions() -> dict[str, str]:
    packages = ("numpy", "pillow", "onnxruntime", "faiss-cpu", "torch", "timm")
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
