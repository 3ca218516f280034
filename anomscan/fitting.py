"""From a folder of normal images to a model folder."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import anomscan
from anomscan.bundle import (
    EXTRACTOR,
    INDEX,
    MANIFEST,
    NORMALS,
    SCORER,
    WEIGHTS,
    commit,
    read_manifest,
    staging,
    verified,
    write_normals,
)
from anomscan.config import (
    DEFAULT_BACKBONE,
    BackboneInfo,
    DataInfo,
    Manifest,
    MethodInfo,
    Preprocessing,
    Progress,
    ScorerInfo,
    available_cores,
)
from anomscan.errors import InputError, NoImages, UsageError
from anomscan.extractor import Extractor, Features
from anomscan.gallery import Gallery
from anomscan.images import Decoded, Source, decode_all, find, printable
from anomscan.scorers import Scorer, load_scorer, make_scorer, parse_scorer

if TYPE_CHECKING:
    from anomscan.adapt.backbones import Backbone
    from anomscan.adapt.onnx_export import FromPixels
    from anomscan.adapt.presets import Preset

PARITY_IMAGES = 16
HELD_OUT = 0.2
"""Share of the normals that a label-free choice measures on."""
FEWEST_TO_SPLIT = 10


@dataclass(frozen=True)
class BackboneChoice:
    """Which pretrained network: see ``adapt.backbones.load_backbone``."""

    name: str = DEFAULT_BACKBONE
    weights: Path | None = None
    size: int | None = None


@dataclass(frozen=True)
class AdaptOptions:
    """How to adapt.

    ``outliers`` and ``reference`` are folders that some methods need. ``scorer`` and ``steps`` None take
    the method's; ``time_budget`` is in seconds of training; ``memory`` is what the cached activations
    may take, in bytes, before they go to a memory-mapped file.
    """

    method: str = "panda-es"
    backbone: BackboneChoice = field(default_factory=BackboneChoice)
    outliers: str | None = None
    reference: str | None = None
    scorer: str | None = None
    steps: int | None = None
    time_budget: float | None = None
    seed: int = 0
    device: str = "auto"
    memory: float = 2e9


@dataclass(frozen=True)
class Fitted:
    """What was written, and the normals that could not be read."""

    manifest: Manifest
    unreadable: list[Decoded]


@dataclass(frozen=True)
class _Extraction:
    """An extractor staged for commit, and what is known of it."""

    files: dict[str, Path]
    backbone: BackboneInfo
    preprocessing: Preprocessing
    method: MethodInfo
    scorer: Scorer


def adapt(root: str, folder: Path, options: AdaptOptions, progress: Progress) -> Fitted:
    """Fine-tune a backbone on the images below ``root`` and make the result the model of ``folder``.

    The normals that build the index are embedded by the exported ONNX graph, which also scores.

    Raises:
        UsageError: unknown method or backbone.
        InputError: ``root`` does not exist or holds no readable image.
        WeightsUnavailable, TrainingDiverged, ParityError, OutputError: the old model stays.
    """
    from anomscan.adapt.presets import find_preset

    preset = find_preset(options.method)
    if preset.objective is None and (options.steps is not None or options.time_budget is not None):
        raise UsageError(f"{options.method} does not train; leave --steps and --time-budget out")
    scorer = _method_scorer(options.method, preset.scorer, options.scorer)
    others = _find_others(preset, options)
    sources = _find_normals(root)
    with staging(folder) as stage:
        progress("loading the backbone", 0, None, "")
        if preset.readout == "stages":
            extraction = _read_from_stages(sources, stage, options, scorer, progress)
        elif preset.objective is None:
            method = MethodInfo(options.method, options.seed)
            extraction = _pretrained(sources, stage, options.backbone, method, scorer, progress)
        else:
            extraction = _adapted(sources, others, stage, options, scorer, progress)
        return _index(root, sources, folder, stage, extraction, progress)


def index(
    root: str, folder: Path, backbone: BackboneChoice | None, scorer: str | None, progress: Progress
) -> Fitted:
    """Build the index of the images below ``root``.

    With ``backbone`` None the extractor of the model in ``folder`` is kept, adapted or not; where there
    is no model yet, or with a backbone, the pretrained features are taken as they are (DN2). With
    ``scorer`` None an existing model's scorer is kept; else it is kNN.

    Raises:
        InputError: ``root`` does not exist or holds no readable image.
        ModelError: the model in ``folder`` cannot be used.
        UsageError, WeightsUnavailable, OutputError: the old model stays.
    """
    sources = _find_normals(root)
    with staging(folder) as stage:
        if backbone is None and (folder / MANIFEST).exists():
            extraction = _existing(folder, stage, scorer)
        else:
            progress("loading the backbone", 0, None, "")
            info = _method_scorer("none", "knn", scorer)
            choice, method = backbone or BackboneChoice(), MethodInfo("none", seed=0)
            extraction = _pretrained(sources, stage, choice, method, info, progress)
        return _index(root, sources, folder, stage, extraction, progress)


def _find_normals(root: str) -> list[Source]:
    sources = list(find([root]))
    if not sources:
        raise NoImages(f"no images in {printable(root)}: it holds no file with an image suffix")
    return sources


def _find_others(preset: Preset, options: AdaptOptions) -> list[Source]:
    """The outliers or reference images that the preset learns from, if any."""
    needs = preset.objective().needs if preset.objective else None
    optional = "reference" if preset.regularizer == "ewc" else None
    for name, given in (("outliers", options.outliers), ("reference", options.reference)):
        if given is None and needs == name:
            raise UsageError(
                f"{options.method} learns from a further folder of images: name it with --{name} DIR"
            )
        if given is not None and name not in (needs, optional):
            raise UsageError(f"{options.method} does not use --{name}; leave it out")
    given = options.outliers or options.reference
    others = _find_normals(given) if given else []
    if needs == "reference" and given and len(set(_classes(given, others).values())) < 2:
        raise UsageError(
            f"{printable(given)} needs a subfolder of reference images for each of two classes or more"
        )
    return others


def _split(sources: list[Source], options: AdaptOptions) -> tuple[list[Source], list[Source]]:
    """The normals to train on, and a share of them, drawn once, that the training does not see."""
    if len(sources) < FEWEST_TO_SPLIT:
        raise InputError(
            f"{options.method} holds out some of the normals to choose by, and {len(sources)} are too few; "
            f"it needs {FEWEST_TO_SPLIT}, or choose --method none"
        )
    order = np.random.default_rng(options.seed).permutation(len(sources))
    count = round(HELD_OUT * len(sources))
    held_out, trained = ([sources[i] for i in sorted(part)] for part in (order[:count], order[count:]))
    return trained, held_out


def _classes(root: str, sources: list[Source]) -> dict[str, int]:
    """The class of each image: the number of its top folder below ``root``, in order of the names."""
    folders = {source.path: os.path.relpath(source.path, root).partition(os.sep) for source in sources}
    inside = {path: name for path, (name, separator, _) in folders.items() if separator}
    numbers = {name: i for i, name in enumerate(sorted(set(inside.values())))}
    return {path: numbers[name] for path, name in inside.items()}


def _method_scorer(method: str, own: str, asked: str | None) -> ScorerInfo:
    """The scorer asked for, or the method's own; some go only with certain methods."""
    info, other = parse_scorer(asked or own), parse_scorer(own)
    for special in ("samplewise", "logit"):
        if info.name == special and other.name != special:
            raise UsageError(f"{method} does not learn what the scorer {special} needs; leave --scorer out")
    if other.name == "samplewise" != info.name:
        raise UsageError(f"{method} scores sample-wise; leave --scorer out")
    return info


