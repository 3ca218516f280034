"""From a folder of normal images to a model folder: check what was asked, extract, index."""

from __future__ import annotations

from pathlib import Path

from anomscan.bundle import MANIFEST, read_manifest, read_normals, staging
from anomscan.calibration import hold_out
from anomscan.config import HoldOut, MethodInfo, Progress, ScorerInfo
from anomscan.errors import UsageError
from anomscan.gallery import Reduction
from anomscan.indexing import Fitted, build, existing, find_normals, in_int8
from anomscan.options import AdaptOptions, BackboneChoice
from anomscan.scorers import parse_scorer

HELD_OUT = 0.2
"""Share of the normals that are held out to calibrate with, where no other was asked for."""
NOTHING = HoldOut()


def adapt(root: str, folder: Path, options: AdaptOptions, progress: Progress) -> Fitted:
    """Fine-tune a backbone on the images below ``root`` and make the result the model of ``folder``.

    The normals that build the index are embedded by the exported ONNX graph, which also scores.

    Raises:
        UsageError: unknown method or backbone, or normals that cannot be held out as asked.
        InputError: ``root`` does not exist or holds no readable image.
        WeightsUnavailable, TrainingDiverged, ParityError, OutputError: the old model stays.
    """
    from anomscan.adapt import extraction as extractors
    from anomscan.adapt.presets import find_preset

    preset = find_preset(options.method)
    if preset.objective is None and (options.steps is not None or options.time_budget is not None):
        raise UsageError(f"{options.method} does not train; leave --steps and --time-budget out")
    scorer = _method_scorer(options.method, preset.scorer, options.scorer, logit=preset.learns_logit)
    reduction = _reduction(options.reduce, scorer.name)
    others = extractors.find_others(preset, options)
    sources, held_out = hold_out(root, find_normals(root), options.hold_out, options.seed)
    with staging(folder) as stage:
        progress("loading the backbone", 0, None, "")
        if preset.objective is None and preset.readout == "stages":
            extraction = extractors.read_from_stages(sources, stage, options, scorer, progress)
        elif preset.objective is None:
            method = MethodInfo(options.method, options.seed)
            extraction = extractors.pretrained(sources, stage, options.backbone, method, scorer, progress)
        else:
            extraction = extractors.adapted(sources, others, stage, options, scorer, progress)
        return build(
            root, sources, held_out, options.hold_out, folder, stage, extraction, progress, reduction
        )


def index(
    root: str,
    folder: Path,
    backbone: BackboneChoice | None,
    scorer: str | None,
    progress: Progress,
    rule: HoldOut = NOTHING,
    reduce: str | None = None,
    *,
    int8: bool = False,
    force: bool = False,
) -> Fitted:
    """Build the index of the images below ``root``.

    With ``backbone`` None the extractor of the model in ``folder`` is kept, adapted or not; where there
    is no model yet, or with a backbone, the pretrained features are taken as they are (DN2). With
    ``scorer`` None an existing model's scorer is kept; else it is kNN. ``rule`` says which normals are
    held out to calibrate with: none that is in the gallery of an adapted model. ``reduce`` is a
    ``gallery.Reduction`` as on the command line; with None every normal is in the gallery. With ``int8`` the
    extractor becomes an 8-bit one; ``force`` takes it whatever it does to the scores.

    Raises:
        InputError: ``root`` does not exist or holds no readable image.
        ModelError: the model in ``folder`` cannot be used.
        UsageError, WeightsUnavailable, Int8Differs, OutputError: the old model stays.
    """
    normals = find_normals(root)
    with staging(folder) as stage:
        if backbone is None and (folder / MANIFEST).exists():
            extraction = existing(folder, stage, scorer)
            manifest = read_manifest(folder)
            trained = set(read_normals(folder, manifest)) if manifest.method.steps else set()
            sources, held_out = hold_out(root, normals, rule, extraction.method.seed, trained)
        else:
            from anomscan.adapt import extraction as extractors

            sources, held_out = hold_out(root, normals, rule, seed=0)
            progress("loading the backbone", 0, None, "")
            info = _method_scorer("none", "knn", scorer)
            choice, method = backbone or BackboneChoice(), MethodInfo("none", seed=0)
            extraction = extractors.pretrained(sources, stage, choice, method, info, progress)
        if int8:
            progress("reducing the extractor to 8 bits", 0, None, "")
            extraction = in_int8(extraction, sources, stage, force=force)
        reduction = _reduction(reduce, extraction.scorer.info.name)
        return build(root, sources, held_out, rule, folder, stage, extraction, progress, reduction)


def _reduction(asked: str | None, scorer: str) -> Reduction | None:
    reduction = Reduction.parse(asked) if asked else None
    if reduction is not None and reduction.name == "kmeans" and scorer == "samplewise":
        raise UsageError("the scorer samplewise cannot search among centroids; reduce with coreset:K")
    return reduction


def hold_out_rule(folder: Path | None, share: float | None, group_by: str | None) -> HoldOut:
    """What was asked for; what was not is as in the model of ``folder``, if there is one, or the default."""
    rule = HoldOut(HELD_OUT)
    if folder is not None and (folder / MANIFEST).exists():
        calibration = read_manifest(folder).calibration
        if calibration is not None:
            rule = HoldOut(calibration.rule.share or HELD_OUT, calibration.rule.group_by)
    return HoldOut(rule.share if share is None else share, group_by or rule.group_by)


def _method_scorer(method: str, own: str, asked: str | None, *, logit: bool = False) -> ScorerInfo:
    """The scorer asked for, or the method's own; some go only with certain methods."""
    info, other = parse_scorer(asked or own), parse_scorer(own)
    learnt = {"samplewise": other.name == "samplewise", "logit": logit}
    if not learnt.get(info.name, True):
        raise UsageError(f"{method} does not learn what the scorer {info.name} needs; leave --scorer out")
    if other.name == "samplewise" != info.name:
        raise UsageError(f"{method} scores sample-wise; leave --scorer out")
    return info
