"""Whether ``--fpr A`` keeps its bound: false alarms among normals over many random splits.

* Any ROOT with ``train/CLASS/*``: each class in turn is normal. With pretrained and with adapted features the
  gallery is what the training saw, and the rest is split at random into held-out normals and new ones, which
  are scored.
* Any folder with ``normal`` and ``incoming/good``, by what is looked at (``--folders``).
* Made data, independent and in sessions that differ from each other, held out image by image or whole.

The share of new normals called anomalous is compared with the interval in which 99 % of such means lie: given
the held-out normals, the alarms of a split are beta-binomial (Vovk 2012; Bates et al. 2023), and the
interval is that of the mean over all splits, drawn from it 100,000 times. Prints Markdown.

    python benchmarks/coverage.py --root benchmarks/data/fashion-mnist
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomscan.adapt.options import AdaptOptions, BackboneChoice, FocusChoice
from anomscan.fit.adapt import adapt
from anomscan.images.decode import decode_all
from anomscan.images.find import Found, Source, Unreadable, find_images
from anomscan.model.model import Model, read_model
from anomscan.pipeline import available_cores
from anomscan.scoring.base import knn_score
from anomscan.scoring.gallery import Gallery
from anomscan.screen.screener import Screener
from anomscan.stats.calibration import Calibration
from anomscan.types import Features, Outputs

RATES = (0.01, 0.05, 0.1)
Shares = list[tuple[float, ...]]


def alarms(gallery: Features, held_out: Features, names: list[str], new: Features) -> tuple[float, ...]:
    """Share of the new normals called anomalous at each of ``RATES``."""
    search = Gallery.build(gallery).search
    calibration = Calibration(held_out, knn_score(search(held_out, 2)[0]), names, names)
    p_values = calibration.p_values(knn_score(search(new, 2)[0]))
    return tuple(float((p_values <= rate).mean()) for rate in RATES)


def interval(rate: float, held_out: int, new: int, splits: int) -> tuple[float, float]:
    """Where 99 % of the means over ``splits`` beta-binomial shares lie."""
    generator = np.random.default_rng(0)
    places = int(rate * (held_out + 1) + 1e-9)
    mean = np.zeros(100_000)
    for _ in range(splits):
        share = generator.beta(places, held_out + 1 - places, size=len(mean))
        mean += generator.binomial(new, share) / (new * splits)
    low, high = np.quantile(mean, (0.005, 0.995))
    return float(low), float(high)


def line(name: str, shares: Shares, held_out: int, new: int) -> str:
    """One line of the table: mean share and interval at each rate, in %; bold where it lies outside."""
    cells = []
    for rate, share in zip(RATES, np.mean(shares, axis=0), strict=True):
        low, high = interval(rate, held_out, new, len(shares))
        text = f"{100 * share:.2f}" if low <= share <= high else f"**{100 * share:.2f}**"
        cells.append(f"{text} ({100 * low:.2f} to {100 * high:.2f})")
    return "| " + " | ".join([name, *cells]) + " |"


def embedded(model: Model, files: list[Path]) -> Features:
    """Their features."""
    sources: list[Found] = [Source(os.fspath(file)) for file in files]
    images = decode_all(sources, model.manifest.preprocessing, available_cores())
    batches = model.extractor.embed(images)
    return Outputs.joined([batch.outputs for batch in batches if not isinstance(batch, Unreadable)]).image


def adapted(files: list[Path], method: str, arguments: argparse.Namespace, scratch: Path) -> Model:
    """A model of those files alone."""
    normals = scratch / "normal"
    normals.mkdir()
    for file in files:
        (normals / file.name).symlink_to(file.resolve())
    steps = None if method == "none" else arguments.steps
    backbone = BackboneChoice(size=arguments.size)
    options = AdaptOptions(method=method, backbone=backbone, steps=steps)
    folder = os.fspath(scratch / "model")
    adapt(os.fspath(normals), folder, options, lambda *_: None)
    return read_model(folder, available_cores())


def images(arguments: argparse.Namespace, name: str, method: str) -> str:
    """The line of one class by one method; the gallery is what was trained on."""
    generator = np.random.default_rng(list(f"{name} {method}".encode()))
    files = sorted((arguments.root / "train" / name).iterdir())
    files = [files[i] for i in generator.permutation(len(files))[: arguments.images]]
    trained, rest = files[: arguments.gallery], files[arguments.gallery :]
    held_out, new = arguments.held_out, arguments.new
    with tempfile.TemporaryDirectory() as scratch:
        model = adapted(trained, method, arguments, Path(scratch))
        seen, unseen = model.gallery.vectors(), embedded(model, rest)
    names = [str(i) for i in range(held_out)]
    shares: Shares = []
    for _ in range(arguments.splits):
        order = generator.permutation(len(unseen))[: held_out + new]
        shares.append(alarms(seen, unseen[order[:held_out]], names, unseen[order[held_out:]]))
    return line(f"class {name}, {method}", shares, held_out, new)


def focused(root: Path, focus: str, arguments: argparse.Namespace) -> str:
    """The line of a folder by what is looked at; its ``incoming/good`` are split."""
    generator = np.random.default_rng(list(focus.encode()))
    with tempfile.TemporaryDirectory() as scratch:
        folder = os.fspath(Path(scratch) / "model")
        options = AdaptOptions(method="none", focus=FocusChoice(focus))
        adapt(os.fspath(root / "normal"), folder, options, lambda *_: None)
        model = read_model(folder, available_cores())
    screener, good = Screener(model), find_images(os.fspath(root / "incoming" / "good"))
    images = decode_all(good, model.manifest.preprocessing, available_cores())
    found = [scored.scores for scored in screener.stream(images) if not isinstance(scored, Unreadable)]
    scores = np.concatenate(found)
    held_out = 2 * len(scores) // 3
    names, features = [str(i) for i in range(held_out)], np.empty((held_out, 0), np.float32)
    shares: Shares = []
    for _ in range(arguments.splits):
        order = generator.permutation(len(scores))
        calibration = Calibration(features, scores[order[:held_out]], names, names)
        p_values = calibration.p_values(scores[order[held_out:]])
        shares.append(tuple(float((p_values <= rate).mean()) for rate in RATES))
    looks = model.manifest.focus.looks
    return line(f"{root.name}, `--focus {focus}` ({looks})", shares, held_out, len(scores) - held_out)


def made(
    generator: np.random.Generator, sessions: int, each: int, spread: float
) -> tuple[Features, NDArray[np.int64]]:
    """Unit vectors of 16 numbers around one direction, in sessions apart by ``spread``; their sessions."""
    shift = np.repeat(generator.normal(size=(sessions, 16)) * spread, each, axis=0)
    x = generator.normal(size=(sessions * each, 16)) * 0.3 + np.eye(16)[0] + shift
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x.astype(np.float32), np.repeat(np.arange(sessions), each)


def made_data(splits: int) -> Iterator[str]:
    """The lines of made data: 199 held-out images, and 199 held-out sessions of 5."""
    generator = np.random.default_rng(0)
    shares: Shares = []
    for _ in range(splits):
        x, _ = made(generator, 699, 1, 0.0)
        shares.append(alarms(x[:300], x[300:499], [str(i) for i in range(199)], x[499:]))
    yield line("made, independent", shares, 199, 200)
    alone: Shares = []
    whole: Shares = []
    for _ in range(splits):
        x, session = made(generator, 598, 5, 0.3)
        gallery, held_out, new = x[:995], x[995:1990], x[1990:]
        whole.append(alarms(gallery, held_out, [str(s) for s in session[995:1990]], new[::5]))
        order = generator.permutation(1990)
        names = [str(i) for i in range(995)]
        alone.append(alarms(x[order[:995]], x[order[995:]], names, new[::5]))
    yield line("made, sessions held out whole (`--group-by`)", whole, 199, 199)
    yield line("made, sessions held out image by image", alone, 199, 199)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, help="without it, made data only")
    parser.add_argument("--folders", nargs="+", type=Path, default=[], help="with normal, incoming/good")
    parser.add_argument("--classes", nargs="+", default=["0", "5"])
    parser.add_argument("--method", nargs="+", default=["none", "panda-es"])
    parser.add_argument("--steps", type=int, default=20, help="of adapting [20]")
    parser.add_argument("--images", type=int, default=2500, help="of a class [2500]")
    parser.add_argument("--gallery", type=int, default=500)
    parser.add_argument("--held-out", type=int, default=199)
    parser.add_argument("--new", type=int, default=500)
    parser.add_argument("--splits", type=int, default=50)
    parser.add_argument("--size", type=int, default=128)
    arguments = parser.parse_args()

    print("| normals | " + " | ".join(f"`--fpr {rate}`" for rate in RATES) + " |")
    print("|---" * (len(RATES) + 1) + "|")
    for text in made_data(arguments.splits):
        print(text, flush=True)
    if arguments.root is not None:
        for name in arguments.classes:
            for method in arguments.method:
                print(images(arguments, name, method), flush=True)
    for root in arguments.folders:
        for focus in ("image", "patch", "both", "auto"):
            print(focused(root, focus, arguments), flush=True)
    print(
        f"\nFalse alarms in %, mean of {arguments.splits} splits (and where 99 % of such means lie); "
        f"{available_cores()} cores of {platform.machine()}, Python {platform.python_version()}, "
        f"numpy {np.__version__}; {datetime.date.today().isoformat()}"
    )


if __name__ == "__main__":
    main()
