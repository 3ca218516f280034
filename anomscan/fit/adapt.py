"""Fine-tune a network on normal images and make the result a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from anomscan.adapt.options import AdaptOptions, GoingOn
from anomscan.fit.build import Fitted, build_from
from anomscan.fit.look import EVERYTHING, Gathering
from anomscan.fit.normals import Normals
from anomscan.fit.rejects import left_behind
from anomscan.model.folder import ModelDraft
from anomscan.model.manifest import HoldOut
from anomscan.scoring.reduction import Reduction
from anomscan.scoring.registry import asked_scorer, make_scorer, patched_class, scorer_class
from anomscan.types import Progress


def adapt(
    root: str,
    folder: str,
    options: AdaptOptions,
    progress: Progress,
    rule: HoldOut | None = None,
    reduce: str | None = None,
    wait: float = 0.0,
    gathering: Gathering = EVERYTHING,
    say: Callable[[str], None] = lambda _: None,
) -> Fitted:
    """Fine-tune a backbone on the images below ``root`` and make the result the model of ``folder``.

    The normals that build the index are embedded by the exported ONNX graph, which also scores. A run that is
    killed leaves a checkpoint in ``folder``; the same one again goes on from there.

    Args:
        root: the folder of normal images.
        folder: the model folder.
        options: how to adapt.
        progress: see ``types.Progress``.
        rule: which normals are held out to calibrate with; none by default.
        reduce: a ``Reduction`` as on the command line; by default every normal is in the gallery.
        wait: seconds that another writer of ``folder`` may take to finish.
        gathering: which files are normals, and how they are read.
        say: tells a person that a run is gone on with, or why not.

    Raises:
        UsageError: unknown method or backbone, or normals that cannot be held out as asked.
        InputError: ``root`` does not exist or holds no readable image.
        WeightsUnavailable, TrainingDiverged, ParityError, ModelBusy, OutputError: the old model stays.
    """
    from anomscan.adapt.make import check, make_network
    from anomscan.adapt.presets import find_preset

    preset = find_preset(options.method)
    info = asked_scorer(options.scorer, preset.scorer, preset.learns, options.method)
    reduction = Reduction.parse(reduce) if reduce else None
    scorer_class(info.name).check(reduction)
    patched_class(preset.patches.procedure if preset.patches else None).check(reduction)
    check(options)
    normals = Normals.find(root, gathering, progress).split(rule or HoldOut(), options.seed)
    options = replace(
        options,
        reading=normals.look.reading,
        all_calibrate=normals.rule.is_all,
        isolate=gathering.isolate,
    )
    with ModelDraft.begin(folder, wait) as draft:
        options = replace(options, going_on=GoingOn(draft.checkpoint, say))
        network = make_network(normals.sources, options, info, draft.scratch, progress)
        scorer = make_scorer(info, network.learnt)
        lost = left_behind(folder)
        fitted = build_from(draft, network, scorer, normals, progress, reduction, options.focus.most)
        return replace(fitted, notes=[*fitted.notes, *lost])
