r"""Whether anomalies hidden among the normals are found before they do harm.

For each set, 100 normals are drawn at random and five anomalies hidden among them; ``index`` builds a model
and ranks them. Counted are the anomalies among the first ten of that ranking, those that are named suspects,
and the normals that are named with them. Then 100 normals alone, to see how often anything is named at all.

    python benchmarks/suspects.py suspects.csv \
        screw=/tmp/data/screw/normal:/tmp/data/screw/incoming/bad \
        tile=/tmp/data/tile/normal:/tmp/data/tile/incoming/bad \
        fashion-mnist-0=/tmp/data/fm/train/0:/tmp/data/fm/test/2:/tmp/data/fm/test/5

The network is that of the first draw: ``--focus auto`` is not measured again. A row a draw; rows that the
file has already are not made again.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from anomscan.adapt.options import BackboneChoice
from anomscan.fit.index import IndexOptions, index
from anomscan.images.find import Source, find
from anomscan.model.folder import read_manifest, verified
from anomscan.model.manifest import HoldOut
from anomscan.model.suspects import SUSPECTS, Suspects

COLUMNS = ("set", "draw", "hidden", "looks", "among_first_ten", "named", "named_anomalies", "names")
NORMALS, HIDDEN, FIRST = 100, 5, 10


def files(folders: list[str]) -> list[Path]:
    """The images of some folders."""
    return [Path(source.path) for source in find(folders) if isinstance(source, Source)]


def draw(
    normal: list[Path], bad: list[Path], hidden: int, generator: np.random.Generator, model: Path, new: bool
) -> dict[str, object]:
    """One draw: what its ranking says."""
    with tempfile.TemporaryDirectory() as scratch:
        chosen = [normal[i] for i in generator.permutation(len(normal))[:NORMALS]]
        wrong = [bad[i] for i in generator.permutation(len(bad))[:hidden]]
        for kind, paths in (("n", chosen), ("x", wrong)):
            for i, path in enumerate(paths):
                Path(scratch, f"{generator.integers(1 << 40):012}{kind}{i}{path.suffix}").symlink_to(
                    path.resolve()
                )
        options = IndexOptions(BackboneChoice() if new else None)
        index(scratch, os.fspath(model), options, lambda *_: None, HoldOut(0.2))
        manifest = read_manifest(os.fspath(model))
        found = Suspects.load(verified(os.fspath(model), manifest, SUSPECTS))
        anomalies = {os.path.abspath(path) for path in Path(scratch).iterdir() if path.name[12] == "x"}
        origin = {os.path.abspath(path): path.resolve().name for path in Path(scratch).iterdir()}
        named = [suspect.path for suspect in found.suspected]
        return {
            "hidden": hidden,
            "looks": manifest.focus.looks,
            "among_first_ten": sum(suspect.path in anomalies for suspect in found.ranked[:FIRST]),
            "named": len(named),
            "named_anomalies": sum(path in anomalies for path in named),
            "names": " ".join(origin[path] for path in named),
        }


def rows(
    name: str, folders: list[str], done: set[tuple[str, int]], clean: int, dirty: int
) -> Iterator[dict[str, object]]:
    """Those of one set that are not there yet."""
    normal, bad = files(folders[:1]), files(folders[1:])
    with tempfile.TemporaryDirectory() as place:
        model, new = Path(place) / "model", True
        for number in range(clean + dirty):
            if (name, number) in done:
                continue
            generator = np.random.default_rng([number, *name.encode()])
            hidden = 0 if number < clean else HIDDEN
            yield {"set": name, "draw": number, **draw(normal, bad, hidden, generator, model, new)}
            new = False


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="CSV file, added to")
    parser.add_argument("sets", nargs="+", metavar="NAME=NORMAL:BAD[:BAD]")
    parser.add_argument("--clean", type=int, default=10, help="draws without anomalies [10]")
    parser.add_argument("--dirty", type=int, default=10, help="draws with five [10]")
    arguments = parser.parse_args()
    done: set[tuple[str, int]] = set()
    if arguments.out.exists():
        with open(arguments.out, newline="", encoding="utf-8") as file:
            done = {(row["set"], int(row["draw"])) for row in csv.DictReader(file)}
    else:
        arguments.out.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    for text in arguments.sets:
        name, _, folders = text.partition("=")
        for row in rows(name, folders.split(":"), done, arguments.clean, arguments.dirty):
            with open(arguments.out, "a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)
            print(row, flush=True)


if __name__ == "__main__":
    main()
