"""All normals calibrate: whether ``--fpr A`` keeps its bound then, and what it catches with few normals.

Every normal is scored by the others, as ``--holdout 0`` does it, and no image is held out; beside that a
fifth is held out, as by default. Networks are run once over all images; whatever is fitted to normals is
fitted again for every split, to its normals alone.

* Made data: unit vectors, any number of normals, drawn anew for every split.
* Any ROOT with ``train/CLASS/*``: the features of each class, split at random.
* Any folder with ``normal`` and ``incoming/bad``: whole images, and patches beside them. Normals that are not
  drawn are new ones, and what of ``incoming/bad`` is called anomalous is the power.

Where a split has n normals and m new ones, the alarms at a rate A are those of a rank among n + 1: on average
at most floor(A (n + 1)) / (n + 1). The interval in which 99 % of the means over all splits lie is that of
exact p-values, drawn as in ``coverage.py``: where normals are scored by each other, the means lie in it or
below. Prints Markdown.

    python benchmarks/few_normals.py --root benchmarks/data/fashion-mnist --folders /tmp/data/screw
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from coverage import interval, made
from numpy.typing import NDArray

from anomscan.adapt.backbones import Backbone, load_backbone
from anomscan.adapt.patches import PatchTrunk, Whitening
from anomscan.adapt.stage_readout import features_of
from anomscan.adapt.whitening import POWER, RootedFeatures
from anomscan.fit.embed import Embedded
from anomscan.fit.held_out import HeldOut, Kept
from anomscan.images.decode import decode_all
from anomscan.images.find import Found, Source
from anomscan.model.manifest import HoldOut
from anomscan.pipeline import available_cores
from anomscan.scoring.bank import Bank
from anomscan.scoring.base import Scorer
from anomscan.scoring.focused import Focused
from anomscan.scoring.info import ScorerInfo
from anomscan.scoring.knn import Knn
from anomscan.types import Features, Outputs

RATES, COARSE = (0.01, 0.05, 0.1), (0.05, 0.1, 0.2)
SIZES = (19, 40, 90, 300)
WEIGHT = 0.25
"""Of the whole image beside patches."""


@dataclass(frozen=True)
class Images:
    """What a network gives of n images before anything is fitted: (n, D), and patches or None."""

    heads: Features
    patches: NDArray[np.float16] | None = None

    def at(self, rows: np.ndarray) -> Images:
        """Some of them."""
        return Images(self.heads[rows], None if self.patches is None else self.patches[rows])


class Fitted:
    """A scorer of some normals, with all that is fitted to them.

    Args:
        normals: all that there are, held-out ones, too.
        kept: the positions of those in the gallery.
        power: of the readout's whitening, None for features that are taken as they are.
    """

    def __init__(self, normals: Images, kept: np.ndarray, power: float | None) -> None:
        self.power, gallery = power, normals.at(kept)
        self.readout = None if power is None else RootedFeatures(gallery.heads, power=power)
        self.whitening: Whitening | None = None
        scorer: Scorer = Knn(ScorerInfo("knn", 2, "euclidean"))
        names = [str(i) for i in kept]
        if gallery.patches is not None:
            self.whitening = Whitening()
            self.whitening.add(gallery.patches.astype(np.float32))
        compared = self.outputs(gallery)
        if compared.patches is not None:
            bank = Bank()
            bank.add(compared.patches, names)
            scorer = Focused.of(scorer, "both", bank, 0, WEIGHT)
        scorer.fit(Outputs(compared.image), 0)
        self.scorer, self.names = scorer, names
        others = np.setdiff1d(np.arange(len(normals.heads)), kept)
        calibrating = others if len(others) else kept
        outputs = self.outputs(normals.at(calibrating))
        images = Embedded("", [str(i) for i in calibrating], Outputs(outputs.image), [], "")
        patches = None
        if outputs.patches is not None:
            patches = Kept()
            patches.add(outputs.patches, images.paths)
        if len(others):
            stored = None if patches is None else patches.patches()
            held_out = HeldOut.of(images, HoldOut(), {}, stored)
        else:
            held_out = HeldOut.every(images, "none", {}, patches)
        self.calibration = held_out.scored(scorer, names)[0]

    def outputs(self, images: Images) -> Outputs:
        """As the network of these normals would give them."""
        heads = images.heads
        if self.readout is not None:
            heads = self.readout(torch.from_numpy(heads)).numpy()
        if images.patches is None or self.whitening is None:
            return Outputs(heads)
        return Outputs(heads, self.whitening.apply(images.patches.astype(np.float32)))

    def p_values(self, images: Images) -> np.ndarray:
        """Theirs."""
        outputs = self.scorer.compared(self.outputs(images))
        return self.calibration.p_values(self.scorer.score(outputs, self.scorer.info.k))


def everything(count: int, _: np.random.Generator) -> np.ndarray:
    """All are in the gallery."""
    return np.arange(count)


def four_fifths(count: int, generator: np.random.Generator) -> np.ndarray:
    """A fifth is not."""
    return np.sort(generator.permutation(count)[round(0.2 * count) :])


Choice = Callable[[int, np.random.Generator], np.ndarray]
HOW: dict[str, tuple[Choice, float]] = {
    "all calibrate": (everything, 0.0),
    "all, whitened readout": (everything, POWER),
    "a fifth held out": (four_fifths, POWER),
}


def coverage(name: str, draw: Callable[[int], tuple[Features, Features]], splits: int) -> Iterator[str]:
    """A line for each number of normals; ``draw`` gives as many, and new ones, ready to be compared."""
    for count in SIZES:
        shares = []
        for _ in range(splits):
            normals, new = draw(count)
            fitted = Fitted(Images(normals), np.arange(count), None)
            p_values = fitted.p_values(Images(new))
            shares.append([(p_values <= rate).mean() for rate in RATES])
        cells = []
        for rate, share in zip(RATES, np.mean(shares, axis=0), strict=True):
            if rate < 1 / (count + 1):
                cells.append("refused")
                continue
            low, high = interval(rate, count, len(new), splits)
            text = f"{100 * share:.2f}" if share <= high else f"**{100 * share:.2f}**"
            cells.append(f"{text} ({100 * low:.2f} to {100 * high:.2f})")
        yield "| " + " | ".join([name, str(count), *cells]) + " |"


def drawn(generator: np.random.Generator) -> Callable[[int], tuple[Features, Features]]:
    """Made data."""

    def draw(count: int) -> tuple[Features, Features]:
        x, _ = made(generator, count + 200, 1, 0.0)
        return x[:count], x[count:]

    return draw


def of_a_class(x: Features, generator: np.random.Generator) -> Callable[[int], tuple[Features, Features]]:
    """Features of one class; whatever is not a normal is new, 200 at most."""

    def draw(count: int) -> tuple[Features, Features]:
        order = generator.permutation(len(x))[: count + 200]
        return x[order[:count]], x[order[count:]]

    return draw


def run_over(files: list[Path], patches: bool, size: int, cache: Path) -> Images:
    """The network's features of images, once: they are kept in ``cache``."""
    if cache.exists():
        with np.load(cache) as arrays:
            return Images(arrays["heads"], arrays["patches"] if patches else None)
    backbone = load_backbone("tf_efficientnet_lite0", None, size)
    heads = read(backbone, [backbone.model], files)
    cache.parent.mkdir(parents=True, exist_ok=True)
    if not patches:
        np.savez(cache, heads=heads)
        return Images(heads)
    found = read(backbone, [PatchTrunk(backbone).eval()], files).astype(np.float16)
    np.savez(cache, heads=heads, patches=found)
    return Images(heads, found)


