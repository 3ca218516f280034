"""Speed, as ratios of what was measured side by side in one run; each figure is the median of 5.

* ``throughput``: ``score`` of 2,000 PNGs of 300 x 300 and of 200 JPEGs of 12 megapixels against its bound,
  cores / (core-seconds to decode and resize one image + core-seconds of its forward pass), both measured
  alone on one thread, and against the forward pass alone. Once as a process, once without its start.
* ``start``: a process that scores one image against one that imports the libraries, loads the graph and runs
  it once; ``anomscan --help`` against ``import typer, rich``.
* ``patches``: ``score`` of 1,000 PNGs by patches and the whole image against the whole image alone, in the
  same input of 224 px; ``index`` of 300 of them with a model that is there.
* ``int8``: an 8-bit extractor against the float one.
* ``gallery``: query time and recall@2 of the index that ``--gallery`` normals get, of features of
  Fashion-MNIST below ``--root`` (see ``class_folders.py``), each moved at random as far as its own nearest
  neighbour lies; queries are features of test images. One core. Needs 12 GB for 1,000,000.
* ``memory``: peak memory of ``score`` of ``--images`` images.

    python benchmarks/speed.py --root benchmarks/data/fashion-mnist
    python benchmarks/speed.py gallery --gallery 1000000 --root benchmarks/data/fashion-mnist
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from fashion_mnist import embedded, indexed
from PIL import Image

from anomscan.adapt.options import BackboneChoice, FocusChoice
from anomscan.fit.index import IndexOptions, index
from anomscan.fit.int8 import make_int8
from anomscan.images.decode import decode
from anomscan.images.find import find
from anomscan.model.folder import read_manifest, verified
from anomscan.model.model import Model, read_model
from anomscan.network.extractor import BATCH, Extractor
from anomscan.network.network import EXTRACTOR
from anomscan.pipeline import available_cores
from anomscan.scoring.gallery import Gallery
from anomscan.screen.run import ScoreJob, run
from anomscan.types import Features

REPEATS = 5
SAMPLES = Path(__file__).parent.parent / "sample_data" / "normal"
QUERIES = 1000
BARE = """
import sys, numpy, PIL.Image, onnxruntime, faiss, typer
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
pixels = numpy.zeros((1, 224, 224, 3), numpy.uint8)
session.run(None, {session.get_inputs()[0].name: pixels})
"""
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""  # from a small process: a child starts with the peak of its parent
Run = Callable[[], float]


def medians(**runs: Run) -> dict[str, float]:
    """Take turns, so that a slow minute of the machine hits all alike."""
    values: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(REPEATS):
        for name, timed in runs.items():
            values[name].append(timed())
    return {name: statistics.median(of) for name, of in values.items()}


def process(*command: str | Path) -> float:
    """Seconds until a process has ended."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def photographs(folder: Path, count: int, size: tuple[int, int], suffix: str, distinct: int) -> Path:
    """A folder of the sample images, enlarged to ``size`` and grainy; ``distinct`` of them, then links."""
    folder.mkdir()
    samples = sorted(SAMPLES.iterdir())
    generator = np.random.default_rng(0)
    for i in range(count):
        path = folder / f"{i:06}.{suffix}"
        if i >= distinct:
            os.link(folder / f"{i % distinct:06}.{suffix}", path)
            continue
        with Image.open(samples[i % len(samples)]) as sample:
            pixels = np.asarray(sample.convert("RGB").resize(size, Image.Resampling.BICUBIC), np.int16)
        grain = generator.integers(-3, 4, pixels.shape, np.int16)
        Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return folder