def _decoded(sources: Iterable[Source], preprocessing: Preprocessing) -> Iterator[Decoded]:
    return decode_all(sources, preprocessing, available_cores())


def _pretrained(
    sources: list[Source],
    stage: Path,
    choice: BackboneChoice,
    method: MethodInfo,
    scorer: ScorerInfo,
    progress: Progress,
) -> _Extraction:
    """Export the backbone as it is."""
    from anomscan.adapt.backbones import load_backbone
    from anomscan.adapt.onnx_export import FromPixels, L2Normalise

    backbone = load_backbone(choice.name, choice.weights, choice.size)
    parts = [backbone.model, L2Normalise()] if scorer.metric == "cosine" else [backbone.model]
    module = FromPixels(backbone.preprocessing, *parts)
    return _exported(sources, stage, backbone, module, method, make_scorer(scorer), progress)


def _read_from_stages(
    sources: list[Source], stage: Path, options: AdaptOptions, scorer: ScorerInfo, progress: Progress
) -> _Extraction:
    """Export the pretrained backbone, read out where the normals say."""
    from anomscan.adapt.backbones import load_backbone
    from anomscan.adapt.onnx_export import FromPixels
    from anomscan.adapt.readouts import gated_readout

    if scorer.metric != "cosine":
        raise UsageError(f"{options.method} gives normalised features; choose a scorer by the cosine")
    choice = options.backbone
    backbone = load_backbone(choice.name, choice.weights, choice.size)
    normals = _decoded(sources, backbone.preprocessing)
    readout, gate = gated_readout(
        backbone, _counted("reading the normals", normals, len(sources), progress), stage
    )
    method = MethodInfo(options.method, options.seed, selection=gate.record())
    module = FromPixels(backbone.preprocessing, readout)
    return _exported(sources, stage, backbone, module, method, make_scorer(scorer), progress)


