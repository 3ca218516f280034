"""The ONNX extractor of a method: the backbone as it is, read out from its stages, or adapted."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

import anomscan
from anomscan.adapt.adaptation import Adapted, Resources, adapt_backbone
from anomscan.adapt.backbones import Backbone, load_backbone
from anomscan.adapt.checkpoint import Checkpoint
from anomscan.adapt.focus import Sight, choose
from anomscan.adapt.focus import check as check_focus
from anomscan.adapt.folders import (
    Folder,
    Material,
    classes_of,
    decoded,
    decoded_once,
    decoded_others,
    find_others,
)
from anomscan.adapt.likeness import MOST
from anomscan.adapt.onnx_export import FromPixels, L2Normalise, check_parity, write_onnx
from anomscan.adapt.options import AdaptOptions
from anomscan.adapt.patches import WithPatches
from anomscan.adapt.presets import Preset, find_preset
from anomscan.adapt.stage_readout import features_of
from anomscan.errors import InputError, UsageError
from anomscan.files.storage import storage_of
from anomscan.images.decode import Decoded
from anomscan.images.find import Found, Source, Unreadable
from anomscan.images.isolate import sifted
from anomscan.network.extractor import IMAGE, PATCHES, Extractor
from anomscan.network.network import EXTRACTOR, WEIGHTS, FocusInfo, MethodInfo, Network
from anomscan.pipeline import available_cores, counted
from anomscan.scoring.info import ScorerInfo
from anomscan.spread import spread_over
from anomscan.types import Features, Metric, Preprocessing, Progress

PARITY_IMAGES = 16
READ_OUT_BY = 10_000
"""Normals, spread over all, that decide how the network is read out: their features fit into memory."""


def check(options: AdaptOptions) -> None:
    """Refuse what cannot work before any work is done.

    Raises:
        UsageError: no such method, or options that do not go with it.
        InputError: a further folder does not exist or holds no image.
    """
    preset = find_preset(options.method)
    if not preset.trains and (options.steps is not None or options.time_budget is not None):
        raise UsageError(f"{options.method} does not train; leave --steps and --time-budget out")
    check_focus(options.focus)
    if preset.patches is not None:
        _check_paper(options)
    find_others(preset, options)


def _check_paper(options: AdaptOptions) -> None:
    """Raise UsageError where a paper's procedure for patches is to be mixed with something else."""
    method, focus = options.method, options.focus
    if focus.looks not in (None, "auto", "patch"):
        raise UsageError(f"{method} looks at patches in its own way; leave --focus {focus.looks} out")
    if options.scorer is not None:
        raise UsageError(f"{method} has a scorer of its own; leave --scorer out")
    if focus.budget is not None:
        raise UsageError(f"{method} looks at one size, which --size sets; leave --budget out")
    if options.tiles.asked:
        raise UsageError(f"{method} looks at whole images; leave --tiles and --defect out")


