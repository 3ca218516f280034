"""Build the index of normal images, with the network that the model has or a pretrained one."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from anomscan.adapt.options import AdaptOptions, BackboneChoice, FocusChoice
from anomscan.errors import ModelDamaged, ModelNotFound, UsageError
from anomscan.fit.build import Fitted, build_from
from anomscan.fit.embed import Engine, here
from anomscan.fit.int8 import in_int8
from anomscan.fit.look import EVERYTHING, Gathering
from anomscan.fit.normals import Normals
from anomscan.fit.rejects import carried, left_behind
from anomscan.images.tiling import TileChoice
from anomscan.model.folder import ModelDraft, linked, read_manifest, verified
from anomscan.model.manifest import HoldOut, Manifest
from anomscan.model.model import read_normals
from anomscan.network.network import EXTRACTOR, WEIGHTS, Network
from anomscan.scoring.base import SCORER, read_arrays
from anomscan.scoring.info import Looks, ScorerInfo
from anomscan.scoring.reduction import Reduction
from anomscan.scoring.registry import asked_scorer, make_scorer, parse_scorer, patched_class, scorer_class
from anomscan.types import Arrays, Levels, Progress


@dataclass(frozen=True)
class IndexOptions:
    """How to index.

    With ``backbone`` None the extractor of the model is kept, adapted or not; where there is no model yet, or
    with a backbone, the pretrained features are taken as they are (DN2). With ``scorer`` None an existing
    model's is kept; else it is kNN. ``reduce`` is a ``Reduction`` as on the command line; with None every
    normal is in the gallery. With ``int8`` the extractor becomes an 8-bit one; ``force`` takes it whatever it
    does to the scores. ``focus`` is what to look at, where the extractor is a new one; ``tiles`` in which
    tiles, with None asked for in those of the model.
    """

    backbone: BackboneChoice | None = None
    scorer: str | None = None
    reduce: str | None = None
    int8: bool = False
    force: bool = False
    focus: FocusChoice = field(default_factory=FocusChoice)
    tiles: TileChoice = field(default_factory=TileChoice)


def index(
    root: str,
    folder: str,
    options: IndexOptions,
    progress: Progress,
    rule: HoldOut | None = None,
    wait: float = 0.0,
    gathering: Gathering = EVERYTHING,
    engine: Engine = here,
) -> Fitted:
    """Build the index of the images below ``root``.

    Args:
        root: the folder of normal images.
        folder: the model folder.
        options: how to index.
        progress: see ``types.Progress``.
        rule: which normals are held out to calibrate with, of an adapted model none that it was trained on;
            none at all by default.
        wait: seconds that another writer of ``folder`` may take to finish.
        gathering: which files are normals, and how they are read.
        engine: embeds the normals, on this machine or on others.

    Raises:
        InputError: ``root`` does not exist or holds no readable image.
        ModelError: the model in ``folder`` cannot be used.
        UsageError, WeightsUnavailable, Int8Differs, OutputError: the old model stays.
    """
    known = _known(folder, options)
    if known is not None:
        gathering = replace(gathering, part=known.preprocessing.reading.part)
    normals = Normals.find(root, gathering, progress, _trained_with(known))
    notes: list[str] = []
    reduction = Reduction.parse(options.reduce) if options.reduce else None
    with ModelDraft.begin(folder, wait) as draft:
        manifest = draft.base() if options.backbone is None else None
        if manifest is not None:
            _check_paper(manifest.focus.procedure, options)
            network, info = existing(folder, manifest, options.scorer, draft.scratch)
            network = _focused(network, options.focus)
            normals, notes = _split(normals, rule or HoldOut(), folder, manifest)
            network, notes = _in_tiles(network, options.tiles, normals, notes)
        else:
            normals, notes = normals.split(rule or HoldOut(), seed=0), left_behind(folder)
            network, info = _pretrained(normals, options, draft.scratch, progress)
        scorer_class(info.name).check(reduction)
        patched_class(network.focus.procedure).check(reduction)
        preprocessing = replace(network.preprocessing, reading=normals.look.reading)
        network = replace(network, preprocessing=preprocessing)
        if options.int8:
            progress("reducing the extractor to 8 bits", 0, None, "")
            network = in_int8(network, normals.sources, draft.scratch, info.metric, force=options.force)
        scorer = make_scorer(info, network.learnt)
        before = manifest.patches.most if manifest is not None and manifest.patches else None
        most = options.focus.most or before
        rejects = carried(folder, manifest, network, scorer, normals) if manifest is not None else None
        fitted = build_from(draft, network, scorer, normals, progress, reduction, most, rejects, engine)
        return replace(fitted, notes=[*fitted.notes, *notes])


def _check_paper(procedure: str | None, options: IndexOptions) -> None:
    """Raise UsageError where the network of a paper's procedure is to be used for something else."""
    looks = options.focus.looks
    other = options.scorer is not None or options.tiles.asked or looks not in (None, "auto", "patch")
    if procedure is not None and other:
        raise UsageError(
            f"the model looks at patches as {procedure} does; leave --scorer, --tiles, --defect and --focus "
            "out, or adapt again by another method"
        )


