"""Do views teach a network to overlook what is wrong? Anomalous are images of the normal class, changed.

Mean-shifted contrastive learning takes two views of an image for the same, and views differ in colour, grey,
blur, crop and side (appendix A.3). ``--method`` adapts to ``--normals`` of ``train/CLASS``; scored are
``--test`` of ``test/CLASS`` as they are, and after every change below. Prints the AUROC in % of the changed
against the unchanged ones.

    python benchmarks/changed.py --root /data/cifar10 --class dog --method none auto
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from protocols import draw, linked, scores

from anomscan.adapt.options import AdaptOptions, BackboneChoice
from anomscan.fit.adapt import adapt
from anomscan.stats.measures import auroc

Change = Callable[[Image.Image], Image.Image]


def _turned(image: Image.Image) -> Image.Image:
    red, green, blue = image.split()
    return Image.merge("RGB", (green, blue, red))


def _noisy(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image)
    noise = np.random.default_rng(pixels.sum(dtype=np.int64)).normal(0, 10, pixels.shape)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


def _zoomed(image: Image.Image) -> Image.Image:
    width, height = image.size
    box = (width / 4, height / 4, 3 * width / 4, 3 * height / 4)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=box)


CHANGES: dict[str, Change] = {
    "grey": lambda image: image.convert("L").convert("RGB"),
    "colours turned": _turned,
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "zoomed": _zoomed,
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "upside down": lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    "noise": _noisy,
}
"""The first five are what views are made of; the last two are not."""


def changed(files: list[Path], folder: Path) -> str:
    """A folder with a subfolder a change, of every file."""
    for name, change in CHANGES.items():
        (folder / name).mkdir(parents=True)
        for file in files:
            with Image.open(file) as image:
                change(image.convert("RGB")).save(folder / name / f"{file.stem}.png")
    return os.fspath(folder)


def measure(arguments: argparse.Namespace, method: str, scratch: Path) -> dict[str, float]:
    """AUROC in % by change."""
    generator = np.random.default_rng(arguments.seed)
    normals = draw(arguments.root / "train", [arguments.class_], arguments.normals, generator)
    good = draw(arguments.root / "test", [arguments.class_], arguments.test, generator)
    model = os.fspath(scratch / "model")
    options = AdaptOptions(method, BackboneChoice(size=arguments.size), seed=arguments.seed)
    adapt(linked(scratch / "normal", normals), model, options, lambda *_: None)
    plain, _ = scores(model, linked(scratch / "good", good))
    bad, kinds = scores(model, changed(good, scratch / "bad"))
    return {name: against(plain, bad[np.array(kinds) == name]) for name in CHANGES}


def against(plain: NDArray[np.float32], bad: NDArray[np.float32]) -> float:
    """AUROC in % of ``bad`` against ``plain``."""
    anomalous = np.repeat([False, True], [len(plain), len(bad)])
    return 100 * auroc(np.concatenate([plain, bad]), anomalous)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--class", dest="class_", required=True)
    parser.add_argument("--method", nargs="+", default=["none", "auto"])
    parser.add_argument("--normals", type=int, default=1000)
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print("| | " + " | ".join(CHANGES) + " |")
    print("|---" * (1 + len(CHANGES)) + "|")
    for method in arguments.method:
        with tempfile.TemporaryDirectory() as scratch:
            found = measure(arguments, method, Path(scratch))
        print(f"| {method} | " + " | ".join(f"{value:.1f}" for value in found.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