def _adapted(
    sources: list[Source],
    others: list[Source],
    stage: Path,
    options: AdaptOptions,
    scorer: ScorerInfo,
    progress: Progress,
) -> _Extraction:
    """Adapt the backbone and export it."""
    from anomscan.adapt.adaptation import Folder, Resources, adapt_backbone
    from anomscan.adapt.backbones import load_backbone
    from anomscan.adapt.presets import find_preset

    preset = find_preset(options.method)
    optimisation = preset.optimisation
    if options.steps is not None:
        optimisation = replace(optimisation, steps=options.steps)
    choice = options.backbone
    backbone = load_backbone(choice.name, choice.weights, choice.size)
    preprocessing = backbone.preprocessing
    trained: list[Source] = sources
    held_out: list[Source] = []
    if preset.stopping == "label-free":
        trained, held_out = _split(sources, options)
    counted = _counted("reading the normals", _decoded(trained, preprocessing), len(trained), progress)
    further = options.outliers or options.reference
    adapted = adapt_backbone(
        backbone,
        preset,
        optimisation,
        Folder(counted, len(trained), "normal"),
        Folder(_decoded(others, preprocessing), len(others), "further", _classes(further, others))
        if further
        else None,
        Folder(_decoded(held_out, preprocessing), len(held_out), "held-out normal") if held_out else None,
        normalise=scorer.metric == "cosine",
        resources=Resources(options.seed, options.device, options.time_budget, options.memory, stage),
        progress=progress,
    )
    settings = asdict(optimisation)
    method = MethodInfo(
        options.method, options.seed, adapted.steps, adapted.loss, settings, adapted.selection
    )
    learned = make_scorer(scorer, adapted.scorer_state)
    return _exported(sources, stage, backbone, adapted.module, method, learned, progress)