def _known(folder: str, options: IndexOptions) -> Manifest | None:
    """The model whose network is used and which goes on looking where it does, if there is one."""
    if options.backbone is not None:
        return None
    with suppress(ModelNotFound):
        return read_manifest(folder)
    return None


def _trained_with(known: Manifest | None) -> Levels | None:
    """The range of grey levels that a network was trained with, if it was."""
    return known.preprocessing.reading.levels if known is not None and known.method.steps else None


def existing(folder: str, manifest: Manifest, scorer: str | None, into: Path) -> tuple[Network, ScorerInfo]:
    """The network of ``folder``, brought ``into`` a scratch folder, and its scorer or another that fits.

    Raises:
        UsageError: the network was not exported for the scorer asked for.
        ModelError: a file is missing or damaged.
    """
    info, arrays = manifest.scorer, read_arrays(verified(folder, manifest, SCORER))
    if scorer is not None:
        info = parse_scorer(scorer)
        asked, own = scorer_class(info.name), scorer_class(manifest.scorer.name)
        fits = info.metric == manifest.scorer.metric and asked.needs <= arrays.keys()
        if not fits or asked.exclusive or own.exclusive:
            raise UsageError(
                f"the extractor in {folder} was not exported for the scorer {scorer}; adapt again with it"
            )
    return of_model(folder, manifest, into, arrays), info


def _focused(network: Network, choice: FocusChoice) -> Network:
    """The network with another focus, where it gives what that needs.

    Raises:
        UsageError: it gives no patches, or a budget was given, which only a new network can keep.
    """
    looks = choice.looks
    if choice.budget is not None:
        raise UsageError("the model's extractor stays as it is; adapt again for another --budget")
    if looks is None or looks in ("auto", network.focus.looks):
        return network
    if looks not in ("image", "patch", "both"):
        raise UsageError(f"there is no focus called {looks!r}; choose one of auto, image, patch, both")
    if looks != "image" and not network.focus.size:
        raise UsageError("the model's extractor gives no patches; adapt again with --focus")
    named: Looks = "patch" if looks == "patch" else "both" if looks == "both" else "image"
    return replace(network, focus=replace(network.focus, looks=named, reason="asked for"))


def _in_tiles(
    network: Network, choice: TileChoice, normals: Normals, notes: list[str]
) -> tuple[Network, list[str]]:
    """The network of a model, for other tiles where these were asked for, and what to know of it."""
    before = network.preprocessing
    rules = replace(before, reading=normals.look.reading)
    tiles = choice.decide(normals.sources, rules)
    if tiles != before.tiles:
        other = "the model's network stays as it was made, for other tiles; adapt again to make it for these"
        notes = [*notes, other]
    return replace(network, preprocessing=replace(rules, tiles=tiles)), notes


def of_model(folder: str, manifest: Manifest, into: Path, arrays: Arrays) -> Network:
    """The network of a model, brought ``into`` a scratch folder."""
    files = linked(folder, manifest, (EXTRACTOR, WEIGHTS), into)
    made = (manifest.backbone, manifest.preprocessing, manifest.method)
    return Network(files, *made, learnt=arrays, int8=manifest.int8, focus=manifest.focus)


def _pretrained(
    normals: Normals, options: IndexOptions, scratch: Path, progress: Progress
) -> tuple[Network, ScorerInfo]:
    from anomscan.adapt.make import make_network
    from anomscan.adapt.presets import find_preset

    plain = AdaptOptions(
        method="none",
        backbone=options.backbone or BackboneChoice(),
        scorer=options.scorer,
        reading=normals.look.reading,
        focus=options.focus,
        tiles=options.tiles,
        all_calibrate=normals.rule.is_all,
    )
    info = asked_scorer(options.scorer, find_preset(plain.method).scorer, (), plain.method)
    return make_network(normals.sources, plain, info, scratch, progress), info


def _split(normals: Normals, rule: HoldOut, folder: str, manifest: Manifest) -> tuple[Normals, list[str]]:
    """Hold out none that the network may have been trained on: those of its gallery."""
    seed = manifest.method.seed
    if rule.is_all or not manifest.method.steps:
        return normals.split(rule, seed), []
    try:
        return normals.split(rule, seed, set(read_normals(folder, manifest))), []
    except ModelDamaged as damage:
        return replace(normals, rule=rule), [
            f"none can be held out: what was trained on is unknown ({damage})"
        ]
