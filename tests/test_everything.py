"""One folder that holds one of everything, scored in one run: nothing of it is lost."""

from __future__ import annotations

import csv
import io
import json
import os
import socket
from collections import Counter
from pathlib import Path

import pytest

from anomscan.images.find import SUFFIXES
from anomscan.report.rows import COLUMNS
from tests.conftest import Run, draw, draw_odd, fake_model
from tests.images.files import png
from tests.images.test_kinds import DEEP, KINDS

ROW, ERROR, OTHER, HIDDEN, EXCLUDED, WALKED = "row", "error", "other", "hidden", "excluded", "walked"


def everything(folder: Path) -> dict[bytes, str]:
    """What is there, by path below the folder, and what becomes of it; what lies below a name that is passed
    over stands for nothing of its own."""
    fates: dict[bytes, str] = {}

    def there(path: str | bytes, fate: str) -> Path:
        name = os.fsencode(path)
        fates[name] = fate
        for parent in Path(os.fsdecode(name)).parents:
            if parent != Path() and os.fsencode(parent) not in fates:
                fates[os.fsencode(parent)] = WALKED
        place = folder / os.fsdecode(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    for i, kind in enumerate(KINDS):
        suffix = f".{kind.suffix}"
        kind.make(there(f"kinds/{i:03}{suffix}", ROW if suffix in SUFFIXES else OTHER))
    for name in (
        "plain.png",
        "UPPER.JPG",
        "a/b/c/d/deep.png",
        "two\nlines.png",
        "=formula.png",
        "ümlaut.png",
        b"\xff\xfe.png",
        "page.png#2.png",
    ):
        draw(len(name)).save(there(name, ROW), "PNG")
    there("linked.png", ROW).symlink_to("plain.png")
    draw(1).save(there("target/only.png", WALKED), "PNG")
    fates[b"target/only.png"] = ROW
    there("again", WALKED).symlink_to("target")  # entered once, under the name that comes first
    fates[b"again/only.png"] = fates.pop(b"target/only.png")
    there("to the top", WALKED).symlink_to(".")
    there("round", WALKED).mkdir()
    (folder / "round" / "round").symlink_to("../round")
    fates[b"round/round"] = WALKED
    there("empty", WALKED).mkdir()

    there("empty.png", ERROR).touch()
    there("text.jpg", ERROR).write_text("hello")
    there("dangling.png", ERROR).symlink_to("nowhere")
    there("self.png", ERROR).symlink_to("self.png")
    there("overlong.png", ERROR).symlink_to("x" * 300)
    there("null.png", ERROR).symlink_to("/dev/null")
    os.mkfifo(there("fifo.png", ERROR))
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(folder, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{here}/socket.png")  # a path of a socket is short
        os.close(here)
    fates[b"socket.png"] = ERROR

    for name in ("notes.txt", "Thumbs.db", "no suffix", "raw.RAW", "x.jp2"):
        there(name, OTHER).touch()
    there("self", OTHER).symlink_to("self")
    there("nowhere", OTHER).symlink_to("gone")
    os.mkfifo(there("fifo", OTHER))

    for name in (".DS_Store", "._plain.png", ".Trash-1000", "@eaDir", "$RECYCLE.BIN", "Lost+Found"):
        there(name, HIDDEN).mkdir()
        draw(0).save(folder / name / "thumbnail.png")
    draw(0).save(there("kinds_mask.png", EXCLUDED))
    there("masks", EXCLUDED).mkdir()
    draw(0).save(folder / "masks" / "m.png")
    return fates


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no such sockets")
def test_nothing_of_everything_is_lost(run: Run, tmp_path: Path) -> None:
    (tmp_path / "normal").mkdir()
    for seed in range(20):
        png(tmp_path / "normal" / f"{seed}.png", DEEP + 7 * seed)
    fake_model(tmp_path / "normal", tmp_path / "m", 0.5)
    folder = tmp_path / "everything"
    folder.mkdir()
    fates = everything(folder)
    aside = folder / "aside"
    aside.mkdir()
    draw_odd(0).save(aside / "of another day.png")
    fates[b"aside"] = WALKED  # not even that: it was named outright
    arguments = ["--exclude", "*_mask.png", "--exclude", "masks", "--copy-anomalous", aside]
    done = run("score", folder, "--model", "m", "--fpr", "0.1", "--summary", "s.json", *arguments)
    assert done.returncode == 3, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    text = io.StringIO(done.stdout.decode("utf-8", "surrogateescape"), newline="")
    rows = list(csv.DictReader(text))
    assert tuple(rows[0]) == COLUMNS
    found = [os.path.relpath(os.fsencode(row["path"]), os.fsencode(folder)) for row in rows]
    wanted = {name for name, fate in fates.items() if fate in (ROW, ERROR)}
    assert (set(found), len(found)) == (wanted, len(wanted))
    for name, row in zip(found, rows, strict=True):
        assert bool(row["error"]) != bool(row["score"])
        if not name.startswith(b"kinds/"):
            assert bool(row["error"]) == (fates[name] == ERROR), (name, row["error"])

    summary = json.loads((tmp_path / "s.json").read_text())
    counted = Counter(fates.values())
    assert summary["images"] == counted[ROW] + counted[ERROR] == len(rows)
    assert summary["unreadable"] == sum(bool(row["error"]) for row in rows)
    assert sum(summary["not_looked_at"].values()) == counted[OTHER]
    assert summary["passed_over"] == {"hidden": counted[HIDDEN], "excluded": counted[EXCLUDED]}
    assert counted.total() == entries(folder, fates)
    for line in summary["notes"]:
        assert line in done.stderr.decode()

    every = run(
        "score",
        folder,
        "--model",
        "m",
        "--pages",
        "all",
        *arguments[:4],
        "--exclude",
        "aside",
        "-o",
        "all.csv",
    )
    assert every.returncode == 3
    again = (tmp_path / "all.csv").read_bytes()
    pages = summary["remarks"]["further_pages"]
    assert pages == 2
    assert again.count(b"\n") - done.stdout.count(b"\n") == 2 * pages  # of three pages each


def entries(folder: Path, fates: dict[bytes, str]) -> int:
    """How many names there are, without those below a name that is passed over, or a second time."""
    count = 0
    for place, folders, files in os.walk(os.fsencode(folder)):
        below = os.path.relpath(place, os.fsencode(folder))
        count += len(folders) + len(files)
        folders[:] = [
            name
            for name in folders
            if fates.get(os.path.normpath(os.path.join(below, name))) == WALKED and name != b"aside"
        ]
    return count