def throughput(model: Model, folder: str, scratch: Path) -> None:
    """Print the ratios for PNGs and for large JPEGs."""
    pngs = photographs(scratch / "png", 2000, (300, 300), "png", 200)
    jpegs = photographs(scratch / "jpeg", 200, (4000, 3000), "jpg", 10)
    for name, images in (("2,000 PNGs of 300 x 300", pngs), ("200 JPEGs of 12 megapixels", jpegs)):
        paths = sorted(map(os.fspath, images.iterdir()))
        sample = paths[: min(200, len(paths) // 5)]
        pixels = np.stack([decode(path, model.manifest.preprocessing).pixels for path in sample])

        def decoding(sample: list[str] = sample) -> float:
            began = time.process_time()
            for path in sample:
                decode(path, model.manifest.preprocessing)
            return (time.process_time() - began) / len(sample)

        def forward(pixels: np.ndarray = pixels) -> float:
            began = time.process_time()
            for start in range(0, len(pixels), BATCH):
                model.extractor.run(pixels[start : start + BATCH])
            return (time.process_time() - began) / len(pixels)

        def scoring(images: Path = images, count: int = len(paths)) -> float:
            began = time.perf_counter()
            run(ScoreJob(find([os.fspath(images)]), model), lambda *_: None).ranking.close()
            return (time.perf_counter() - began) / count

        def command(images: Path = images, count: int = len(paths)) -> float:
            return process("-m", "anomscan", "score", images, "--model", folder, "-o", os.devnull) / count

        seconds = medians(decode=decoding, forward=forward, score=scoring, process=command)
        alone = seconds["forward"] / available_cores()
        bound = alone + seconds["decode"] / available_cores()
        print(
            f"{name}: of a core decode {1e3 * seconds['decode']:.1f} ms, forward pass "
            f"{1e3 * seconds['forward']:.1f} ms; score {1 / seconds['score']:.0f} images/s\n"
            f"    of the bound: {bound / seconds['score']:.2f} (the whole process "
            f"{bound / seconds['process']:.2f}); of the forward pass alone: {alone / seconds['score']:.2f}",
            flush=True,
        )


def start(folder: str) -> None:
    """Print what starting costs."""
    graph = verified(folder, read_manifest(folder), EXTRACTOR)
    image = min(SAMPLES.iterdir())
    seconds = medians(
        bare=lambda: process("-c", BARE, graph),
        score=lambda: process("-m", "anomscan", "score", image, "--model", folder, "-o", os.devnull),
        imports=lambda: process("-c", "import typer, rich"),
        help=lambda: process("-m", "anomscan", "--help"),
    )
    print(
        f"cold score of one image: {seconds['score'] / seconds['bare']:.2f} of the bare imports and one run "
        f"({1e3 * seconds['score']:.0f} ms)\n"
        f"--help: {seconds['help'] / seconds['imports']:.2f} of import typer, rich "
        f"({1e3 * seconds['help']:.0f} ms)",
        flush=True,
    )


def patches(scratch: Path) -> None:
    """Print what looking at patches costs."""
    images = photographs(scratch / "patches", 1000, (300, 300), "png", 300)
    normals = photographs(scratch / "normals", 300, (300, 300), "png", 300)
    folders = {looks: os.fspath(scratch / looks) for looks in ("image", "both")}
    for looks, folder in folders.items():
        options = IndexOptions(BackboneChoice(size=224), focus=FocusChoice(looks))
        index(os.fspath(normals), folder, options, lambda *_: None)

    def scoring(folder: str) -> float:
        return process("-m", "anomscan", "score", images, "--model", folder, "-o", os.devnull) / 1000

    seconds = medians(
        image=lambda: scoring(folders["image"]),
        both=lambda: scoring(folders["both"]),
        index=lambda: process("-m", "anomscan", "index", normals, "--model", folders["both"]),
    )
    print(
        f"patches at 224 px: {seconds['image'] / seconds['both']:.2f} of the images a second without "
        f"({1 / seconds['both']:.0f} against {1 / seconds['image']:.0f}); index of 300 with a model "
        f"{seconds['index']:.1f} s",
        flush=True,
    )


def int8(model: Model, folder: str, scratch: Path) -> None:
    """Print what 8 bits gain and cost on the sample images."""
    graph, out = verified(folder, model.manifest, EXTRACTOR), scratch / "int8.onnx"
    sources = list(find([os.fspath(SAMPLES)]))
    info = make_int8(graph, out, sources, model.manifest.preprocessing, "cosine", force=True)
    small = Extractor(out, available_cores())
    pixels = np.stack([decode(source.path, model.manifest.preprocessing).pixels for source in sources])
    batches = [pixels[i : i + BATCH] for i in range(0, len(pixels), BATCH)]

    def running(extractor: Extractor) -> float:
        began = time.perf_counter()
        list(extractor.run_all(batches))
        return time.perf_counter() - began

    seconds = medians(float=lambda: running(model.extractor), int8=lambda: running(small))
    print(
        f"int8: {seconds['float'] / seconds['int8']:.2f} times as fast as float; Spearman of the scores of "
        f"{len(sources)} normals {info.spearman:.3f}, their p-values off by {info.p_value_change:.3f}",
        flush=True,
    )


def jittered(features: Features, count: int) -> Features:
    """``count`` rows: each of ``features`` in turn, moved as far as its nearest neighbour, on the sphere."""
    distances, _ = Gallery.build(features, "euclidean").search(features, 2)
    generator = np.random.default_rng(0)
    rows = np.empty((count, features.shape[1]), np.float32)
    for first in range(0, count, len(features)):
        block = rows[first : first + len(features)]
        size = len(block)
        generator.standard_normal(dtype=np.float32, out=block)
        block *= distances[:size, 1:] / np.linalg.norm(block, axis=1, keepdims=True)
        block += features[:size]
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return rows


def gallery(root: Path, sizes: list[int]) -> None:
    """Print an index a line."""
    model = indexed(root, "model-full", None)
    queries, _ = embedded(model, root / "test")
    queries = queries[np.random.default_rng(1).permutation(len(queries))[:QUERIES]]
    features = model.gallery.vectors()
    for size in sizes:
        rows = jittered(features, size)
        began = time.perf_counter()
        built, info = Gallery.build_fast(rows, "cosine", seed=0)
        minutes = (time.perf_counter() - began) / 60
        exact = np.concatenate(
            [Gallery.build(rows[i : i + 100_000]).search(queries, 2)[0] for i in range(0, size, 100_000)], 1
        )
        limit = np.sort(exact, axis=1)[:, 1:2]
        _, found = built.search(queries, 2)
        cosines = np.einsum("qkd,qd->qk", rows[found], queries)
        truth = float(np.mean(1 - cosines <= limit + 1e-6))

        def one_by_one(built: Gallery = built) -> float:
            began = time.perf_counter()
            for query in queries[:100]:
                built.search(query[None], 2)
            return (time.perf_counter() - began) / 100

        def together(built: Gallery = built) -> float:
            began = time.perf_counter()
            built.search(queries, 2)
            return (time.perf_counter() - began) / len(queries)

        seconds = medians(one=one_by_one, many=together)
        print(
            f"{size} normals: {built.kind}; built in {minutes:.1f} min; recall@2 {info.recall_at_2:.3f} "
            f"when built, {truth:.3f} on test images; a query {1e3 * seconds['one']:.2f} ms, "
            f"of {QUERIES} together {1e3 * seconds['many']:.2f} ms; peak "
            f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB",
            flush=True,
        )


def memory(scratch: Path, counts: list[int]) -> None:
    """Print peak memory a folder; at 64 pixels, since it is the number of images that matters."""
    model = scratch / "model-64"
    index(os.fspath(SAMPLES), os.fspath(model), IndexOptions(BackboneChoice(size=64)), lambda *_: None)
    peaks = []
    for count in counts:
        folder = photographs(scratch / f"small-{count}", count, (32, 32), "png", 100)
        command = (sys.executable, "-m", "anomscan", "score", folder, "--model", model, "-o", os.devnull)
        done = subprocess.run([sys.executable, "-c", PEAK, *command], check=True, capture_output=True)
        peaks.append(int(done.stdout) / 1e3)
        print(f"{count} images: peak {peaks[-1]:.0f} MB, {peaks[-1] / peaks[0]:.2f} of the first", flush=True)


def main() -> None:
    """Run it."""
    sections = ("throughput", "start", "patches", "int8", "gallery", "memory")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(sections)} [all]")
    parser.add_argument("--root", type=Path, help="class folders of Fashion-MNIST, for gallery")
    parser.add_argument("--gallery", type=int, nargs="+", default=[10_000, 100_000, 200_000], metavar="N")
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 100_000], metavar="N")
    arguments = parser.parse_args()
    chosen = arguments.sections or [s for s in sections if s != "gallery" or arguments.root]
    if not set(chosen) <= set(sections) or ("gallery" in chosen and arguments.root is None):
        parser.error(f"sections are {', '.join(sections)}; gallery needs --root")
    with tempfile.TemporaryDirectory() as name:
        scratch, folder = Path(name), os.path.join(name, "model")
        options = IndexOptions(BackboneChoice(), focus=FocusChoice("image"))
        fitted = index(os.fspath(SAMPLES), folder, options, lambda *_: None)
        versions = fitted.manifest.versions
        print(
            f"{available_cores()} cores of {platform.machine()}, "
            + ", ".join(f"{name} {version}" for name, version in versions.items())
            + f"; {datetime.date.today().isoformat()}",
            flush=True,
        )
        model = read_model(folder, available_cores())
        if "throughput" in chosen:
            throughput(model, folder, scratch)
        if "start" in chosen:
            start(folder)
        if "patches" in chosen:
            patches(scratch)
        if "int8" in chosen:
            int8(model, folder, scratch)
        if "gallery" in chosen:
            gallery(arguments.root, arguments.gallery)
        if "memory" in chosen:
            memory(scratch, arguments.images)


if __name__ == "__main__":
    main()
