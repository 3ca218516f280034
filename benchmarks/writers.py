"""Let several write one model at once, with others scoring beside, and see that no update is lost.

``python benchmarks/writers.py`` does 50 rounds of two ``index`` and 20 rounds of eight ``index --add``,
each of an image of its own, some that wait for their turn and some that do not; eight ``score`` run beside
them all the time. Every process ends well or, where it did not want to wait, is refused by the number of
another; the model always loads, and after each round it holds what those added that ended well. Exits with
1 at the first fault.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from workshop import (
    Ended,
    Fault,
    check_leftovers,
    check_model,
    furnish,
    refill,
    run,
    scratch,
    start,
)

from anomscan.model.folder import read_manifest
from tests.conftest import draw

BUSY = "is writing the model in m; wait for it with --wait SECONDS"
WAIT = ("--wait", "600")


def checked(ended: Ended, *, waited: bool) -> bool:
    """Whether it ended well; raises Fault where it neither did nor was refused."""
    if not waited and ended.code == 1 and BUSY in ended.said and ended.said.count("\n") == 1:
        return False
    ended.well()
    return True


def index_round(folder: Path, ended: Counter[str]) -> None:
    """Two at once, of different normals: the model is that of one of them."""
    waits = [random.random() < 0.5 for _ in range(2)]
    running = [
        start(folder, "index", name, "--model", "m", *(WAIT if waits[i] else ()))
        for i, name in enumerate(("normal", "more"))
    ]
    well = [checked(one.wait(), waited=waited) for one, waited in zip(running, waits, strict=True)]
    if not any(well):
        raise Fault("nobody wrote the model")
    ended.update("well" if one else "refused" for one in well)
    check_model(folder / "m")
    root = Path(read_manifest(str(folder / "m")).data.root).name
    if root not in [name for name, one in zip(("normal", "more"), well, strict=True) if one]:
        raise Fault(f"the model is of {root}, whose index was refused")


def add_round(folder: Path, number: int, ended: Counter[str], writers: int = 8) -> None:
    """Eight at once, each with an image of its own: the model holds those of all that ended well."""
    before = read_manifest(str(folder / "m"))
    waits = [random.random() < 0.75 for _ in range(writers)]
    names = [f"added-{number}-{i}.png" for i in range(writers)]
    for i, name in enumerate(names):
        draw(10_000 + 100 * number + i).resize((48, 48)).save(folder / name)
    running = [
        start(folder, "index", "--add", name, "--model", "m", *(WAIT if waited else ()))
        for name, waited in zip(names, waits, strict=True)
    ]
    well = [checked(one.wait(), waited=waited) for one, waited in zip(running, waits, strict=True)]
    ended.update("well" if one else "refused" for one in well)
    check_model(folder / "m")
    after = read_manifest(str(folder / "m"))
    added = {Path(path).name for change in after.changes for path in change.paths}
    missing = {name for name, one in zip(names, well, strict=True) if one} - added
    if missing:
        raise Fault(f"lost: {', '.join(sorted(missing))}")
    if len(after.changes) - len(before.changes) != sum(well):
        raise Fault("the log has other changes than were made")


def score_beside(folder: Path, number: int, over: threading.Event, ended: Counter[str]) -> None:
    """Score again and again, with whatever model there is: none is seen half written."""
    while not over.is_set():
        checked(run(folder, "score", "in", "--model", "m", "-o", f"rows-{number}.csv"), waited=True)
        ended["scored"] += 1


def tell(what: str, ended: Counter[str], began: float) -> None:
    """Say how far it is."""
    print(f"{what}, {dict(ended)}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def main() -> None:
    """Rounds of both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--index", type=int, default=50, help="rounds of two index")
    parser.add_argument("--add", type=int, default=20, help="rounds of eight index --add")
    parser.add_argument("--scorers", type=int, default=8, help="beside them")
    parser.add_argument("--seed", type=int, default=0, help="of who waits")
    arguments = parser.parse_args()
    began = time.monotonic()
    with scratch(arguments.seed) as place:
        folder, over, ended = Path(place), threading.Event(), Counter[str]()
        furnish(folder, images=16)
        refill(folder)
        faults: list[Exception] = []

        def scorer(number: int) -> None:
            try:
                score_beside(folder, number, over, ended)
            except Fault as fault:
                faults.append(fault)

        scorers = [threading.Thread(target=scorer, args=[i]) for i in range(arguments.scorers)]
        try:
            for thread in scorers:
                thread.start()
            for number in range(arguments.index):
                index_round(folder, ended)
                tell(f"index: {number + 1} of {arguments.index} rounds", ended, began)
            run(folder, "index", "normal", "--model", "m").well()
            for number in range(arguments.add):
                add_round(folder, number, ended)
                tell(f"index --add: {number + 1} of {arguments.add} rounds", ended, began)
        except Fault as fault:
            faults.append(fault)
        finally:
            over.set()
            for thread in scorers:
                thread.join()
        if faults:
            print(f"after {dict(ended)}: {faults[0]}")
            sys.exit(1)
        check_leftovers(folder, "m")
    rounds = f"{arguments.index} rounds of two index, {arguments.add} of eight index --add"
    print(f"{rounds}, no fault: {dict(ended)}")
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
