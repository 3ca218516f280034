"""What a billion images and a hundred million normals would take, from what one machine measures in minutes.

Measured here: bytes of an image, of a feature, of a row; core-seconds to read, decode and embed an image; to
rank a row; to search galleries of growing size, exactly and in lists (FAISS IVF), and what share of the two
nearest neighbours the lists find. Seconds are the processor's, so that other programs disturb them less.
A gallery is made of the features of images of ``--features``: points between one and another of its nearest;
queries are others of the kind, and lists find them as far as those images lie together. The rest is
multiplication, with the prices given, and is printed as such.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --galleries 10000 30000 100000 300000 --features DIR
"""

from __future__ import annotations

import argparse
import pickle
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ray_local import SAMPLES

from anomscan.adapt.options import FocusChoice
from anomscan.fit.index import IndexOptions, index
from anomscan.images.find import find
from anomscan.model.model import Model, read_model
from anomscan.report.rows import write_csv
from anomscan.scoring.gallery import Gallery
from anomscan.screen.ranking import Ranking
from anomscan.screen.ray import slim
from anomscan.screen.run import ScoreJob, here
from anomscan.screen.screener import Scored, Screener
from anomscan.types import Features

QUERIES, NEIGHBOURS, AROUND, ROWS, MOST = 256, 2, 10, 50_000, 1000
HOUR = 3600.0
SCANNED = 128
"""A large gallery looks at one in so many of its 4 sqrt(n) lists, or at more where that finds too little."""


@dataclass(frozen=True)
class Search:
    """A gallery of ``vectors``: how it is searched, core-seconds a query and to build it, the recall.

    ``compared`` is how many vectors a query is compared with, middles of lists among them.
    """

    vectors: int
    compared: float
    kind: str
    seconds: float
    recall: float
    build: float


@dataclass(frozen=True)
class Measured:
    """What one machine says; bytes and core-seconds, of one image, row or vector each."""

    dim: int
    file: float
    embed: float
    row: float
    database: float
    rank: float
    answer: float
    searches: list[Search]


def embedding(model: Model, folder: str) -> tuple[list[Scored], float, float]:
    """The images of a folder scored, their mean bytes, and core-seconds for each."""
    sources = [source for source in find([folder]) if Path(source.path).stat().st_size]
    began = time.process_time()
    judged = list(here(ScoreJob((), model, threads=2), Screener(model), sources, lambda *_: None))
    seconds = time.process_time() - began
    size = float(np.mean([Path(source.path).stat().st_size for source in sources]))
    return [each[0] for each in judged if isinstance(each, tuple)], size, seconds / len(sources)


def ranking(scored: Scored) -> tuple[float, float, float]:
    """Bytes of a row as CSV and in the temporary database, and core-seconds to add, sort and write it."""
    batches = ROWS // len(scored.images)
    began = time.process_time()
    rows = Ranking()
    for _ in range(batches):
        rows.add(scored)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="surrogateescape", newline="") as file:
        write_csv(rows.rows(), file)
        size = file.tell()
    pages, page = (
        rows.journal.db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size")
    )
    rows.close()
    count = batches * len(scored.images)
    return size / count, pages * page / count, (time.process_time() - began) / count


def between(features: Features, count: int, seed: int) -> Features:
    """``count`` features of norm 1, each somewhere between one of those given and one of its ten nearest."""
    generator = np.random.default_rng(seed)
    _, nearest = Gallery.build(features).search(features, AROUND + 1)
    made = np.empty((count, features.shape[1]), np.float32)
    for start in range(0, count, 10_000):
        part = made[start : start + 10_000]
        which = generator.integers(0, len(features), len(part))
        other = nearest[which, generator.integers(1, AROUND + 1, len(part))]
        part[:] = features[which]
        part += generator.random((len(part), 1), np.float32) * (features[other] - features[which])
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return made


def searched(gallery: Gallery, queries: Features) -> float:
    """Core-seconds of a query, of many together as in ``score``."""
    began = time.thread_time()
    gallery.search(queries, NEIGHBOURS)
    return (time.thread_time() - began) / len(queries)


def searching(features: Features, sizes: list[int]) -> list[Search]:
    """Time and recall of a query in galleries of these sizes."""
    found, queries = [], between(features, QUERIES, seed=1)
    for size in sizes:
        vectors = between(features, size, seed=0)
        gallery = Gallery.build(vectors)
        found.append(Search(size, size, "exact", searched(gallery, queries), 1.0, 0.0))
        began = time.process_time()
        gallery, info = Gallery.build_fast(vectors, "cosine", seed=0, exact_up_to=0)
        build = time.process_time() - began
        if gallery.exact:  # where lists find too little
            continue
        near, lists, _ = map(int, re.findall(r"\d+", gallery.kind))
        compared = size * near / lists + lists
        found.append(
            Search(size, compared, gallery.kind, searched(gallery, queries), info.recall_at_2, build)
        )
    return found


