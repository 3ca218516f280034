"""How long ``adapt --method msc-angular`` takes, and the same training without the activation cache.

One run measures both sides on the same normals: the tool, from the folder to the finished model; and plain
torch, a loop that sends every augmented view through the whole network at every step, the frozen stages
without gradients, all cores as torch uses them. Both train the same stages by the same objective with the
same batches. Of the plain loop ``--plain-steps`` are timed, in two halves around the tool's run, and their
mean is multiplied: the ratio is that of the time to the preset's number of steps, filling the cache counted.

    python benchmarks/adapt_speed.py --normal benchmarks/data/fashion-mnist/train/0
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from anomscan import DEFAULT_BACKBONE
from anomscan.adapt.backbones import load_backbone
from anomscan.adapt.folders import decoded
from anomscan.adapt.options import AdaptOptions, BackboneChoice
from anomscan.adapt.presets import find_preset
from anomscan.adapt.views import Augmentation
from anomscan.fit.adapt import adapt
from anomscan.images.decode import Decoded
from anomscan.images.find import find
from anomscan.pipeline import available_cores
from anomscan.types import Pixels


class Clock:
    """Takes progress and keeps when each part of the run began."""

    def __init__(self) -> None:
        self.began: dict[str, float] = {}
        self.steps = 0

    def __call__(self, what: str, done: int, total: int | None, remark: str) -> None:
        """See ``types.Progress``."""
        self.began.setdefault(what, time.monotonic())
        if what == "adapting":
            self.steps, self.last_step = done, time.monotonic()


def plain_steps(folder: Path, method: str, size: int) -> Iterator[float]:
    """Seconds of every step of the loop without a cache."""
    preset = find_preset(method)
    backbone = load_backbone(DEFAULT_BACKBONE, None, size)
    trunk, tail = preset.trainable.split(backbone)
    side = backbone.preprocessing.height
    images = decoded(find([os.fspath(folder)]), backbone.preprocessing)
    pixels: Pixels = np.stack([image.pixels for image in images if isinstance(image, Decoded)])
    augmentation = Augmentation(side, side)
    mean, std = (
        torch.tensor(v).reshape(1, 3, 1, 1) for v in (backbone.preprocessing.mean, backbone.preprocessing.std)
    )

    def features(batch: Pixels) -> torch.Tensor:
        normalised = (torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255 - mean) / std
        with torch.no_grad():
            activations = trunk(normalised)
        output: torch.Tensor = tail(activations)
        return output

    assert preset.objective is not None
    objective = copy.deepcopy(preset.objective)
    with torch.no_grad():
        objective.prepare(features(pixels[:64]), 0)
    rates = preset.optimisation
    optimizer = torch.optim.SGD(
        [p for p in tail.parameters() if p.requires_grad], lr=rates.rate, momentum=rates.momentum
    )
    generator = np.random.default_rng(0)
    while True:
        began = time.monotonic()
        batch = pixels[generator.permutation(len(pixels))[: rates.batch]]
        views = np.concatenate([augmentation(batch) for _ in range(objective.views)])
        optimizer.zero_grad()
        objective(features(views), torch.empty(0), None).backward()
        optimizer.step()
        yield time.monotonic() - began


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--normal", type=Path, required=True)
    parser.add_argument("--method", default="msc-angular")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--plain-steps", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "normal"
        folder.mkdir()
        for path in sorted(arguments.normal.iterdir())[: arguments.images]:
            (folder / path.name).symlink_to(path.resolve())
        plain = plain_steps(folder, arguments.method, arguments.size)
        half = arguments.plain_steps // 2
        seconds = [next(plain) for _ in range(half)]
        clock = Clock()
        began = time.monotonic()
        choice = BackboneChoice(size=arguments.size)
        adapt(
            str(folder),
            os.path.join(scratch, "model"),
            AdaptOptions(method=arguments.method, backbone=choice),
            clock,
        )
        whole = time.monotonic() - began
        seconds += [next(plain) for _ in range(half)]
    training = clock.last_step - clock.began["reading the normals"]
    per_step = float(np.mean(seconds))
    print(f"{arguments.images} normals at {arguments.size} px, {arguments.method}, {clock.steps} steps; "
          f"{available_cores()} cores of {platform.machine()}, torch {torch.__version__}")  # fmt: skip
    print(f"adapt, from folder to model: {whole:.0f} s")
    print(f"  of which reading, cache, checkpoints and steps: {training:.0f} s")
    print(f"plain torch: {per_step:.2f} s a step (median {np.median(seconds):.2f}), "
          f"{per_step * clock.steps:.0f} s for {clock.steps} steps")  # fmt: skip
    print(f"ratio to the same number of steps: {per_step * clock.steps / training:.1f}")


if __name__ == "__main__":
    main()
