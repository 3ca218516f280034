"""What to look at, decided by the normals alone: the image, or its patches too, and at which size.

Small defects are made on a few normals: if patches tell those from the same normals without them, small
defects can be seen there, and at which size best. Where the normals differ much from each other, as
photographs of all kinds of cats do, what is anomalous is another thing, and the image as a whole tells that.
On which images this was fixed, and how it did on others, is in docs/methods.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from anomscan.adapt.backbones import Backbone
from anomscan.adapt.folders import decoded, decoded_once
from anomscan.adapt.likeness import MOST, distinctness
from anomscan.adapt.made_defects import PATCH, Maker
from anomscan.adapt.onnx_export import FromPixels, write_onnx
from anomscan.adapt.options import FocusChoice
from anomscan.adapt.patches import FACTORS, PatchTrunk, WhitenedPatches, Whitening
from anomscan.errors import UnreadableImage, UsageError
from anomscan.images.decode import Decoded
from anomscan.images.find import Found, Source, Unreadable
from anomscan.images.overlay import source_size
from anomscan.images.part import covered
from anomscan.images.region import shown
from anomscan.images.tiles import tile_size
from anomscan.network.extractor import BATCH, Extractor
from anomscan.network.network import FocusInfo
from anomscan.pipeline import available_cores, counted
from anomscan.scoring.bank import Bank
from anomscan.scoring.info import Looks
from anomscan.scoring.patches import PatchGallery, peaks
from anomscan.spread import spread_over
from anomscan.types import Features, Pixels, Preprocessing, Progress

LOOKS = ("auto", "image", "patch", "both")
FEWEST = 10
"""With fewer normals than this nothing can be told from them."""
LOOKED_AT, JUDGES, JUDGING = 200, 48, 0.25
"""Normals that are looked at; at most so many of them, and that share, have defects made on them."""
DRAWN = 2
"""Defects of a kind that are made on each, one at a time."""
SEEN = 0.58
"""AUROC of the made defects from which on patches are looked at."""
WEIGHTS = ((0.58, 0.64, 0.72, 0.9), (1.2, 1.1, 0.25, 0.1))
"""Weight of the whole image beside the patches, by that AUROC; linear in between."""
ALIKE, ALIKE_OF, FALLS = 0.72, 15, 0.09
"""The largest ``distinctness`` at which patches are looked at: ``ALIKE`` among ``ALIKE_OF`` normals, less by
``FALLS`` for every factor of e more."""
SHARP = 0.5
"""Side of the sources, in those of the input, from which on patches can show more than the image."""
WORTH = {1.5: -0.05, 2.0: 0.005}
"""What an input so many times as large as the backbone's own must add to the AUROC of the smaller ones."""
ENLARGED, WORTH_ENLARGED = 0.7, 0.005
"""Side of the sources, in those of the input, down to which they are enlarged: nothing more is in them, but
patches lie closer; and what that must add at least."""
_COMPARED_WITH = 3000
_TRIES = 20
_ENOUGH = 0.9
# A source that is a tenth smaller than the input still shows more than at the next smaller size.


@dataclass(frozen=True)
class Sight:
    """What is looked at: ``factor`` is the side of the input in those of the backbone's own."""

    info: FocusInfo
    factor: float = 1.0
    patches: nn.Module | None = None


@dataclass(frozen=True)
class _View:
    """What patches show at one size: AUROC by kind of defect; milliseconds of a core for an image."""

    factor: float
    size: int
    trunk: PatchTrunk
    whitening: Whitening
    seen: dict[str, float]
    milliseconds: float

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.seen.values()))) if self.seen else 0.0

    def record(self) -> dict[str, float]:
        """For ``model.json``."""
        return {**{kind: round(area, 4) for kind, area in self.seen.items()}, "ms": self.milliseconds}


def check(choice: FocusChoice) -> None:
    """Raise UsageError where there is no such focus."""
    if choice.looks not in (None, *LOOKS):
        raise UsageError(f"there is no focus called {choice.looks!r}; choose one of {', '.join(LOOKS)}")


