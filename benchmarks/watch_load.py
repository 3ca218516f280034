"""Whether ``anomscan watch`` reports every file once, whatever happens to it, and does not grow.

    python benchmarks/watch_load.py kills    [--files 20000] [--kills 20]
    python benchmarks/watch_load.py memory   [--files 200000] [--seconds 480]

Both take a cheap network and images of 32 x 32 pixels, so that it is the watch that is measured.

``kills``: files come in bursts, are renamed in, lie half-written with their writer still there, are deleted
before they settle. Meanwhile the watch is killed by SIGKILL again and again and started anew. In the end
every file that settled has exactly one row and no error, no deleted one has any, and every anomalous image
has been moved.

``memory``: the memory of one watch, and its open files, after the first 2,000 images and at the end.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from tests.conftest import draw, draw_odd, fake_model  # noqa: E402

SIDE = 32
FIRST = 2000


def pictures(count: int = 200) -> list[bytes]:
    """Small PNG files; one in twenty is anomalous."""
    found = []
    for seed in range(count):
        image = (draw_odd if seed % 20 == 0 else draw)(1000 + seed).resize((SIDE, SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


def prepare(folder: Path) -> None:
    """A model of forty normals, half of them held out, and an empty folder to watch."""
    (folder / "normal").mkdir()
    for seed in range(40):
        draw(seed).resize((SIDE, SIDE)).save(folder / "normal" / f"{seed:02}.png")
    fake_model(folder / "normal", folder / "model", 0.5)
    (folder / "in").mkdir()


def watch(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    """A watch that appends to ``rows.jsonl``."""
    command = [sys.executable, "-m", "anomscan", "watch", "in", "--model", "model", "-o", "rows.jsonl"]
    with open(folder / "messages.txt", "ab") as messages:
        return subprocess.Popen(
            [*command, "--format", "jsonl", "--threads", "1", *options], cwd=folder, stderr=messages
        )


def rows(folder: Path) -> list[dict[str, object]]:
    """All rows so far, less one that is being written."""
    file = folder / "rows.jsonl"
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


class Line:
    """A camera that has many ways to write a file; ``settled`` and ``deleted`` are names."""

    def __init__(self, place: Path, count: int, seed: int) -> None:
        self.place, self.count = place, count
        self.settled: list[str] = []
        self.deleted: list[str] = []
        self.random = random.Random(seed)
        self.pictures = pictures()

    def run(self, pause: float) -> None:
        """Write all files, in bursts of up to 200, with a pause between them of ``pause`` seconds or so."""
        number = 0
        while number < self.count:
            for _ in range(self.random.randint(1, 200)):
                if number == self.count:
                    break
                self.write(number)
                number += 1
            time.sleep(self.random.uniform(0, 2 * pause))

    def write(self, number: int) -> None:
        """One file, in one of five ways."""
        folder = self.place / f"day{number % 5}"
        folder.mkdir(exist_ok=True)
        name, content = f"part {number:06}.png", self.random.choice(self.pictures)
        way = self.random.random()
        if way < 0.6:
            (folder / name).write_bytes(content)
        elif way < 0.8:
            (folder / f".{name}").write_bytes(content)
            (folder / f".{name}").rename(folder / name)
        elif way < 0.9:
            with open(folder / name, "wb", buffering=0) as file:
                file.write(content[: len(content) // 2])
                time.sleep(self.random.uniform(0, 0.05))
                file.write(content[len(content) // 2 :])
        elif way < 0.95:
            (folder / name).write_bytes(content[: len(content) // 2])
            time.sleep(self.random.uniform(0, 0.05))
            with open(folder / name, "ab") as file:
                file.write(content[len(content) // 2 :])
        else:
            with open(folder / name, "wb", buffering=0) as file:
                file.write(content[: len(content) // 2])
                time.sleep(self.random.uniform(0, 0.01))
                (folder / name).unlink()
            self.deleted.append(f"in/day{number % 5}/{name}")
            return
        self.settled.append(f"in/day{number % 5}/{name}")


def wait_until_all(folder: Path, count: int, process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait until the output has that many lines, or for as long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None and len(rows(folder)) < count:
        time.sleep(0.5)
    time.sleep(2)


def kills(folder: Path, files: int, times: int) -> bool:
    """See the top of this file; whether all was well."""
    options = ("--settle", "1", "--fpr", "0.05", "--move-anomalous", "aside")
    line = Line(folder / "in", files, seed=1)
    writer = threading.Thread(target=line.run, args=(0.25,))
    chance = random.Random(2)
    began = time.monotonic()
    writer.start()
    killed = 0
    process = watch(folder, *options)
    while killed < times:
        time.sleep(chance.uniform(0.8, 4.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed += 1
        process = watch(folder, *options)
    writer.join()
    wait_until_all(folder, len(line.settled), process, 300)
    process.send_signal(signal.SIGTERM)
    code = process.wait(60)
    took = time.monotonic() - began
    found = rows(folder)
    times_of = Counter(str(row["path"]) for row in found)
    missing = [path for path in line.settled if not times_of[path]]
    twice = [path for path, count in times_of.items() if count > 1]
    gone = [path for path in line.deleted if times_of[path]]
    wrong = [row for row in found if row["error"]]
    anomalous = sorted(Path(str(row["path"])).name for row in found if row["anomalous"])
    aside = sorted(path.name for path in (folder / "aside").iterdir())
    left = sum(len(names) for _, _, names in os.walk(folder / "in"))
    print(
        f"{files} files, {killed} kills, {took:.0f} s: {len(line.settled)} settled, {len(line.deleted)} "
        f"deleted before; {len(found)} rows, {len(missing)} missing, {len(twice)} twice, {len(gone)} of "
        f"deleted files, {len(wrong)} with an error; {len(anomalous)} anomalous, {len(aside)} moved, the "
        f"same: {anomalous == aside}; {left} left in place; exit code {code}"
    )
    for what in (missing, twice, gone, wrong):
        print(*what[:3], sep="\n", end="\n" if what else "")
    fine = left == len(line.settled) - len(aside) and anomalous == aside and code == 0
    return fine and not (missing or twice or gone or wrong)


def resident(process: subprocess.Popen[bytes]) -> tuple[float, int]:
    """MiB in memory, and how many descriptors are open."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    (kibibytes,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    return int(kibibytes) / 1024, len(os.listdir(f"/proc/{process.pid}/fd"))


