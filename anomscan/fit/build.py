"""From a network and normal images to a model folder. The only builder."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field

import anomscan
from anomscan.errors import InputError
from anomscan.files.urls import absolute
from anomscan.fit.embed import Embedded, Engine, embed, here
from anomscan.fit.held_out import HeldOut, Kept, spread
from anomscan.fit.normals import Normals
from anomscan.fit.suspects import find_suspects
from anomscan.images.find import Unreadable
from anomscan.model.folder import ModelDraft, verified
from anomscan.model.manifest import Change, DataInfo, Manifest, RejectInfo
from anomscan.model.model import write_normals
from anomscan.model.suspects import SUSPECTS, Suspects
from anomscan.network.network import Network
from anomscan.scoring.bank import Bank
from anomscan.scoring.base import Scorer
from anomscan.scoring.info import PatchInfo
from anomscan.scoring.reduction import Reduction
from anomscan.scoring.registry import patched_class
from anomscan.scoring.rejects import Rejects
from anomscan.scoring.tiled import tiled
from anomscan.text import many, now, printable
from anomscan.types import Outputs, Progress

_NAMED = 20
"""Suspects that are named; more are counted."""


@dataclass(frozen=True)
class Fitted:
    """What was written, the normals that could not be read, and what the user should know besides."""

    manifest: Manifest
    unreadable: list[Unreadable]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Material:
    """What a model is built from: n normals for the gallery, others to calibrate with, and their record.

    ``bank`` has the patches of the n, or is None where only whole images are looked at; ``known`` is what a
    build before measured of them; ``rejects`` are missed anomalies that the model learns from, too.
    """

    outputs: Outputs
    paths: list[str]
    held_out: HeldOut | None
    data: DataInfo
    changes: list[Change] = field(default_factory=list)
    bank: Bank | None = None
    known: PatchInfo | None = None
    rejects: Rejects | None = None


def build(
    draft: ModelDraft,
    network: Network,
    scorer: Scorer,
    material: Material,
    progress: Progress,
    reduction: Reduction | None = None,
    suspect: Callable[[Scorer], Suspects | None] = lambda _: None,
) -> Fitted:
    """Fit the scorer, build its gallery, calibrate, and make it all the model of the draft's folder.

    ``suspect`` tells by the fitted scorer which normals are unlike the others, if any are ranked. Where
    normals of the gallery should calibrate and cannot, a note says why.

    Raises:
        GalleryTooSmall: fewer normals than the scorer or ``reduction`` needs.
        OutputError: the old model stays.
    """
    progress("building the gallery", 0, None, "")
    held_out, seed = material.held_out, network.method.seed
    patched, focus = None, network.focus
    if material.bank is not None:
        kind = patched_class(focus.procedure)
        patched = kind.of(scorer, focus.looks, material.bank, seed, focus.weight, material.known)
    scorer = tiled(patched or scorer, network.preprocessing.tiles)
    indexed, rejects = scorer.fit(material.outputs, seed, reduction), material.rejects
    scorer.reject(rejects)
    in_gallery, said = [material.paths[row] for row in indexed.rows], list[str]()
    if held_out is not None:
        why = held_out.why_not(scorer, network.method, reduction, in_gallery)
        if why is None:
            calibration, maps = held_out.scored(scorer, in_gallery)
            draft.put(calibration.save(draft.scratch)).put(held_out.save(draft.scratch))
            if patched and maps:
                patched.look_normal(scorer.pictured(maps))
        else:
            held_out = None
            said.append(f"with --holdout 0 all normals calibrate where they can, and here {why}")
    suspects = suspect(scorer)
    if suspects is not None:
        draft.put(suspects.save(draft.scratch))
    if rejects is not None:
        draft.put(rejects.save(draft.scratch))
    draft.put(network.files).put(scorer.save(draft.scratch))
    draft.put(write_normals(draft.scratch, in_gallery))
    manifest = draft.commit(
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
            calibration=held_out.info if held_out else None,
            changes=material.changes,
            focus=network.focus,
            patches=patched.patch_info if patched else None,
            rejects=rejects_info(rejects),
        )
    )
    return Fitted(manifest, [], said)


def build_from(
    draft: ModelDraft,
    network: Network,
    scorer: Scorer,
    normals: Normals,
    progress: Progress,
    reduction: Reduction | None = None,
    most: int | None = None,
    rejects: Rejects | None = None,
    engine: Engine = here,
) -> Fitted:
    """Embed the normals with the network that will score, and build the model from them.

    ``most`` is how many patches the gallery holds at most; None for as many as there usually are.
    ``rejects`` are missed anomalies, embedded by the same network. ``engine`` embeds the normals.

    Raises:
        InputError: no normal can be read, or a reject is one of them.
        UsageError: there are more patches than may be kept, where all must be.
        GalleryTooSmall, OutputError: see ``build``.
        AnomscanError: what ``engine`` raises.
    """
    preprocessing = network.preprocessing
    embedder = engine(network.graph, preprocessing)
    tiles, looks = preprocessing.tile_count, network.focus.looks
    kind = patched_class(network.focus.procedure)
    bank = kind.banks(most or kind.most, network.method.seed, tiles) if looks != "image" else None
    compared = None
    if bank is not None and kind.ranks_by_patches and (tiles == 1 or normals.rule.is_all):
        few = spread(normals.sources, tiles, with_patches=True)
        compared = Kept({absolute(source.path) for source in few})

    images = embed(
        "embedding the normals",
        normals.root,
        normals.sources,
        embedder,
        progress,
        [keeper.add for keeper in (bank, compared) if keeper is not None],
    )
    unreadable, held_out = images.unreadable, None
    check_not_rejected(rejects, images)
    if normals.held_out:
        kept = Kept() if bank is not None else None
        take = [kept.add] if kept is not None else []
        few = spread(normals.held_out, tiles, with_patches=kept is not None)
        others = embed("calibrating", normals.root, few, embedder, progress, take)
        unreadable = [*unreadable, *others.unreadable]
        check_not_rejected(rejects, others)
        copies = normals.look.by_absolute_path()
        held_out = HeldOut.of(others, normals.rule, copies, kept.patches() if kept is not None else None)
    elif normals.rule.is_all:
        copies = normals.look.by_absolute_path()
        held_out = HeldOut.every(images, normals.rule.group_by, copies, compared, tiles)

    def suspect(fitted: Scorer) -> Suspects | None:
        progress("comparing the normals", 0, None, "")
        copies = normals.look.by_absolute_path()
        return find_suspects(
            fitted,
            images.paths,
            images.outputs.image,
            compared,
            held_out if normals.held_out else None,
            copies,
        )

    data = DataInfo(images.root, len(images.paths), len(unreadable), images.fingerprint)
    material = Material(images.outputs, images.paths, held_out, data, bank=bank, rejects=rejects)
    fitted = build(draft, network, scorer, material, progress, reduction, suspect)
    found = on_suspects(draft.folder, fitted.manifest)
    said = [*fitted.notes, *normals.look.notes, *found, *notes(draft)]
    return Fitted(fitted.manifest, unreadable, said)


def check_not_rejected(rejects: Rejects | None, normals: Embedded) -> None:
    """Raise InputError where a normal is a copy of a reject."""
    if rejects is None:
        return
    known = rejects.holds(normals.outputs.image)
    if known.any():
        path = normals.paths[int(known.argmax())]
        raise InputError(
            f"{printable(path)} cannot be a normal: the model has it among its rejects; take it out of those "
            "with 'anomscan index --unreject' first"
        )


def rejects_info(rejects: Rejects | None) -> RejectInfo | None:
    """What the manifest records of rejects, if there are any."""
    if rejects is None:
        return None
    return RejectInfo(len(rejects), 0 if rejects.counting is None else len(rejects.counting))


def on_suspects(folder: str, manifest: Manifest) -> list[str]:
    """What the user should know of normals that are unlike the others, with what removes them."""
    if SUSPECTS not in manifest.files:
        return []
    suspects = Suspects.load(verified(folder, manifest, SUSPECTS))
    named = suspects.suspected
    if not named:
        return []
    paths = " ".join(shlex.quote(printable(suspect.path)) for suspect in named[:_NAMED])
    more = f" ... ({len(named) - _NAMED} more)" if len(named) > _NAMED else ""
    return [
        f"{many(len(named), 'normal is', 'normals are')} unlike the other {suspects.normals - len(named)}; "
        "look at them with 'anomscan info --report FILE.html', and take out what is not normal:",
        f"  anomscan index --model {shlex.quote(printable(folder))} --remove {paths}{more}",
    ]


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
