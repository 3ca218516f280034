"""A preset of the tool on the images and by the measures of ``run.py``, to see what its shortcuts cost.

    python benchmarks/reference/tool.py --root /data/cifar10 --class cat --preset msc --scratch /tmp/reference

The preset's own trainer, objective and optimisation, over activations that are made once. ``reference.csv``
gets a line, its method ``tool PRESET``.
"""

from __future__ import annotations

import argparse
import copy
import datetime
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from network import Images, Network
from run import KEY, RESULTS, Spent, append, bed, bed_name, features_of, measured

from anomscan.adapt.activations import ActivationCache
from anomscan.adapt.presets import find_preset
from anomscan.adapt.trainables import Everything
from anomscan.adapt.trainer import Trainer


def main() -> None:
    """Train and measure once."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--class", dest="class_", required=True)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--steps", type=int, help="[the preset's]")
    parser.add_argument("--rate", type=float, help="[the preset's]")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--normals", type=int, default=1000)
    parser.add_argument("--test", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of what is made once; training has all cores")
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    preset = find_preset(arguments.preset)
    own = preset.optimisation
    by = replace(own, steps=arguments.steps or own.steps, rate=arguments.rate or own.rate)
    arguments.learns = "all" if isinstance(preset.trainable, Everything) else "last-two"
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)
    network = Network.load(arguments.size, arguments.learns, arguments.scratch, arguments.threads)
    pixels, activations = bed(arguments, network)
    before = Spent()
    kept = arguments.scratch / f"views_{bed_name(arguments)}_{preset.views}.pt"
    images = Images(network, pixels, preset.views, arguments.seed, kept)
    views = [view.numpy() for view in images.every_view]
    cache = ActivationCache(len(views), len(pixels), views[0].shape[1:], memory=8e9)
    cache.append([str(i) for i in range(len(pixels))], views)
    assert preset.objective is not None
    objective = copy.deepcopy(preset.objective)
    trainer = Trainer(network.learning, objective, by, cache, arguments.seed, torch.device("cpu"))
    losses: list[float] = []

    def keep(_: int, loss: float) -> bool:
        losses.append(loss)
        return True

    spent = before.since()
    pretrained = features_of(network, images, activations)
    before = Spent()
    trainer.run(keep)
    spent += before.since()
    key = {name: getattr(arguments, name) for name in ("size", "normals", "test", "seed", "learns")}
    key |= {"set": arguments.root.name, "class": arguments.class_, "method": f"tool {arguments.preset}"}
    key |= {"rate": by.rate, "batch_norm": "eval", "views": preset.views, "space": ""}
    assert set(key) == set(KEY)
    found = features_of(network, images, activations)
    figures = {name: f"{value:.2f}" for name, value in measured(found, pretrained).items()}
    figures |= {"step": str(by.steps), "loss": f"{np.mean(losses[-20:]):.5f}"}
    figures |= {"cpu_seconds": f"{spent[0]:.1f}", "seconds": f"{spent[1]:.1f}"}
    figures |= {"threads": str(arguments.threads), "date": datetime.date.today().isoformat()}
    append(arguments.results, {**key, **figures})
    print(*key.values(), figures, flush=True)


if __name__ == "__main__":
    main()