class Output:
    """Counts the rows in the output, without reading any of them twice."""

    def __init__(self, folder: Path) -> None:
        self.file, self.size, self.rows = folder / "rows.jsonl", 0, 0

    def count(self) -> int:
        """Rows so far."""
        if self.file.exists():
            with open(self.file, "rb") as file:
                file.seek(self.size)
                new = file.read()
            self.size, self.rows = self.size + len(new), self.rows + new.count(b"\n")
        return self.rows


def memory(folder: Path, files: int, seconds: float) -> bool:
    """See the top of this file; whether it has not grown by more than 5 %.

    Both times all that was written is scored, and nothing has come for five seconds.
    """
    process = watch(folder, "--settle", "0.5", "--fpr", "0.05")
    contents, rng, output, written = pictures(), random.Random(3), Output(folder), 0
    first: tuple[float, int] | None = None
    began = reported = time.monotonic()
    while output.count() < files and time.monotonic() - began < seconds:
        room = min(files if first else FIRST, output.rows + rng.randint(1, 600))
        while written < room:
            place = folder / "in" / f"{written // 5000:03}"
            place.mkdir(exist_ok=True)
            (place / f"{written:06}.png").write_bytes(rng.choice(contents))
            written += 1
        time.sleep(0.1)
        if first is None and output.rows == FIRST:
            time.sleep(5)
            first = resident(process)
            print(f"  {FIRST} images: {first[0]:.1f} MiB, {first[1]} descriptors", flush=True)
        if time.monotonic() - reported > 30:
            reported = time.monotonic()
            mib, descriptors = resident(process)
            print(
                f"  {output.rows} images, {reported - began:.0f} s: {mib:.1f} MiB, {descriptors}", flush=True
            )
    took = time.monotonic() - began
    while output.count() < written and process.poll() is None:
        time.sleep(0.1)
    time.sleep(5)
    last = resident(process)
    process.send_signal(signal.SIGTERM)
    code = process.wait(120)
    assert first is not None, "fewer images than are needed were scored"
    print(
        f"{output.rows} images, {output.rows / took:.0f} a second: {first[0]:.1f} MiB and {first[1]} "
        f"descriptors after {FIRST}, {last[0]:.1f} MiB and {last[1]} at the end; exit code {code}",
        flush=True,  # before so many files are removed
    )
    return code == 0 and last[0] <= 1.05 * first[0] and last[1] <= first[1]


def main() -> int:
    """Run one of the two in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["kills", "memory"])
    parser.add_argument("--files", type=int)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=480.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        if given.what == "kills":
            fine = kills(folder, given.files or 20_000, given.kills)
        else:
            fine = memory(folder, given.files or 200_000, given.seconds)
        messages = (folder / "messages.txt").read_text(errors="backslashreplace").splitlines()
        print(*dict.fromkeys(messages[:200]), sep="\n")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