def read(backbone: Backbone, modules: list[torch.nn.Module], files: list[Path]) -> Features:
    """What ``modules`` give of every file."""
    sources: list[Found] = [Source(os.fspath(file)) for file in files]
    with tempfile.TemporaryDirectory() as scratch:
        images = decode_all(sources, backbone.preprocessing, available_cores())
        return features_of(modules, backbone, images, Path(scratch))


def power(root: Path, count: int, splits: int, looks: str, cache: Path) -> Iterator[str]:
    """A line for each way to calibrate ``count`` normals: false alarms and what is caught."""
    patches = looks == "both"
    good, bad = (
        run_over(
            sorted((root / what).iterdir()), patches, 224, cache / f"{root.name} {what.name} {looks}.npz"
        )
        for what in (Path("normal"), Path("incoming/bad"))
    )
    found: dict[str, list[list[float]]] = {how: [] for how in HOW}
    for split in range(splits):
        generator = np.random.default_rng(split)
        order = generator.permutation(len(good.heads))
        normals, new = good.at(order[:count]), good.at(order[count : count + 100])
        some = bad.at(generator.permutation(len(bad.heads))[:100])
        for how, (choose, whitening) in HOW.items():
            fitted = Fitted(normals, choose(count, generator), whitening)
            alarms, caught = fitted.p_values(new), fitted.p_values(some)
            smallest = 1 / (fitted.calibration.groups + 1)
            row = []
            for rate in COARSE:
                reached = rate >= smallest
                row += [float((p <= rate).mean()) if reached else np.nan for p in (alarms, caught)]
            found[how].append(row)
    for how, rows in found.items():
        values = np.mean(rows, axis=0)
        pairs = zip(values[::2], values[1::2], strict=True)
        cells = ["refused" if np.isnan(a) else f"{100 * a:.1f} / {100 * c:.1f}" for a, c in pairs]
        yield "| " + " | ".join([f"{root.name}, {looks}", how, *cells]) + " |"