def make_network(
    sources: Sequence[Found], options: AdaptOptions, scorer: ScorerInfo, scratch: Path, progress: Progress
) -> Network:
    """Make the network of a method, as ONNX, checked on real images.

    Args:
        sources: the normal images.
        options: the method and how to adapt.
        scorer: what will score its features, whose metric decides whether they have norm 1.
        scratch: a folder, which gets ``extractor.onnx`` and ``extractor.safetensors``.
        progress: see ``types.Progress``.

    Raises:
        UsageError: as ``check``; an unknown backbone, or one without the parts that the method needs; a
            scorer that does not go with the features.
        InputError: no normal image, or none of a further folder, can be read.
        WeightsUnavailable, TrainingDiverged, ParityError: see there.
    """
    preset = find_preset(options.method)
    if options.scorer is not None:
        preset = replace(preset, readout=preset.readout.plain)
    if preset.readout.normalises and scorer.metric != "cosine":
        raise UsageError(f"{options.method} gives normalised features; choose a scorer by the cosine")
    others = find_others(preset, options)
    if options.isolate is not None:
        most = options.reading.max_pixels
        others = {name: sifted(found, options.isolate, most, progress) for name, found in others.items()}
    progress("loading the backbone", 0, None, "")
    choice = options.backbone
    backbone = load_backbone(choice.name, choice.weights, choice.size)
    rules = replace(backbone.preprocessing, reading=options.reading)
    rules = replace(rules, tiles=options.tiles.decide(sources, rules))
    backbone = replace(backbone, preprocessing=rules)
    adapted = _adapted(backbone, preset, sources, others, options, scratch, progress)
    few = sources[:: -(-len(sources) * rules.tile_count // READ_OUT_BY)]
    images = decoded(few, rules)
    looked_at = counted("reading out the normals", images, len(few) * rules.tile_count, progress)
    readout = preset.readout
    if adapted.steps:
        readout = readout.adapted
    elif options.all_calibrate:
        readout = readout.unfitted
    read = readout.read(backbone, adapted.network, looked_at, scratch)
    scaled = adapted.normalised or readout.normalises
    last = [L2Normalise()] if scorer.metric == "cosine" and not scaled else []
    sight = _sight(backbone, preset, adapted, read.head, sources, options, scratch, progress)
    module, preprocessing = _whole([*read.modules, *last], backbone, sight)
    progress("exporting to ONNX", 0, None, "")
    files = _exported(module, replace(backbone, preprocessing=preprocessing), scorer.metric, sources, scratch)
    method = MethodInfo(
        options.method,
        options.seed,
        adapted.steps,
        adapted.loss,
        {**adapted.settings, **read.settings},
        _selection(adapted.selection, read.record),
    )
    return Network(files, backbone.info, preprocessing, method, adapted.learnt, focus=sight.info)


def _sight(
    backbone: Backbone,
    preset: Preset,
    adapted: Adapted,
    head: Features | None,
    sources: Sequence[Found],
    options: AdaptOptions,
    scratch: Path,
    progress: Progress,
) -> Sight:
    """What to look at: as asked for, or as the method does; a scorer that was named looks at the image."""
    if preset.patches is not None:
        name, size = preset.patches.procedure, backbone.preprocessing.height
        info = FocusInfo("patch", f"as {name} does", size, procedure=name)
        return Sight(info, patches=preset.patches.of(backbone, options.seed))
    looks = options.focus.looks or ("image" if options.scorer is not None else preset.looks)
    rules = backbone.preprocessing
    middle = rules.tile_count // 2
    if looks == "auto" and head is None:
        head = _some_features(adapted.network, backbone, sources, scratch)
    elif head is not None:
        head = head[middle :: rules.tile_count]
    return choose(
        backbone,
        sources,
        replace(options.focus, looks=looks),
        features=head if head is not None else np.empty((0, 1), np.float32),
        only_own_size=options.backbone.size is not None,
        scratch=scratch,
        progress=progress,
    )


def _some_features(
    network: Sequence[nn.Module], backbone: Backbone, sources: Sequence[Found], scratch: Path
) -> Features:
    """What a network makes of as many normals as are compared with each other, (n, D)."""
    rules = backbone.preprocessing
    few = sources[:: -(-len(sources) // MOST)]
    return features_of(network, backbone, decoded_once(few, rules, rules.tile_count // 2), scratch)


def _whole(
    modules: Sequence[nn.Module], backbone: Backbone, sight: Sight
) -> tuple[FromPixels, Preprocessing]:
    """The network from raw pixels, and what it takes: a larger image where patches are looked at in one."""
    own = backbone.preprocessing
    if sight.patches is None:
        return FromPixels(own, *modules), own
    height, width = (round(side * sight.factor) for side in (own.height, own.width))
    rules = replace(own, height=height, width=width)
    return FromPixels(rules, WithPatches(sight.factor, modules, sight.patches)), rules


def _adapted(
    backbone: Backbone,
    preset: Preset,
    sources: Sequence[Found],
    others: Mapping[str, list[Found]],
    options: AdaptOptions,
    scratch: Path,
    progress: Progress,
) -> Adapted:
    """The backbone as the preset trains it, if it does."""
    if not preset.trains:
        return Adapted([backbone.model])
    against = preset.stopping.against(
        len(sources),
        lambda: _some_features([backbone.model], backbone, sources, scratch),
        all_calibrate=options.all_calibrate,
    )
    if against:
        return Adapted([backbone.model], selection={"reason": against})
    if options.steps is not None:
        preset = replace(preset, optimisation=replace(preset.optimisation, steps=options.steps))

    def folder(images: Sequence[Found], what: str) -> Folder:
        rules = backbone.preprocessing
        return Folder(decoded(images, rules), len(images) * rules.tile_count, what)

    normals = folder(_seen(sources, preset, backbone.preprocessing.tile_count), "normal")
    images = counted("reading the normals", normals.images, normals.count, progress)
    normals = replace(normals, images=images)
    further = {
        option: Folder(
            decoded_others(found, backbone.preprocessing),
            len(found),
            "further",
            classes_of(options.further[option] or "", found),
        )
        for option, found in others.items()
    }
    material = Material(normals, further)
    checkpoint = None
    if options.going_on is not None:
        found = {
            "normal images": sources,
            **{f"--{option}": o for option, o in others.items()},
        }
        settings = _settings(backbone, preset, options, found)
        checkpoint = Checkpoint(options.going_on.file, settings, options.going_on.say)
    resources = Resources(
        options.seed, options.device, options.time_budget, options.memory, scratch, checkpoint
    )
    return adapt_backbone(backbone, preset, material, resources, progress)


def _seen(sources: Sequence[Found], preset: Preset, tiles: int) -> Sequence[Found]:
    """No more normals, spread over all, than the steps can see: to make views of each takes time."""
    most = -(-preset.optimisation.steps * preset.optimisation.batch // tiles)
    return [sources[i] for i in spread_over(len(sources), most)] if preset.views else sources


def _settings(
    backbone: Backbone, preset: Preset, options: AdaptOptions, images: Mapping[str, Sequence[Found]]
) -> dict[str, object]:
    """What the training depends on, by how a person calls it; of images their names, sizes and dates."""
    return {
        "version of anomscan or torch": [anomscan.__version__, torch.__version__],
        "--method": options.method,
        "--steps or method": [repr(preset.optimisation), preset.describe(), preset.views],
        "--backbone, --weights or --size": asdict(backbone.info),
        "reading of the images": repr(backbone.preprocessing),
        "--seed": options.seed,
        "--device": options.device,
        "number of cores": available_cores(),
        **{what: _fingerprint(sources) for what, sources in images.items()},
    }


def _fingerprint(sources: Sequence[Found]) -> str:
    digest = hashlib.sha256()
    for source in sources:
        state: object = source
        if isinstance(source, Source):
            try:
                identity = storage_of(source.path).identity(source.path)
                state = (source, identity.size, identity.modified_ns)
            except (OSError, ValueError):
                state = (source, None)
        digest.update(os.fsencode(repr(state)))
    return digest.hexdigest()


def _selection(chosen: dict[str, Any] | None, read: dict[str, Any] | None) -> dict[str, Any] | None:
    """What was chosen before the readout, and the readout."""
    if read is None:
        return chosen
    reasons = [*([chosen["reason"]] if chosen else []), read["reason"]]
    return {**(chosen or {}), "reason": "; ".join(reasons), "readout": read}


def _exported(
    module: FromPixels, backbone: Backbone, metric: Metric, sources: Sequence[Found], scratch: Path
) -> dict[str, Path]:
    """Write the network as ONNX, checked on real images, and its weights."""
    files = {EXTRACTOR: scratch / "extractor.onnx", WEIGHTS: scratch / "extractor.safetensors"}
    output = "float32 [N, D]" + (", L2-normalised" if metric == "cosine" else "")
    names = [IMAGE, PATCHES] if isinstance(module.parts[0], WithPatches) else [IMAGE]
    write_onnx(module, files[EXTRACTOR], backbone.preprocessing, backbone.info, output=output, outputs=names)
    images = _readable(decoded_once(sources, backbone.preprocessing))
    pixels = [image.pixels for image in islice(images, PARITY_IMAGES)]
    if not pixels:
        raise InputError(f"none of the {len(sources)} normal images can be read")
    check_parity(module, Extractor(files[EXTRACTOR], available_cores()), np.stack(pixels))
    weights = {name: value.contiguous() for name, value in backbone.model.state_dict().items()}
    files[WEIGHTS].write_bytes(safetensors.torch.save(weights))  # its own writer hides what is wrong
    return files


def _readable(images: Iterable[Decoded | Unreadable]) -> Iterable[Decoded]:
    return (image for image in images if isinstance(image, Decoded))
