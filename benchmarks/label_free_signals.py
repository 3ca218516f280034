"""Which label-free signal ranks the checkpoints of a training run as the truth does?

For every task (a class normal, or all but one) a preset trains on most of the normals. At each checkpoint
the signals of ``anomscan.adapt.label_free.Checkpoint`` are measured on the rest, and, with labels, what they
are to predict: the AUROC of test images, other objects anomalous (``truth``), and of made local defects on
test normals that no signal uses (``local_truth``: holes and thin cracks). A results CSV gets a line a
checkpoint; a run that has its lines is not repeated. ``--table`` prints how each signal goes with the truth.

    python benchmarks/label_free_signals.py --root benchmarks/data/fashion-mnist --classes 0 1 2 3 4
"""

from __future__ import annotations

import argparse
import copy
import csv
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from protocols import draw, make_task

from anomscan import DEFAULT_BACKBONE
from anomscan.adapt.activations import ActivationCache, cache_activations
from anomscan.adapt.backbones import load_backbone
from anomscan.adapt.folders import decoded
from anomscan.adapt.label_free import Selecting
from anomscan.adapt.made_anomalies import GLOBAL, KINDS, LOCAL, batched
from anomscan.adapt.onnx_export import FromPixels, write_onnx
from anomscan.adapt.presets import find_preset
from anomscan.adapt.stopping import Training
from anomscan.adapt.trainer import Trainer
from anomscan.adapt.views import Augmentation, View
from anomscan.images.find import find
from anomscan.network.extractor import Extractor
from anomscan.pipeline import available_cores
from anomscan.scoring.base import knn_score
from anomscan.scoring.gallery import Gallery
from anomscan.stats.measures import auroc
from anomscan.types import Pixels

RESULTS = Path(__file__).parent / "label_free_signals.csv"
MEMORY = 4e9
SIGNALS = ("effective_rank", "spread", *KINDS, "left_out_cluster")
COMBINED = {
    "mean of local kinds": tuple(LOCAL),
    "mean of global kinds": tuple(GLOBAL),
    "mean of all kinds (auto)": tuple(KINDS),
    "mean of all kinds and clusters": (*KINDS, "left_out_cluster"),
}
COLUMNS = ("protocol", "task", "method", "step", "truth", "local_truth", *SIGNALS)


def defect(image: Pixels, generator: np.random.Generator) -> Pixels:
    """A hole of the background's colour, or a thin crack, somewhere on the object."""
    height, width, _ = image.shape
    grey = image.mean(axis=2)
    background = image[0, 0]
    rows, columns = np.nonzero(np.abs(grey - background.mean()) > 20)
    where = generator.integers(len(rows)) if len(rows) else 0
    row, column = (rows[where], columns[where]) if len(rows) else (height // 2, width // 2)
    y, x = np.mgrid[:height, :width]
    damaged = image.copy()
    if generator.random() < 0.5:
        damaged[(y - row) ** 2 + (x - column) ** 2 < (0.05 * height) ** 2] = background
    else:
        angle = generator.uniform(0, np.pi)
        along = (x - column) * np.cos(angle) + (y - row) * np.sin(angle)
        across = (y - row) * np.cos(angle) - (x - column) * np.sin(angle)
        damaged[(np.abs(along) < 0.15 * height) & (np.abs(across) < 0.01 * height)] = 255 - background
    return damaged


class Watching(Selecting):
    """Measures every checkpoint, never ends the training, and asks the labels too."""

    def __init__(self, training: Training, tests: ActivationCache, anomalous: NDArray[np.bool_]) -> None:
        super().__init__(training)
        self._tests, self._anomalous = tests, anomalous
        self.truths: list[tuple[float, float]] = []

    def after_step(self, step: int) -> bool:
        """Measure the checkpoint if it is due, collapsed or not."""
        known = len(self.curve)
        super().after_step(step)
        if len(self.curve) > known:
            gallery = Gallery.build(self._features(self._normals, 0))
            whole, damaged = (
                knn_score(gallery.search(self._features(self._tests, view), 2)[0]) for view in (0, 1)
            )
            normal = ~self._anomalous
            local = np.repeat([False, True], normal.sum())
            self.truths.append(
                (
                    100 * auroc(whole, self._anomalous),
                    100 * auroc(np.concatenate([whole[normal], damaged[normal]]), local),
                )
            )
        return True


def measure(
    root: Path, protocol: str, name: str, method: str, arguments: argparse.Namespace
) -> list[dict[str, object]]:
    """Train once and return a line for every checkpoint."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    task = make_task(protocol, name, sorted(os.listdir(root / "train")))
    generator = np.random.default_rng((0, int(task.primary[0].encode().hex(), 16) % 2**32))
    normals = draw(root / "train", task.primary, arguments.normals, generator)
    tests = draw(root / "test", sorted(os.listdir(root / "test")), arguments.test, np.random.default_rng(0))
    preset = find_preset(method)
    optimisation = replace(preset.optimisation, steps=arguments.steps or preset.optimisation.steps)
    backbone = load_backbone(DEFAULT_BACKBONE, None, arguments.size)
    trunk, tail = preset.trainable.split(backbone)
    with tempfile.TemporaryDirectory() as scratch:
        graph = Path(scratch) / "trunk.onnx"
        write_onnx(FromPixels(backbone.preprocessing, trunk), graph, backbone.preprocessing, backbone.info)
        extractor = Extractor(graph, available_cores())

        def cached(files: list[Path], views: list[View]) -> ActivationCache:
            images = decoded(find(map(os.fspath, files)), backbone.preprocessing)
            cache = cache_activations(extractor, images, len(files), views=views, memory=MEMORY)
            assert cache is not None
            return cache

        count = len(normals) // 5
        augmentation = Augmentation(arguments.size, arguments.size)
        trained = cached(normals[count:], [augmentation] * preset.views)
        held_out = cached(normals[:count], [batched(kind, i) for i, kind in enumerate(KINDS.values())])
        tested = cached(tests, [batched(defect, 99)])
    anomalous = np.array([Path(path).parent.name in task.anomalous for path in tested.paths])
    watching = Watching(Training(tail, optimisation.steps, trained, held_out, seed=0), tested, anomalous)
    watching.after_step(0)
    assert preset.objective is not None
    objective = copy.deepcopy(preset.objective)
    trainer = Trainer(tail, objective, optimisation, trained, seed=0, device=torch.device("cpu"))
    trainer.run(lambda step, _: watching.after_step(step))
    lines = []
    for checkpoint, (truth, local) in zip(watching.curve, watching.truths, strict=True):
        signals = {"effective_rank": checkpoint.effective_rank, "spread": checkpoint.spread}
        signals |= {**checkpoint.made, "left_out_cluster": checkpoint.left_out_cluster}
        figures = {"truth": truth, "local_truth": local, **signals}
        lines.append(
            {"protocol": protocol, "task": name, "method": method, "step": checkpoint.step}
            | {key: round(value, 4) for key, value in figures.items()}
        )
    return lines


def spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Rank correlation; ties by order, NaN where either does not vary."""
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (x, y)]
    return float(np.corrcoef(*ranks)[0, 1]) if np.ptp(x) > 0 and np.ptp(y) > 0 else float("nan")


