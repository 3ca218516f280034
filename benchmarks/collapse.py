"""Whether a collapse does harm: training without PANDA's clip and for ten times the steps, one class normal.

Without the clip (PANDA appendix D) every feature soon is the centre and nothing is told from anything;
``panda-es`` ends there. ``auto`` on the same run, by the same loss and steps, is to keep what was before.
Prints AUROC, and what ``auto`` measured.

    python benchmarks/collapse.py --root /data/cifar10 --class airplane
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from protocols import Run, make_task, measure

from anomscan.adapt.presets import PRESETS
from anomscan.model.folder import read_manifest


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--class", dest="class_", nargs="+", required=True)
    parser.add_argument("--normals", type=int, default=500)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--longer", type=int, default=10, help="times the steps of the preset [10]")
    arguments = parser.parse_args()
    classes = sorted(path.name for path in (arguments.root / "train").iterdir())
    panda = PRESETS["panda-es"]
    steps = arguments.longer * panda.optimisation.steps
    panda = replace(panda, optimisation=replace(panda.optimisation, clip=None, steps=steps))
    auto = PRESETS["auto"]
    watched = replace(panda, stopping=auto.stopping, readout=auto.readout, scorer=auto.scorer)
    PRESETS.update({"panda-es": panda, "auto": watched})
    for method in ("none", "panda-es", "auto"):
        for name in arguments.class_:
            run = Run("one-vs-rest", name, method, arguments.normals, arguments.test, arguments.size, 1.0, 0)
            with tempfile.TemporaryDirectory() as scratch:
                found = measure(arguments.root, run, make_task(run.protocol, name, classes), Path(scratch))
                trained = read_manifest(f"{scratch}/model").method
            rounded = {key: round(value, 1) for key, value in found.items()}
            print(name, method, f"{arguments.size} px", rounded)
            print("   ", trained.steps, "steps;", trained.selection, flush=True)


if __name__ == "__main__":
    main()
