"""DN2 one-vs-rest: one class is normal, the whole test set is ranked, AUROC for every class.

Any ROOT with ``train/CLASS/*`` and ``test/CLASS/*`` will do; ``class_folders.py`` makes one of
Fashion-MNIST. All training images go through ``anomscan index`` once; each class's gallery is its
share of that index. Prints a Markdown table with machine, versions and date.

    python benchmarks/fashion_mnist.py --root benchmarks/data/fashion-mnist
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
from pathlib import Path

import numpy as np

from anomscan.adapt.options import BackboneChoice
from anomscan.errors import ModelNotFound
from anomscan.fit.index import IndexOptions, index
from anomscan.images.decode import decode_all
from anomscan.images.find import Unreadable, find
from anomscan.model.folder import read_manifest
from anomscan.model.model import Model, read_model
from anomscan.pipeline import available_cores
from anomscan.scoring.base import knn_score
from anomscan.scoring.gallery import Gallery
from anomscan.scoring.reduction import Reduction
from anomscan.stats.measures import auroc
from anomscan.types import Features, Outputs


def report(what: str, done: int, total: int | None, remark: str) -> None:
    """Print a line now and then."""
    if total and done % 5000 == 0:
        print(f"{what}: {done} of {total} {remark}", flush=True)


def indexed(root: Path, name: str, size: int | None) -> Model:
    """The model of all training images, in ``root``; an earlier run's is used again."""
    folder = os.fspath(root / name)
    try:
        read_manifest(folder)
    except ModelNotFound:
        index(os.fspath(root / "train"), folder, IndexOptions(BackboneChoice(size=size), "knn"), report)
    return read_model(folder, available_cores())


def embedded(model: Model, folder: Path) -> tuple[Features, list[str]]:
    """Features of all images below ``folder``, and the class of each: its folder's name."""
    parts, labels = [], []
    images = decode_all(find([os.fspath(folder)]), model.manifest.preprocessing, available_cores())
    for batch in model.extractor.embed(images):
        if not isinstance(batch, Unreadable):
            parts.append(batch.outputs)
            labels += [Path(image.path).parent.name for image in batch.images]
    return Outputs.joined(parts).image, labels


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--k", type=int, default=2)
    parser.add_argument("--normals", type=int, help="normals a class, the first in order [all]")
    parser.add_argument(
        "--centroids", type=int, nargs="+", default=[], metavar="K", help="further rows: K k-means centroids"
    )
    parser.add_argument("--size", type=int, help="side of the input in pixels [the backbone's]")
    arguments = parser.parse_args()

    model = indexed(arguments.root, f"model-{arguments.size or 'full'}", arguments.size)
    vectors = model.gallery.vectors()
    trained = np.array([Path(path).parent.name for path in model.normals])
    queries, labels = embedded(model, arguments.root / "test")
    tested = np.array(labels)
    rows = []
    for reduction in (None, *(Reduction("kmeans", clusters) for clusters in arguments.centroids)):
        areas = {}
        for normal in sorted(set(labels)):
            features = vectors[trained == normal][: arguments.normals]
            if reduction is not None:
                features, _ = reduction.apply(features, "cosine", seed=0)
            distances, _ = Gallery.build(features).search(queries, arguments.k)
            areas[normal] = 100 * auroc(knn_score(distances), tested != normal)
        name = str(reduction or arguments.normals or "all")
        rows.append([name, *(f"{a:.1f}" for a in areas.values()), f"{np.mean(list(areas.values())):.2f}"])

    print("| " + " | ".join(["normals a class", *areas, "mean"]) + " |")
    print("|---" * (len(areas) + 2) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    versions = ", ".join(f"{name} {version}" for name, version in model.manifest.versions.items())
    manifest = model.manifest
    print(
        f"\nDN2, {manifest.backbone.name}, {manifest.preprocessing.width} px, cosine, k = {arguments.k}; "
        f"{available_cores()} cores of {platform.machine()}, {versions}; {datetime.date.today().isoformat()}"
    )


if __name__ == "__main__":
    main()