def _exported(
    sources: list[Source],
    stage: Path,
    backbone: Backbone,
    module: FromPixels,
    method: MethodInfo,
    scorer: Scorer,
    progress: Progress,
) -> _Extraction:
    """Write the network as ONNX, checked on real images, and its weights."""
    import safetensors.torch

    from anomscan.adapt.onnx_export import check_parity, write_onnx

    progress("exporting to ONNX", 0, None, "")
    onnx_file, weights = stage / "extractor.onnx", stage / "extractor.safetensors"
    output = "float32 [N, D]" + (", L2-normalised" if scorer.info.metric == "cosine" else "")
    write_onnx(module, onnx_file, backbone.preprocessing, backbone.info, output=output)
    pixels = []
    for image in _decoded(sources, backbone.preprocessing):
        if image.pixels is not None:
            pixels.append(image.pixels)
        if len(pixels) == PARITY_IMAGES:
            break
    if not pixels:
        raise InputError(f"none of the {len(sources)} normal images can be read")
    check_parity(module, Extractor(onnx_file, available_cores()), np.stack(pixels))
    safetensors.torch.save_file({k: v.contiguous() for k, v in backbone.model.state_dict().items()}, weights)
    files = {EXTRACTOR: onnx_file, WEIGHTS: weights}
    return _Extraction(files, backbone.info, backbone.preprocessing, method, scorer)


def _existing(folder: Path, stage: Path, scorer: str | None) -> _Extraction:
    """The extractor that ``folder`` has already, with its scorer or another that goes with it."""
    manifest = read_manifest(folder)
    learned = load_scorer(manifest.scorer, verified(folder, manifest, SCORER))
    if scorer is not None:
        asked = parse_scorer(scorer)
        if asked.metric != manifest.scorer.metric or "samplewise" in (asked.name, manifest.scorer.name):
            raise UsageError(
                f"the extractor in {folder} was not exported for the scorer {scorer}; adapt again with it"
            )
        learned = make_scorer(asked, learned.state)
    files = {}
    for role in (EXTRACTOR, WEIGHTS):
        source = verified(folder, manifest, role)
        files[role] = stage / source.name
        shutil.copyfile(source, files[role])
    return _Extraction(files, manifest.backbone, manifest.preprocessing, manifest.method, learned)


def _index(
    root: str, sources: list[Source], folder: Path, stage: Path, extraction: _Extraction, progress: Progress
) -> Fitted:
    """Embed the normals with the staged graph, build the gallery and commit everything."""
    extractor = Extractor(extraction.files[EXTRACTOR], available_cores())
    images = _counted(
        "embedding the normals", _decoded(sources, extraction.preprocessing), len(sources), progress
    )
    features: list[Features] = []
    normals: list[str] = []
    unreadable: list[Decoded] = []
    fingerprint = hashlib.sha256()
    for batch, embedded in extractor.embed(images):
        if batch[0].pixels is None:
            unreadable.extend(batch)
            continue
        features.append(embedded)
        for image in batch:
            normals.append(os.path.abspath(image.path))
            fingerprint.update(os.fsencode(os.path.relpath(image.path, root)))
            fingerprint.update(image.pixels.tobytes() if image.pixels is not None else b"")
    if not features:
        raise InputError(f"none of the {len(sources)} normal images can be read")
    scorer, vectors = extraction.scorer, np.concatenate(features)
    gallery = Gallery.build(vectors, scorer.info.metric)
    scorer.fit(vectors, extraction.method.seed)
    scorer.score(vectors[:1], gallery, scorer.info.k)
    index_file, normals_file, scorer_file = stage / "index", stage / "normals", stage / "scorer.npz"
    gallery.save(index_file)
    write_normals(normals_file, normals)
    scorer.save(scorer_file)
    manifest = Manifest(
        anomscan=anomscan.__version__,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        backbone=extraction.backbone,
        preprocessing=extraction.preprocessing,
        method=extraction.method,
        scorer=scorer.info,
        data=DataInfo(os.path.abspath(root), len(normals), len(unreadable), fingerprint.hexdigest()),
        versions=_versions(),
        files={},
    )
    staged = {**extraction.files, INDEX: index_file, NORMALS: normals_file, SCORER: scorer_file}
    return Fitted(commit(folder, staged, manifest), unreadable)


def _counted(what: str, images: Iterable[Decoded], total: int, progress: Progress) -> Iterator[Decoded]:
    for done, image in enumerate(images, start=1):
        yield image
        progress(what, done, total, "")


def _versions() -> dict[str, str]:
    packages = ("numpy", "pillow", "onnxruntime", "faiss-cpu", "torch", "timm")
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
