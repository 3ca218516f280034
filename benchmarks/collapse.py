"""Whether a collapse does harm: training without PANDA's clip and for ten times the steps, one class normal.

Without the clip (PANDA appendix D) every feature soon is the centre and nothing is told from anything;
``panda-es`` ends there, ``auto`` is to keep what was before. Prints AUROC, and what ``auto`` measured.

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
    parser.add_argument("--longer", type=int, default=10, help="times the steps of the preset [10]")
    arguments = parser.parse_args()
    classes = sorted(path.name for path in (arguments.root / "train").iterdir())
    for method, size in (("none", 96), ("panda-es", 96), ("none", 224), ("auto", 224)):
        preset = PRESETS[method]
        own = preset.optimisation
        unclipped = replace(own, clip=None, steps=arguments.longer * own.steps)
        PRESETS[method] = replace(preset, optimisation=unclipped)
        for name in arguments.class_:
            run = Run("one-vs-rest", name, method, arguments.normals, arguments.test, size, 1.0, 0)
            with tempfile.TemporaryDirectory() as scratch:
                found = measure(arguments.root, run, make_task(run.protocol, name, classes), Path(scratch))
                trained = read_manifest(f"{scratch}/model").method
            print(name, method, f"{size} px", {key: round(value, 1) for key, value in found.items()})
            print("   ", trained.steps, "steps;", trained.selection, flush=True)
        PRESETS[method] = preset


if __name__ == "__main__":
    main()