def costs(count: int, rounds: int) -> Iterator[str]:
    """What p-values cost where a fifth of so many normals is held out, and where all calibrate; in turn."""
    generator = np.random.default_rng(0)
    heads = generator.normal(size=(count + 64, 1280)).astype(np.float32)
    normals, incoming = Images(heads[:count]), Images(heads[count:])
    begun = {}
    fitted: dict[str, Fitted] = {}
    for how, kept in (("a fifth held out", np.arange(count * 4 // 5)), ("none", np.arange(count))):
        start = time.perf_counter()
        fitted[how] = Fitted(normals, kept, None)
        begun[how] = time.perf_counter() - start
    seconds: dict[str, list[float]] = {how: [] for how in fitted}
    for _ in range(rounds):
        for how, model in fitted.items():
            start = time.perf_counter()
            model.p_values(incoming)
            seconds[how].append(time.perf_counter() - start)
    split, full = (1e3 * float(np.median(times)) / 64 for times in seconds.values())
    yield (
        f"{count} normals of 1,280 numbers: search and p-value of an image take {split:.2f} ms with a "
        f"fifth held out and {full:.2f} with none, {full / split:.2f} times as long; the scores of all that "
        f"calibrate take {begun['a fifth held out']:.1f} and {begun['none']:.1f} s, once"
    )


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, help="class folders")
    parser.add_argument("--classes", nargs="+", default=["0", "5"])
    parser.add_argument("--images", type=int, default=1000, help="of a class [1000]")
    parser.add_argument("--folders", nargs="+", type=Path, default=[], help="with normal, incoming/bad")
    parser.add_argument("--looks", nargs="+", default=["image", "both"])
    parser.add_argument("--normals", type=int, default=40)
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--draws", type=int, default=10, help="of the normals of a folder [10]")
    parser.add_argument("--costs", type=int, default=0, metavar="N", help="time p-values by N normals")
    parser.add_argument("--made", action="store_true", help="made data, too")
    parser.add_argument("--cache", type=Path, default=Path("benchmarks/data/few"))
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)

    if arguments.made or arguments.root:
        print("| normals | n | " + " | ".join(f"`--fpr {rate}`" for rate in RATES) + " |")
        print("|---" * (len(RATES) + 2) + "|")
    if arguments.made:
        for text in coverage("made", drawn(np.random.default_rng(0)), arguments.splits):
            print(text, flush=True)
    for name in arguments.classes if arguments.root else []:
        files = sorted((arguments.root / "train" / name).iterdir())[: arguments.images]
        x = run_over(files, False, 128, arguments.cache / f"{arguments.root.name} {name}.npz").heads
        roots = RootedFeatures(x, power=0.0)(torch.from_numpy(x)).numpy()
        draw = of_a_class(roots, np.random.default_rng(1))
        for text in coverage(f"class {name}", draw, arguments.splits):
            print(text, flush=True)
    for root in arguments.folders:
        for looks in arguments.looks:
            for text in power(root, arguments.normals, arguments.draws, looks, arguments.cache):
                print(text, flush=True)
    if arguments.costs:
        for text in costs(arguments.costs, 21):
            print(text, flush=True)
    print(
        f"\n{arguments.splits} splits, {arguments.draws} draws; "
        f"{available_cores()} cores of {platform.machine()}, Python {platform.python_version()}, "
        f"numpy {np.__version__}; {datetime.date.today().isoformat()}"
    )


if __name__ == "__main__":
    main()