def choose(
    backbone: Backbone,
    sources: Sequence[Found],
    choice: FocusChoice,
    *,
    features: Features,
    only_own_size: bool,
    scratch: Path,
    progress: Progress,
) -> Sight:
    """Decide what to look at.

    Args:
        backbone: the network, pretrained or adapted.
        sources: the normals, none of them held out.
        choice: with ``auto`` it is chosen, and the size with all but ``image``.
        features: of normals, (n, D), as the backbone gives them; for ``auto`` only.
        only_own_size: where the user named a size.
        scratch: a folder for temporary files.
        progress: see ``types.Progress``.
    """
    looks = choice.looks
    if looks == "image":
        return Sight(FocusInfo("image"))
    judges, others = _drawn(sources, backbone.preprocessing.tile_count)
    side = _typical_side(judges, backbone.preprocessing)
    apart = distinctness(features)
    against = _against_patches(backbone, len(sources), len(features), apart, side)
    if looks == "auto" and against is not None:
        return Sight(FocusInfo("image", against, measured={"distinctness": round(apart, 3)}))
    _check_grid(backbone)
    factors = [1.0] if only_own_size else _factors(backbone, side)
    defects = _with_defects(judges, backbone.preprocessing, max(factors), side)
    views: list[_View] = []
    for factor in factors:
        view = _look(backbone, factor, others, defects, scratch, progress)
        if views and choice.budget is not None and view.milliseconds > choice.budget:
            break
        views.append(view)
    best = _best(views, side)
    measured = {**{str(view.size): view.record() for view in views}, "distinctness": round(apart, 3)}
    reason = f"patches at {best.size} px tell small made defects with an AUROC of {100 * best.mean:.0f}"
    if looks == "auto" and best.mean < SEEN:
        return Sight(FocusInfo("image", reason, measured=measured))
    named: Looks = "patch" if looks == "patch" else "both"
    info = FocusInfo(named, reason, best.size, weight_of(best.mean), measured)
    return Sight(info, best.factor, WhitenedPatches(best.trunk, best.whitening))


def _against_patches(backbone: Backbone, normals: int, measured: int, apart: float, side: int) -> str | None:
    """Why only whole images are to be looked at, known without a look at patches; None where nothing says so.

    Args:
        backbone: the network.
        normals: how many there are.
        measured: how many of them ``apart`` is of.
        apart: their distinctness.
        side: of the sources, in pixels.
    """
    if normals < FEWEST:
        return f"{normals} normals are too few to tell whether patches show more"
    limit = limit_of(max(measured, 1))
    if apart > limit:
        return f"the normals differ too much to see small defects ({apart:.2f}, over {limit:.2f})"
    if side < SHARP * backbone.preprocessing.height:
        return f"the images have only {side} px: what is small in them is not to be seen"
    try:
        _check_grid(backbone)
    except UsageError as error:
        return str(error)
    return None


def _check_grid(backbone: Backbone) -> None:
    """Raise UsageError where the network gives no grid of patches."""
    own = backbone.preprocessing
    with torch.no_grad():
        PatchTrunk(backbone)(torch.zeros(1, 3, own.height, own.width))


def _best(views: Sequence[_View], side: int) -> _View:
    """The size at which most is seen of sources of a ``side``.

    Of two that hardly differ it is the larger, up to 1.5 times the own where that shows more of the sources.
    """
    best = views[0]
    for view in views[1:]:
        enlarged = side < _ENOUGH * view.size
        worth = max(WORTH[view.factor], WORTH_ENLARGED) if enlarged else WORTH[view.factor]
        enough = view.mean >= min(SEEN, best.mean)
        best = view if enough and view.mean > best.mean + worth else best
    return best