def table(lines: list[dict[str, str]]) -> None:
    """Print, for each signal, how it ranks the checkpoints of a run and whether its sign is right."""
    runs: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for line in lines:
        runs.setdefault((line["protocol"], line["task"], line["method"]), []).append(line)
    signals = {**{name: (name,) for name in SIGNALS}, **COMBINED}
    targets = ("truth", "local_truth")
    print("| signal | " + " | ".join(f"{t}: rank correlation | {t}: same sign" for t in targets) + " |")
    print("|---" * (1 + 2 * len(targets)) + "|")
    for signal, parts in signals.items():
        cells = []
        for target in targets:
            correlations, agreements = [], []
            for run in runs.values():
                truth = np.array([float(line[target]) for line in run])
                value = np.mean([[float(line[part]) for line in run] for part in parts], axis=0)
                correlations.append(spearman(value, truth))
                agreements += list(np.sign(value[1:] - value[0]) == np.sign(truth[1:] - truth[0]))
            cells += [f"{np.nanmean(correlations):+.2f}", f"{100 * np.mean(agreements):.0f} %"]
        print(f"| {signal} | " + " | ".join(cells) + " |")
    changes = [[float(run[-1][t]) - float(run[0][t]) for run in runs.values()] for t in targets]
    print(f"\n{len(runs)} runs; truth from first to last checkpoint: "
          + "; ".join(f"{t} {np.mean(c):+.2f} ({min(c):+.2f} to {max(c):+.2f})"
                      for t, c in zip(targets, changes, strict=True)))  # fmt: skip


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path)
    parser.add_argument("--method", nargs="+", default=["auto"])
    parser.add_argument("--protocol", nargs="+", default=["one-vs-rest", "hold-one-out"])
    parser.add_argument("--classes", nargs="+", default=["0", "1", "2", "3", "4"])
    parser.add_argument("--normals", type=int, default=500)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--steps", type=int, help="default: the preset's")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the results so far and stop")
    arguments = parser.parse_args()
    lines: list[dict[str, str]] = []
    if arguments.results.exists():
        with open(arguments.results, newline="") as file:
            lines = list(csv.DictReader(file))
    if arguments.table:
        table(lines)
        return
    have = {(line["protocol"], line["task"], line["method"]) for line in lines}
    for method in arguments.method:
        for name in arguments.classes:
            for protocol in arguments.protocol:
                if (protocol, name, method) in have:
                    continue
                began = time.monotonic()
                measured = measure(arguments.root, protocol, name, method, arguments)
                new = not arguments.results.exists()
                with open(arguments.results, "a", newline="") as file:
                    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                    if new:
                        writer.writeheader()
                    writer.writerows(measured)
                truths = [line["truth"] for line in measured]
                print(protocol, name, method, truths, f"{time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
