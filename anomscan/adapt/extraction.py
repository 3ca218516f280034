"""The ONNX extractor of a method: the backbone as it is, read out from its stages, or adapted."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch

from anomscan.adapt.adaptation import Folder, Resources, adapt_backbone
from anomscan.adapt.backbones import Backbone, load_backbone
from anomscan.adapt.onnx_export import FromPixels, L2Normalise, check_parity, write_onnx
from anomscan.adapt.presets import Preset, find_preset
from anomscan.adapt.readouts import Gate, gated_readout
from anomscan.bundle import EXTRACTOR, WEIGHTS
from anomscan.config import MethodInfo, Progress, ScorerInfo, available_cores
from anomscan.errors import InputError, UsageError
from anomscan.extractor import Extractor
from anomscan.images import Source, printable
from anomscan.indexing import Extraction, counted, decoded, find_normals
from anomscan.options import AdaptOptions, BackboneChoice
from anomscan.scorers import Scorer, make_scorer

PARITY_IMAGES = 16
HELD_OUT = 0.2
"""Share of the normals that a label-free choice measures on."""
FEWEST_TO_SPLIT = 50
"""With fewer normals a label-free choice leaves the network as it is."""


def find_others(preset: Preset, options: AdaptOptions) -> list[Source]:
    """The outliers or reference images that the preset learns from, if any.

    Raises:
        UsageError: a folder is missing, not used, or without class folders.
        InputError: it does not exist or holds no image.
    """
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
    others = find_normals(given) if given else []
    if needs == "reference" and given and len(set(_classes(given, others).values())) < 2:
        raise UsageError(
            f"{printable(given)} needs a subfolder of reference images for each of two classes or more"
        )
    return others


def pretrained(
    sources: list[Source],
    stage: Path,
    choice: BackboneChoice,
    method: MethodInfo,
    scorer: ScorerInfo,
    progress: Progress,
) -> Extraction:
    """Export the backbone as it is."""
    backbone = load_backbone(choice.name, choice.weights, choice.size)
    parts = [backbone.model, L2Normalise()] if scorer.metric == "cosine" else [backbone.model]
    module = FromPixels(backbone.preprocessing, *parts)
    return _exported(sources, stage, backbone, module, method, make_scorer(scorer), progress)


def read_from_stages(
    sources: list[Source],
    stage: Path,
    options: AdaptOptions,
    scorer: ScorerInfo,
    progress: Progress,
    *,
    before: str = "",
) -> Extraction:
    """Export the pretrained backbone, read out as the normals say; ``before`` is said before the reason."""
    choice = options.backbone
    backbone = load_backbone(choice.name, choice.weights, choice.size)
    module, gate = _stages_readout(backbone, sources, stage, options, scorer, progress)
    method = MethodInfo(options.method, options.seed, selection=_selection(gate, {"reason": before}))
    return _exported(sources, stage, backbone, module, method, make_scorer(scorer), progress)


def _selection(gate: Gate, chosen: dict[str, Any]) -> dict[str, Any]:
    """What was chosen before the readout, and the readout."""
    read = gate.record()
    reasons = [reason for reason in (chosen["reason"], read["reason"]) if reason]
    return {**chosen, "reason": "; ".join(reasons), "readout": read}


def _stages_readout(
    backbone: Backbone,
    sources: list[Source],
    stage: Path,
    options: AdaptOptions,
    scorer: ScorerInfo,
    progress: Progress,
) -> tuple[FromPixels, Gate]:
    if scorer.metric != "cosine":
        raise UsageError(f"{options.method} gives normalised features; choose a scorer by the cosine")
    normals = decoded(sources, backbone.preprocessing)
    images = counted("looking at the normals", normals, len(sources), progress)
    readout, gate = gated_readout(backbone, images, stage)
    return FromPixels(backbone.preprocessing, readout), gate


def adapted(
    sources: list[Source],
    others: list[Source],
    stage: Path,
    options: AdaptOptions,
    scorer: ScorerInfo,
    progress: Progress,
) -> Extraction:
    """Adapt the backbone and export it."""
    preset = find_preset(options.method)
    if preset.stopping == "label-free" and len(sources) < FEWEST_TO_SPLIT:
        few = f"kept the unadapted features: {len(sources)} normals are too few to hold some out"
        return read_from_stages(sources, stage, options, scorer, progress, before=few)
    optimisation = preset.optimisation
    if options.steps is not None:
        optimisation = replace(optimisation, steps=options.steps)
    choice = options.backbone
    backbone = load_backbone(choice.name, choice.weights, choice.size)
    preprocessing = backbone.preprocessing
    trained: list[Source] = sources
    held_out: list[Source] = []
    if preset.stopping == "label-free":
        trained, held_out = _split(sources, options.seed)
    images = counted("reading the normals", decoded(trained, preprocessing), len(trained), progress)
    further = options.outliers or options.reference
    result = adapt_backbone(
        backbone,
        preset,
        optimisation,
        Folder(images, len(trained), "normal"),
        Folder(decoded(others, preprocessing), len(others), "further", _classes(further, others))
        if further
        else None,
        Folder(decoded(held_out, preprocessing), len(held_out), "held-out normal") if held_out else None,
        normalise=scorer.metric == "cosine",
        resources=Resources(options.seed, options.device, options.time_budget, options.memory, stage),
        progress=progress,
    )
    module, selection = result.module, result.selection
    if preset.readout == "stages":
        module, gate = _stages_readout(backbone, sources, stage, options, scorer, progress)
        selection = _selection(gate, selection or {"reason": ""})
    settings = asdict(optimisation)
    method = MethodInfo(options.method, options.seed, result.steps, result.loss, settings, selection)
    learned = make_scorer(scorer, result.scorer_state if scorer.name in ("logit", "samplewise") else {})
    return _exported(sources, stage, backbone, module, method, learned, progress)


def _exported(
    sources: list[Source],
    stage: Path,
    backbone: Backbone,
    module: FromPixels,
    method: MethodInfo,
    scorer: Scorer,
    progress: Progress,
) -> Extraction:
    """Write the network as ONNX, checked on real images, and its weights."""
    progress("exporting to ONNX", 0, None, "")
    onnx_file, weights = stage / "extractor.onnx", stage / "extractor.safetensors"
    output = "float32 [N, D]" + (", L2-normalised" if scorer.info.metric == "cosine" else "")
    write_onnx(module, onnx_file, backbone.preprocessing, backbone.info, output=output)
    pixels = []
    for image in decoded(sources, backbone.preprocessing):
        if image.pixels is not None:
            pixels.append(image.pixels)
        if len(pixels) == PARITY_IMAGES:
            break
    if not pixels:
        raise InputError(f"none of the {len(sources)} normal images can be read")
    check_parity(module, Extractor(onnx_file, available_cores()), np.stack(pixels))
    safetensors.torch.save_file({k: v.contiguous() for k, v in backbone.model.state_dict().items()}, weights)
    files = {EXTRACTOR: onnx_file, WEIGHTS: weights}
    return Extraction(files, backbone.info, backbone.preprocessing, method, scorer)


def _split(sources: list[Source], seed: int) -> tuple[list[Source], list[Source]]:
    """The normals to train on, and a share of them, drawn once, that the training does not see."""
    order = np.random.default_rng(seed).permutation(len(sources))
    count = round(HELD_OUT * len(sources))
    held_out, trained = ([sources[i] for i in sorted(part)] for part in (order[:count], order[count:]))
    return trained, held_out


def _classes(root: str, sources: list[Source]) -> dict[str, int]:
    """The class of each image: the number of its top folder below ``root``, in order of the names."""
    folders = {source.path: os.path.relpath(source.path, root).partition(os.sep) for source in sources}
    inside = {path: name for path, (name, separator, _) in folders.items() if separator}
    numbers = {name: i for i, name in enumerate(sorted(set(inside.values())))}
    return {path: numbers[name] for path, name in inside.items()}