def _drawn(sources: Sequence[Found], tiles: int) -> tuple[list[Found], list[Found]]:
    """Judges, and others to compare them with, spread over all; fewer others where each has many tiles."""
    spread = spread_over(len(sources), LOOKED_AT)
    count = max(1, min(JUDGES, round(JUDGING * len(spread))))
    judges = set(spread[spread_over(len(spread), count)].tolist())
    others = [sources[i] for i in spread if i not in judges] or list(sources)
    most = max(FEWEST, 2 * LOOKED_AT // tiles)
    return [sources[i] for i in sorted(judges)], [others[i] for i in spread_over(len(others), most)]


def limit_of(normals: int) -> float:
    """The largest ``distinctness`` of so many normals at which patches are looked at."""
    return float(ALIKE - FALLS * np.log(min(normals, MOST) / ALIKE_OF))


def weight_of(seen: float) -> float:
    """What the whole image counts for: less where patches see more of the made defects."""
    return round(float(np.interp(seen, *WEIGHTS)), 3)


def _typical_side(judges: Sequence[Found], rules: Preprocessing) -> int:
    """The shorter side of what is looked at of the sources, or of a tile of that, in pixels."""
    sides = []
    for source in judges:
        with suppress(UnreadableImage):
            if isinstance(source, Source):
                width, height = covered(rules.reading, source_size(source.name))[2:]
                sides.append(int(min(tile_size(rules.tiles, (width, height)))))
            else:
                sides.append(0)
    return int(np.median(sides)) if sides else 0


def _factors(backbone: Backbone, side: int) -> list[float]:
    """Those that the network takes and that the sources have the pixels for, or nearly."""
    own = backbone.preprocessing.height
    wanted = [f for f in FACTORS if f == 1.0 or (ENLARGED * f * own <= side and f * own % 1 == 0)]
    return wanted if len(wanted) == 1 or _takes_any_size(backbone) else [1.0]


def _takes_any_size(backbone: Backbone) -> bool:
    """Whether the network has maps and nothing that depends on the size of the input."""
    size = round(FACTORS[1] * backbone.preprocessing.height)
    if not backbone.takes(size, size):
        return False
    with torch.no_grad():
        stages = PatchTrunk(backbone).body(torch.zeros(1, 3, size, size))
    return all(stage.ndim == 4 for stage in stages)


def _with_defects(
    judges: Sequence[Found], own: Preprocessing, factor: float, side: int
) -> dict[str, NDArray[np.uint8]]:
    """The judges, (n, H, W, 3), as they are (under an empty name) and with defects of each kind.

    They are drawn at the size of the sources, where that is smaller: what the camera blurs, defects share.
    """
    height, width = (max(16, min(round(length * factor), side)) for length in (own.height, own.width))
    rules = replace(own, height=height, width=width)
    images = [image.pixels for image in decoded_once(judges, rules) if isinstance(image, Decoded)]
    if not images:
        return {}
    made, seen = {"": np.stack(images)}, shown((width, height), own.reading.part)
    for number, (kind, maker) in enumerate(PATCH.items()):
        generator = np.random.default_rng(number)
        defects = [_defective(maker, image, generator, seen) for image in images for _ in range(DRAWN)]
        made[kind] = np.stack(defects)
    return made


def _defective(
    maker: Maker, image: Pixels, generator: np.random.Generator, seen: NDArray[np.bool_]
) -> Pixels:
    """A defect on an image, (H, W, 3), where most of it is ``seen``, (H, W): a mask may hide some places."""
    for _ in range(_TRIES):
        made = maker(image, generator)
        changed = (made != image).any(axis=-1)
        if seen[changed].sum() >= changed.sum() / 2:
            break
    return np.where(seen[..., None], made, image)


def _look(
    backbone: Backbone,
    factor: float,
    others: Sequence[Found],
    defects: dict[str, NDArray[np.uint8]],
    scratch: Path,
    progress: Progress,
) -> _View:
    """See how well the patches at one size tell the made defects."""
    own = backbone.preprocessing
    rules = replace(own, height=round(own.height * factor), width=round(own.width * factor))
    trunk, graph = PatchTrunk(backbone).eval(), scratch / "patches.onnx"
    write_onnx(FromPixels(rules, trunk), graph, rules, backbone.info)
    extractor, whitening = Extractor(graph, available_cores()), Whitening()
    total = len(others) * rules.tile_count
    images = counted(f"looking at {rules.height} px", decoded(others, rules), total, progress)
    kept: list[NDArray[np.float16]] = []
    for batch in extractor.embed(images):
        if not isinstance(batch, Unreadable):
            whitening.add(batch.outputs.image)
            kept.append(batch.outputs.image.astype(np.float16))
    if not kept or not defects:
        return _View(factor, rules.height, trunk, whitening, {}, 0.0)
    whiten = whitening.apply
    bank = Bank(_COMPARED_WITH)
    for part in kept:
        bank.add(whiten(part.astype(np.float32)), [""] * len(part))
    gallery, _ = PatchGallery.build(bank, seed=0)
    began = time.perf_counter()
    scores = {
        kind: np.concatenate(
            [
                peaks(gallery.maps(whiten(outputs.image)).distances)
                for outputs in extractor.run_all(_batches(_resized(pixels, rules.height)))
            ]
        )
        for kind, pixels in defects.items()
    }
    seconds = time.perf_counter() - began
    looks = sum(map(len, scores.values())) / rules.tile_count
    milliseconds = round(1e3 * seconds * available_cores() / looks, 1)
    seen = {kind: _auroc(scores[""], scores[kind]) for kind in scores if kind}
    return _View(factor, rules.height, trunk, whitening, seen, milliseconds)


def _resized(pixels: Pixels, size: int) -> Pixels:
    """(n, H, W, 3) at another size, by averaging."""
    if pixels.shape[1] == size:
        return pixels
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    small = functional.interpolate(tensor, (size, size), mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def _batches(pixels: Pixels) -> Iterator[Pixels]:
    return (pixels[i : i + BATCH] for i in range(0, len(pixels), BATCH))


def _auroc(normal: Features, anomalous: Iterable[float]) -> float:
    """Chance that a defective image scores above a normal one; ties count half."""
    return float(np.mean([np.mean(score > normal) + np.mean(score == normal) / 2 for score in anomalous]))