def features_of(model: Model, folder: str) -> Features:
    """Features, (n, D), of at most ``MOST`` images of a folder, evenly chosen."""
    sources = list(find([folder]))
    chosen = sources[:: max(1, len(sources) // MOST)]
    judged = here(ScoreJob((), model, threads=2), Screener(model), chosen, lambda *_: None)
    return np.concatenate([each[0].whole for each in judged if isinstance(each, tuple)])


def measure(model: Model, folder: str, like: str, sizes: list[int]) -> Measured:
    """All of it."""
    scored, file, embed = embedding(model, folder)
    row, database, rank = ranking(scored[0])
    answer = len(pickle.dumps([slim((each, None), 0) for each in scored])) / sum(
        len(s.images) for s in scored
    )
    features = features_of(model, like)
    return Measured(features.shape[1], file, embed, row, database, rank, answer, searching(features, sizes))


def query_seconds(searches: list[Search], compared: float) -> float:
    """Core-seconds to compare a query with so many vectors, as in the largest gallery that was measured."""
    largest = max(searches, key=lambda search: search.vectors)
    return largest.seconds * compared / largest.compared


def table(title: str, *rows: tuple[str, ...]) -> None:
    """Print rows, the names of the columns first, as Markdown."""
    head, *rest = rows
    lines = [f"\n## {title}\n", head, ("---",) * len(head), *rest]
    print("\n".join(line if isinstance(line, str) else f"| {' | '.join(line)} |" for line in lines))


def tell_measured(found: Measured) -> None:
    """Print what was measured."""
    table(
        "Measured",
        ("what", "of one"),
        ("file of an image", f"{found.file / 1e3:.0f} kB"),
        ("read, decode, embed and score an image", f"{1e3 * found.embed:.1f} ms of a core"),
        ("feature", f"{found.dim} numbers: {4 * found.dim:,} B exact, {2 * found.dim:,} B in lists"),
        ("row of CSV, and in the database that ranks", f"{found.row:.0f} B, {found.database:.0f} B"),
        ("to rank and write a row", f"{1e6 * found.rank:.0f} us of a core"),
        ("what a Ray worker sends back", f"{found.answer / 1e3:.1f} kB"),
    )
    table(
        "Search",
        ("vectors", "search", "ms of a core a query", "recall@2", "to build, core-s"),
        *(
            (f"{s.vectors:,}", s.kind, f"{1e3 * s.seconds:.2f}", f"{s.recall:.3f}", f"{s.build:.0f}")
            for s in found.searches
        ),
    )


@dataclass(frozen=True)
class Prices:
    """Assumed, in $: an hour of a core, a GB for a month, a million requests to a store."""

    core_hour: float
    gb_month: float
    million_requests: float


def tell_extrapolated(found: Measured, images: float, normals: float, prices: Prices) -> None:
    """Print what it comes to."""

    def computed(what: str, seconds: float) -> tuple[str, ...]:
        return what, f"{seconds / HOUR:,.0f} core-h", f"{seconds / HOUR * prices.core_hour:,.0f}"

    def stored(what: str, size: float) -> tuple[str, ...]:
        return what, f"{size / 1e12:,.2f} TB", f"{size / 1e9 * prices.gb_month:,.0f} a month"

    def searched(what: str, kind: str, vectors: float, size: int) -> tuple[str, ...]:
        compared = vectors if kind == "exact" else vectors / SCANNED + 4 * vectors**0.5
        query = query_seconds([each for each in found.searches if each.kind.startswith(kind)], compared)
        memory = vectors * size * found.dim / 1e9
        return computed(f"{what}: {1e3 * query:,.2f} ms a query, {memory:,.2f} GB in memory", images * query)

    table(
        f"{images:,.0f} images, {normals:,.0f} normals: extrapolated",
        ("what", "how much", "$"),
        stored("files of the images", images * found.file),
        ("requests for them, one each", f"{images:,.0f}", f"{images / 1e6 * prices.million_requests:,.0f}"),
        computed("read, decode and embed the images", images * found.embed),
        computed("the same of the normals", normals * found.embed),
        searched("search all normals exactly", "exact", normals, 4),
        searched("search them in lists", "IVF", normals, 2),
        searched("search 100,000 of them, or centroids, exactly", "exact", 1e5, 4),
        searched("search 10,000, exactly", "exact", 1e4, 4),
        computed("rank and write the rows, on one machine", images * found.rank),
        stored("rows of CSV", images * found.row),
        stored("the database that ranks, in the temporary folder", images * found.database),
        ("answers of Ray workers, through one machine", f"{images * found.answer / 1e12:,.2f} TB", ""),
    )


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--from", dest="source", default=str(SAMPLES / "incoming"))
    parser.add_argument("--features", help="images that galleries are made like (default: those of --from)")
    parser.add_argument("--model", help="a model folder (default: sample_data/normal, indexed)")
    parser.add_argument("--galleries", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--images", type=float, default=1e9)
    parser.add_argument("--normals", type=float, default=1e8)
    parser.add_argument("--core-hour", type=float, default=0.04, help="$")
    parser.add_argument("--gb-month", type=float, default=0.023, help="$")
    parser.add_argument("--million-requests", type=float, default=0.4, help="$")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.model or str(Path(scratch, "model"))
        if given.model is None:
            options = IndexOptions(focus=FocusChoice("image", None, None))
            index(str(SAMPLES / "normal"), folder, options, lambda *_: None)
        found = measure(read_model(folder, 2), given.source, given.features or given.source, given.galleries)
    tell_measured(found)
    prices = Prices(given.core_hour, given.gb_month, given.million_requests)
    tell_extrapolated(found, given.images, given.normals, prices)


if __name__ == "__main__":
    main()
