r"""Whether anomalies hidden among the normals are found before they do harm.

For each set, 100 normals are drawn at random and five anomalies hidden among them, a fifth of all held out.
They are ranked as ``index`` ranks them. Counted are the anomalies among the first ten of that ranking, and
what is named a suspect. Then 100 normals alone, to see how often anything is named at all.

    python benchmarks/suspects.py suspects.csv --network MODEL \
        screw=/tmp/data/screw/normal:/tmp/data/screw/incoming/bad \
        tile=/tmp/data/tile/normal:/tmp/data/tile/incoming/bad \
        fashion-mnist-0=/tmp/data/fm/train/0:/tmp/data/fm/test/2:/tmp/data/fm/test/5:/tmp/data/fm/test/8

MODEL is a model folder that gives the network and the weight of the whole image; it looks at patches. A row
a draw. ``--without`` leaves normals out that somebody has seen not to be any:

    python benchmarks/suspects.py suspects.csv --network MODEL \
        tile-two-left-out=/tmp/data/tile/normal:/tmp/data/tile/incoming/bad \
        --without exp6_num_148035.jpg exp6_num_183290.jpg
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomscan.fit.suspects import patch_scores_without, rank
from anomscan.images.decode import decode_all
from anomscan.images.find import Source, Unreadable, find
from anomscan.model.model import Model, read_model
from anomscan.model.suspects import Suspects
from anomscan.scoring.bank import MOST, Bank
from anomscan.scoring.focused import Focused
from anomscan.types import Features

COLUMNS = ("set", "hidden", "draw", "among_first_ten", "named_anomalies", "named_normals", "names")
NORMALS, HIDDEN, FIRST, TAKEN, BAD = 100, 5, 10, 320, 60


@dataclass(frozen=True)
class Images:
    """Features of n images, (n, D), and their patches, (n, rows, columns, C) float16."""

    names: list[str]
    features: Features
    patches: NDArray[np.float16]


def embedded(model: Model, folders: list[str], most: int, without: list[str]) -> Images:
    """So many images of some folders, drawn at random; some names are left out."""
    paths = [source.path for source in find(folders) if isinstance(source, Source)]
    paths = [path for path in paths if Path(path).name not in without]
    chosen = np.sort(np.random.default_rng(0).permutation(len(paths))[:most])
    sources = [Source(paths[i]) for i in chosen]
    names: list[str] = []
    features, patches = [], []
    for batch in model.extractor.embed(decode_all(sources, model.manifest.preprocessing, 2)):
        if isinstance(batch, Unreadable):
            continue
        assert batch.outputs.patches is not None
        names += [Path(image.path).name for image in batch.images]
        features.append(batch.outputs.image)
        patches.append(batch.outputs.patches.astype(np.float16))
    return Images(names, np.concatenate(features), np.concatenate(patches))


def draw(
    normal: Images, bad: Images, hidden: int, generator: np.random.Generator
) -> tuple[Images, list[bool]]:
    """A hundred normals and so many anomalies in a random order, and which are which."""
    i = generator.permutation(len(normal.names))[:NORMALS]
    j = generator.permutation(len(bad.names))[:hidden]
    order = generator.permutation(len(i) + len(j))
    names = [*(normal.names[k] for k in i), *(bad.names[k] for k in j)]
    features = np.concatenate([normal.features[i], bad.features[j]])[order]
    patches = np.concatenate([normal.patches[i], bad.patches[j]])[order]
    wrong = np.repeat([False, True], [len(i), len(j)])[order]
    return Images([names[k] for k in order], features, patches), wrong.tolist()


def patch_scores_of(model: Model, images: Images) -> Features:
    """By the patches of the others, as ``index`` compares them: the first fifth is held out."""
    held = len(images.names) // 5
    numbers = [str(i) for i in range(len(images.names))]
    bank = Bank(MOST, 0)
    bank.add(images.patches[held:].astype(np.float32), numbers[held:])
    scorer = Focused.of(model.scorer.whole, "both", bank, 0)
    return patch_scores_without(scorer, images.patches, numbers, {})


def ranked(model: Model, images: Images, patch: Features) -> Suspects:
    """The ranking of a draw; paths are numbers."""
    assert model.manifest.patches is not None
    numbers = [str(i) for i in range(len(images.names))]
    found = rank(numbers, images.features, patch, model.scorer, {}, model.manifest.patches.weight)
    assert found is not None
    return found


def row(name: str, number: int, images: Images, wrong: list[bool], found: Suspects) -> dict[str, object]:
    """What a ranking says, in one line."""
    named = [int(suspect.path) for suspect in found.suspected]
    return {
        "set": name,
        "hidden": sum(wrong),
        "draw": number,
        "among_first_ten": sum(wrong[int(suspect.path)] for suspect in found.ranked[:FIRST]),
        "named_anomalies": sum(wrong[i] for i in named),
        "named_normals": sum(not wrong[i] for i in named),
        "names": " ".join(images.names[i] for i in named),
    }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="CSV file, added to")
    parser.add_argument("sets", nargs="+", metavar="NAME=NORMAL:BAD[:BAD]")
    parser.add_argument("--network", required=True, help="model folder that has the network")
    parser.add_argument("--without", nargs="+", default=[], metavar="NAME", help="normals to leave out")
    parser.add_argument("--clean", type=int, default=10, help="draws without anomalies [10]")
    parser.add_argument("--dirty", type=int, default=5, help="draws with five [5]")
    arguments = parser.parse_args()
    model = read_model(arguments.network, 2)
    new = not arguments.out.exists()
    with open(arguments.out, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        for text in arguments.sets:
            name, _, folders = text.partition("=")
            first, *rest = folders.split(":")
            normal = embedded(model, [first], TAKEN, arguments.without)
            bad = embedded(model, rest, BAD, [])
            for hidden, draws, seed in ((0, arguments.clean, 1), (HIDDEN, arguments.dirty, 2)):
                generator = np.random.default_rng(seed)
                for number in range(draws):
                    images, wrong = draw(normal, bad, hidden, generator)
                    found = ranked(model, images, patch_scores_of(model, images))
                    writer.writerow(row(name, number, images, wrong, found))
                    file.flush()


if __name__ == "__main__":
    main()
