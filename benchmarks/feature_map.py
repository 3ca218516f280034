"""Draw where normals and anomalies lie, before and after adapting: a t-SNE map of each method's features.

    pip install scikit-learn
    python benchmarks/feature_map.py --root /data/cifar10 --class dog --method none auto --to dog.png

One map a method, side by side: of ``--each`` test images of the class (blue) and as many of all others (a
colour a class), as the model compares them. The papers draw such maps (DN2, fig. 6; Transfer-Based, fig. 3).
Distances on a map are not those of the features; the title gives the AUROC by those, in %.
"""

from __future__ import annotations

import argparse
import colorsys
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from protocols import draw, linked, scores
from sklearn.manifold import TSNE

from anomscan.adapt.options import AdaptOptions, BackboneChoice
from anomscan.fit.adapt import adapt
from anomscan.images.decode import decode_all
from anomscan.images.find import Source
from anomscan.model.model import read_model
from anomscan.network.extractor import Batch
from anomscan.pipeline import available_cores
from anomscan.stats.measures import auroc
from anomscan.types import Features

SIDE, MARGIN, DOT = 600, 30, 4
Colour = tuple[int, int, int]


def features_of(model: str, files: list[Path]) -> Features:
    """The image's features of every file, (n, D), as the model compares them."""
    loaded = read_model(model, available_cores())
    sources = [Source(os.fspath(file)) for file in files]
    decoded = decode_all(sources, loaded.manifest.preprocessing, available_cores())
    batches = [batch for batch in loaded.extractor.embed(decoded) if isinstance(batch, Batch)]
    return np.concatenate([batch.outputs.image for batch in batches])


def colours(names: list[str], normal: str) -> dict[str, Colour]:
    """Blue for the normal class, others evenly from red to green and brown, all lighter."""
    others = [name for name in names if name != normal]
    found: dict[str, Colour] = {normal: (20, 60, 200)}
    for i, name in enumerate(others):
        red, green, blue = colorsys.hsv_to_rgb(0.38 * i / max(1, len(others) - 1), 0.75, 0.9)
        found[name] = round(255 * red), round(255 * green), round(255 * blue)
    return found


def panel(places: NDArray[np.float32], dots: list[Colour], title: str) -> Image.Image:
    """A map: ``places`` is (n, 2), of any scale."""
    image = Image.new("RGB", (SIDE, SIDE + MARGIN), "white")
    pen = ImageDraw.Draw(image)
    low, high = places.min(axis=0), places.max(axis=0)
    scaled = MARGIN + (places - low) / (high - low) * (SIDE - 2 * MARGIN)
    for (x, y), colour in zip(scaled.tolist(), dots, strict=True):
        pen.ellipse((x - DOT, MARGIN + y - DOT, x + DOT, MARGIN + y + DOT), fill=colour)
    pen.text((MARGIN, 10), title, fill="black")
    return image


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--class", dest="class_", required=True)
    parser.add_argument("--method", nargs="+", default=["none", "auto"])
    parser.add_argument("--normals", type=int, default=500)
    parser.add_argument("--each", type=int, default=400)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--to", type=Path, required=True, help="a picture")
    arguments = parser.parse_args()
    root, name, generator = arguments.root, arguments.class_, np.random.default_rng(arguments.seed)
    names = sorted(os.listdir(root / "test"))
    normals = draw(root / "train", [name], arguments.normals, generator)
    shown = draw(root / "test", [name], arguments.each, generator)
    shown += draw(root / "test", [other for other in names if other != name], arguments.each, generator)
    by_class = colours(names, name)
    dots = [by_class[file.parent.name] for file in shown]
    panels = []
    for method in arguments.method:
        with tempfile.TemporaryDirectory() as scratch:
            model = os.path.join(scratch, "model")
            options = AdaptOptions(method, BackboneChoice(size=arguments.size), seed=arguments.seed)
            adapt(linked(Path(scratch, "normal"), normals), model, options, lambda *_: None)
            values, classes = scores(model, linked(Path(scratch, "shown"), shown))
            features = features_of(model, shown)
        area = 100 * auroc(values, np.array(classes) != name)
        places = TSNE(init="pca", random_state=0).fit_transform(features)
        panels.append(panel(places, dots, f"{method}: AUROC {area:.1f}"))
    picture = Image.new("RGB", (SIDE * len(panels), SIDE + MARGIN))
    for i, drawn in enumerate(panels):
        picture.paste(drawn, (SIDE * i, 0))
    picture.save(arguments.to)


if __name__ == "__main__":
    main()
