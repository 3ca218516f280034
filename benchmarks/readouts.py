"""How the unadapted head is best read out: raw, by the cosine, rooted, rooted and a little whitened.

    python benchmarks/readouts.py classes /data/cifar10 --cache /tmp/cifar10
    python benchmarks/readouts.py folders /data/screw --cache /tmp/screw

``classes`` takes ``train/CLASS/*`` and ``test/CLASS/*``; ``folders`` takes ``normal``, ``incoming/good`` and
``incoming/bad``. Images are embedded once by the default backbone, as the tool does it, and their features
kept in ``--cache``: a run continues where it stopped. Every line appended to ``readouts.csv`` is one task,
with the AUROC in % by each readout (k = 2). The power of the whitening was chosen on the classes 0 to 4 of
CIFAR-10 and Fashion-MNIST, both protocols, and screw.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from anomscan.adapt.backbones import load_backbone
from anomscan.adapt.onnx_export import FromPixels, write_onnx
from anomscan.adapt.whitening import RootedFeatures
from anomscan.images.decode import decode_all
from anomscan.images.find import Unreadable, find_images
from anomscan.network.extractor import Extractor
from anomscan.pipeline import available_cores
from anomscan.scoring.base import knn_score
from anomscan.scoring.gallery import Gallery
from anomscan.stats.measures import auroc
from anomscan.types import Features, Preprocessing

HERE = Path(__file__).resolve().parent
OUT = HERE / "readouts.csv"
READOUTS = ("euclidean", "cosine", "rooted", "rooted, whitened")
Embed = Callable[[Path], Features]
Task = tuple[str, str, Features, Features, NDArray[np.bool_]]


def embedder(cache: Path, size: int | None, most: int | None) -> Embed:
    """Head features of every image below a folder, (n, D), from the cache where they are there."""
    backbone = load_backbone(size=size)
    with tempfile.TemporaryDirectory() as scratch:
        graph = Path(scratch) / "head.onnx"
        module = FromPixels(backbone.preprocessing, backbone.model)
        write_onnx(module, graph, backbone.preprocessing, backbone.info)
        extractor = Extractor(graph, available_cores())
    cache.mkdir(parents=True, exist_ok=True)

    def embed(folder: Path) -> Features:
        file = cache / f"{'-'.join(folder.parts[-2:])}-{most or 'all'}.npy"
        if not file.exists():
            np.save(file, run(extractor, folder, backbone.preprocessing, most))
        features: Features = np.load(file)
        return features

    return embed


def run(extractor: Extractor, folder: Path, preprocessing: Preprocessing, most: int | None) -> Features:
    """Embed the images below a folder, or ``most`` of them drawn at random (seed 0)."""
    sources = find_images(str(folder))
    order = np.random.default_rng(0).permutation(len(sources))[:most]
    decoded = decode_all([sources[i] for i in sorted(order)], preprocessing, available_cores())
    batches = extractor.embed(decoded)
    return np.concatenate([batch.outputs.image for batch in batches if not isinstance(batch, Unreadable)])


def class_tasks(root: Path, embed: Embed, protocol: str, most_normals: int | None) -> Iterator[Task]:
    """One class normal, or all but one; every other test image is anomalous."""
    names = sorted(folder.name for folder in (root / "train").iterdir())
    train = {name: embed(root / "train" / name) for name in names}
    test = {name: embed(root / "test" / name) for name in names}
    queries = np.concatenate(list(test.values()))
    of = np.repeat(np.arange(len(names)), [len(found) for found in test.values()])
    for i, name in enumerate(names):
        if protocol == "one-vs-rest":
            normals, anomalous = train[name], of != i
        else:
            normals, anomalous = np.concatenate([train[n] for n in names if n != name]), of == i
        order = np.random.default_rng(0).permutation(len(normals))[:most_normals]
        yield protocol, name, normals[np.sort(order)], queries, anomalous


def folder_tasks(root: Path, embed: Embed) -> Iterator[Task]:
    """Normal, good and bad images."""
    good, bad = embed(root / "incoming" / "good"), embed(root / "incoming" / "bad")
    labels = np.repeat([False, True], [len(good), len(bad)])
    yield "folders", root.name, embed(root / "normal"), np.concatenate([good, bad]), labels


def measured(normals: Features, queries: Features, anomalous: NDArray[np.bool_]) -> list[float]:
    """AUROC in % by each of ``READOUTS``."""
    rooted = RootedFeatures(normals)

    def scored(read: Callable[[Features], Features], metric: str = "euclidean") -> float:
        gallery = Gallery.build(read(normals), "cosine" if metric == "cosine" else "euclidean")
        return 100 * auroc(knn_score(gallery.search(read(queries), 2)[0]), anomalous)

    def unit(features: Features) -> Features:
        scaled: Features = features / np.linalg.norm(features, axis=1, keepdims=True)
        return scaled

    def whitened(features: Features) -> Features:
        with torch.no_grad():
            output: Features = rooted(torch.from_numpy(features)).numpy()
            return output

    return [
        scored(lambda features: features),
        scored(unit, "cosine"),
        scored(lambda features: unit(np.sqrt(features.clip(0)))),
        scored(whitened),
    ]


def main() -> None:
    """Measure, append, and print the means."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=("classes", "folders"))
    parser.add_argument("root", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--protocol", nargs="+", default=["one-vs-rest", "hold-one-out"])
    parser.add_argument("--size", type=int, help="side of the input in pixels [the backbone's]")
    parser.add_argument("--images", type=int, help="of each folder, at most [all]")
    parser.add_argument("--normals", type=int, help="of each task, at most [all]")
    arguments = parser.parse_args()
    embed = embedder(arguments.cache, arguments.size, arguments.images)
    for protocol in arguments.protocol if arguments.kind == "classes" else ("folders",):
        tasks = (
            class_tasks(arguments.root, embed, protocol, arguments.normals)
            if arguments.kind == "classes"
            else folder_tasks(arguments.root, embed)
        )
        figures = []
        for _, name, normals, queries, anomalous in tasks:
            figures.append(measured(normals, queries, anomalous))
            row = [arguments.root.name, protocol, name, arguments.size or "own", len(normals), len(queries)]
            with OUT.open("a", newline="") as file:
                csv.writer(file).writerow([*row, *(f"{figure:.2f}" for figure in figures[-1])])
            print(*row, *(f"{figure:.2f}" for figure in figures[-1]), flush=True)
        means = np.mean(figures, axis=0)
        print("mean", protocol, *(f"{name} {mean:.2f}" for name, mean in zip(READOUTS, means, strict=True)))


if __name__ == "__main__":
    main()
