r"""The papers' own training loops on one class of ROOT (``train/CLASS/*``, ``test/CLASS/*``), step by step.

    python benchmarks/reference/run.py --root /data/cifar10 --class cat --method msc --rate 1e-3 --steps 200 \
        --scratch /tmp/reference

Of the class ``--normals`` are learnt from and a fifth as many held out. ``--test`` images, a third of them
of the class and the rest evenly of all others, are scored by the sum of the distances to the k = 2 nearest
normals: Euclidean (DN2, PANDA), by the cosine (MSC), by the readout of the tool (root, a little whitened),
and by that readout of the pretrained features and the adapted ones beside each other. ``reference.csv``
gets a line for every step that is measured. A run that has its lines is not repeated; one that was cut off
or ended by ``--minutes`` continues from the state in ``--scratch``, where the features of every measured
step stay too. Of one thread, unless ``--threads`` says more: run one process a core. ``--views``,
``--learns``, ``--batch-norm`` and ``--space`` vary one thing at a time.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import itertools
import os
import time
from pathlib import Path

import numpy as np
import torch
from msc import MeanShifted
from network import LEARNS, Images, Network, activations_of, read
from numpy.typing import NDArray
from panda import Panda
from torch import Tensor

from anomscan.adapt.whitening import RootedFeatures
from anomscan.stats.measures import Floats, auroc
from anomscan.types import Features

RESULTS = Path(__file__).parent / "reference.csv"
KEY = (
    "set",
    "class",
    "size",
    "normals",
    "test",
    "seed",
    "method",
    "rate",
    "learns",
    "batch_norm",
    "views",
    "space",
)
VARIED = ("class_", "space", "views", "rate")
FIGURES = (
    "step",
    "loss",
    "held_out_loss",
    "euclidean",
    "cosine",
    "readout",
    "beside",
    "cpu_seconds",
    "seconds",
    "threads",
    "date",
)
Bed = dict[str, Tensor]


class Spent:
    """Seconds of all cores, and by the clock, from here on."""

    def __init__(self) -> None:
        self._began = self._now()

    def since(self) -> NDArray[np.float64]:
        """Both, (2,)."""
        return self._now() - self._began

    @staticmethod
    def _now() -> NDArray[np.float64]:
        return np.array([time.process_time(), time.monotonic()])


def bed(arguments: argparse.Namespace, network: Network) -> tuple[NDArray[np.uint8], Bed]:
    """The normals' pixels; the activations of held-out normals, two views of each, and tests.

    They stay in ``--scratch`` for further runs on the same class.
    """
    kept = arguments.scratch / f"bed_{bed_name(arguments)}.pt"
    if kept.exists():
        pixels, activations = torch.load(kept, weights_only=True)
        return pixels.numpy(), activations
    random = np.random.default_rng(arguments.seed)
    held_out, good_images = arguments.normals // 5, arguments.test // 3
    bad_images = arguments.test - good_images
    name, root = arguments.class_, arguments.root

    def drawn(folder: Path, count: int) -> list[Path]:
        files = sorted(folder.iterdir())
        return [files[i] for i in random.permutation(len(files))[:count]]

    files = drawn(root / "train" / name, arguments.normals + held_out)
    pixels = read(files[: arguments.normals], network.preprocessing)
    apart = read(files[arguments.normals :], network.preprocessing)
    others = [other for other in sorted(os.listdir(root / "test")) if other != name]
    good = drawn(root / "test" / name, good_images)
    bad = [file for other in others for file in drawn(root / "test" / other, -(-bad_images // len(others)))]
    images = {"good": read(good, network.preprocessing), "bad": read(bad, network.preprocessing)}
    two = Images(network, apart, 0, arguments.seed)
    activations = {kind: activations_of(network, shown) for kind, shown in images.items()}
    activations |= {"held out": two.plain, "views": two.two_views(0, np.arange(len(apart)))}
    torch.save((torch.from_numpy(pixels), activations), kept)
    return pixels, activations


def bed_name(arguments: argparse.Namespace) -> str:
    """What the activations depend on."""
    parts = (arguments.size, arguments.normals, arguments.test, arguments.learns, arguments.seed)
    return "_".join(map(str, (arguments.root.name, arguments.class_, *parts)))


def features_of(network: Network, images: Images, activations: Bed) -> dict[str, Features]:
    """The features of everything, by the network as it is."""
    found = {kind: network.features(shown) for kind, shown in activations.items() if kind != "views"}
    return {"normals": network.features(images.plain), **found}


def measured(features: dict[str, Features], pretrained: dict[str, Features]) -> dict[str, float]:
    """AUROC in % by each way of scoring."""
    kinds = ("normals", "good", "bad")
    anomalous = np.repeat([False, True], [len(features["good"]), len(features["bad"])])
    raw = [features[kind] for kind in kinds]
    unit = [scaled(some) for some in raw]
    both = [np.hstack([scaled(pretrained[kind]), some]) for kind, some in zip(kinds, unit, strict=True)]
    ways = {"euclidean": raw, "cosine": unit, "readout": read_out(raw), "beside": read_out(both)}
    return {
        name: 100 * auroc(nearest(normals, np.concatenate(tests)), anomalous)
        for name, (normals, *tests) in ways.items()
    }


def scaled(features: Features) -> Features:
    """To norm 1."""
    unit: Features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return unit


def read_out(features: list[Features]) -> list[Features]:
    """As the tool does, by the first of them, the normals'."""
    rooted = RootedFeatures(features[0])
    with torch.no_grad():
        return [rooted(torch.from_numpy(some)).numpy() for some in features]


def nearest(gallery: Floats, queries: Floats, k: int = 2) -> NDArray[np.float64]:
    """Sum of the squared Euclidean distances of each query to its k nearest."""
    squares = (
        np.square(queries).sum(axis=1)[:, None] + np.square(gallery).sum(axis=1) - 2 * queries @ gallery.T
    )
    sums: NDArray[np.float64] = (
        np.partition(squares, k - 1, axis=1)[:, :k].clip(0).sum(axis=1, dtype=np.float64)
    )
    return sums


def lines(results: Path) -> list[dict[str, str]]:
    """The results so far."""
    if not results.exists():
        return []
    with results.open(newline="") as file:
        return list(csv.DictReader(file))


def append(results: Path, line: dict[str, object]) -> None:
    """Add a line, under its heads."""
    new = not results.exists()
    with results.open("a", newline="") as file:
        writer = csv.DictWriter(file, (*KEY, *FIGURES), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(line)


def method_of(arguments: argparse.Namespace, network: Network, images: Images) -> Panda | MeanShifted:
    """The loop that is asked for."""
    if arguments.method.startswith("panda"):
        elastic = arguments.method == "panda-ewc"
        return Panda(network, images, rate=arguments.rate, space=arguments.space, elastic=elastic)
    return MeanShifted(network, images, rate=arguments.rate, angular=arguments.method == "msc-angular")


def run(arguments: argparse.Namespace, end: float) -> None:
    """Train, measure at ``--measure-at``, and continue where it stopped, until ``end`` by the clock."""
    key = {name: str(getattr(arguments, name)) for name in KEY[2:]}
    key = {"set": arguments.root.name, "class": arguments.class_, **key}
    due = sorted({0, *arguments.measure_at, arguments.steps})  # what is measured later needs the first
    have = {int(line["step"]) for line in lines(arguments.results) if all(line[k] == key[k] for k in key)}
    if have >= set(due):
        return
    state = arguments.scratch / ("_".join(key.values()).replace("/", "-") + ".pt")
    kept = torch.load(state, weights_only=True) if state.exists() else None
    network = Network.load(arguments.size, arguments.learns, arguments.scratch, arguments.threads)
    pixels, activations = bed(arguments, network)
    before = Spent()
    views = arguments.scratch / f"views_{bed_name(arguments)}_{arguments.views}.pt"
    images = Images(network, pixels, int(arguments.views), arguments.seed, views)
    method = method_of(arguments, network, images)
    network.learning.train(arguments.batch_norm == "train")
    step, spent, losses = 0, before.since(), [float("nan")]
    if kept is not None:
        network.learning.load_state_dict(kept["learning"])
        method.optimiser.load_state_dict(kept["optimiser"])
        step, spent = kept["step"], np.array(kept["spent"])
    while True:
        if step in due and step not in have:
            found = features_of(network, images, activations)
            if step:
                with np.load(state.with_suffix(".0.npz")) as start:
                    pretrained = {kind: some.astype(np.float32) for kind, some in start.items()}
            else:
                pretrained = found
            figures = {
                "step": step,
                "loss": f"{np.mean(losses[-20:]):.5f}",
                "held_out_loss": f"{method.held_out(activations['held out'], activations['views']):.5f}",
                **{name: f"{value:.2f}" for name, value in measured(found, pretrained).items()},
                "cpu_seconds": round(spent[0], 1),
                "seconds": round(spent[1], 1),
                "threads": arguments.threads,
                "date": datetime.date.today().isoformat(),
            }
            half = {name: some.astype(np.float16) for name, some in found.items()}
            np.savez(state.with_suffix(f".{step}.npz"), **half)  # type: ignore[arg-type]
            append(arguments.results, {**key, **figures})
            print(*key.values(), *figures.values(), flush=True)
        over = time.monotonic() > end
        if over or step in due:
            torch.save(
                {
                    "learning": network.learning.state_dict(),
                    "optimiser": method.optimiser.state_dict(),
                    "step": step,
                    "spent": spent.tolist(),
                },
                state,
            )
        if step == arguments.steps:
            return
        if over:
            print(*key.values(), "step", step, "to be continued", flush=True)
            return
        step += 1
        before = Spent()
        losses.append(method.step(step, images.batch(step, method.batch)))
        spent += before.since()


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--class", dest="class_", nargs="+", required=True)
    parser.add_argument("--method", choices=("panda", "panda-ewc", "msc", "msc-angular"), required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--measure-at", type=int, nargs="*", default=[0, 25, 50, 100, 200])
    parser.add_argument("--rate", type=float, nargs="+", required=True)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--normals", type=int, default=1000)
    parser.add_argument("--test", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--views", nargs="+", default=["0"], help="made once of every image; 0: fresh at every step [0]"
    )
    parser.add_argument("--learns", choices=tuple(LEARNS), default="last-two")
    parser.add_argument("--batch-norm", choices=("eval", "train"), default="eval")
    parser.add_argument(
        "--space",
        nargs="+",
        choices=("raw", "unit", "standardised", "root", "half"),
        default=["raw"],
        help="of panda's loss",
    )
    parser.add_argument("--minutes", type=float, default=1e9, help="end, to be continued, after that many")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    end = time.monotonic() + 60 * arguments.minutes
    for values in itertools.product(*(getattr(arguments, name) for name in VARIED)):
        if time.monotonic() > end:
            print("to be continued")
            break
        run(argparse.Namespace(**{**vars(arguments), **dict(zip(VARIED, values, strict=True))}), end)


if __name__ == "__main__":
    main()
