"""What a line does to a run: streams closed or full, signals, two at once, disks without room."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from anomscan.model.folder import read_manifest
from anomscan.model.model import read_model
from anomscan.report.rows import COLUMNS
from tests.cli.rows import rows
from tests.conftest import REPOSITORY, draw, draw_odd

HEADER = ",".join(COLUMNS)
INHERITED = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith("ANOMSCAN") and name != "PYTHONUNBUFFERED"  # which hides a missing flush
}


@pytest.fixture
def line(tmp_path: Path, calibrated_folder: Path) -> Path:
    """A folder with a model, ``m``, and images in ``in``: two good ones and four that are not."""
    shutil.copytree(calibrated_folder, tmp_path / "m")
    (tmp_path / "in").mkdir()
    for seed in range(2):
        draw(400 + seed).save(tmp_path / "in" / f"{seed}.png")
    for seed in range(4):
        draw_odd(410 + seed).save(tmp_path / "in" / f"odd{seed}.png")
    return tmp_path


def environment(folder: Path) -> dict[str, str]:
    return {**INHERITED, "PYTHONPATH": str(REPOSITORY), "ANOMSCAN_MODEL": str(folder / "m")}


Done = subprocess.CompletedProcess[str]


def shell(folder: Path, script: str) -> Done:
    """Run a line of bash in which ``anomscan`` is this one."""
    start = f'anomscan() {{ {sys.executable} -m anomscan "$@"; }}\n'
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", start + script],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )


def sentence(done: Done) -> str:
    """What a failed run said: one line."""
    assert done.stderr.startswith("anomscan: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("anomscan: ").rstrip("\n")


def images(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


EVERYTHING = ["0.png", "1.png", "odd0.png", "odd1.png", "odd2.png", "odd3.png"]

# Streams


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("anomscan score in -o out.csv <&-", 0, ""),
        ("anomscan score in -o out.csv >&-", 0, ""),
        ("anomscan score in -o out.csv 2>&-", 0, ""),
        ("anomscan score in -o out.csv <&- >&- 2>&-", 0, ""),
        ("anomscan score in -o out.csv 2>/dev/full", 0, ""),
        ("anomscan score in gone.png 2>/dev/full", 1, ""),
        ("anomscan score in gone.png 2>&-", 1, ""),
        ("anomscan score - <&-", 1, "no images to score"),
        ("anomscan score in >&-", 1, "cannot write the rows: Bad file descriptor"),
        ("anomscan score in >/dev/full", 1, "cannot write the rows: No space left on device"),
        ("anomscan info >/dev/full", 1, "standard output: No space left on device"),
        ("anomscan info --json >&-", 1, "standard output: Bad file descriptor"),
    ],
)
def test_a_stream_that_is_closed_or_full(line: Path, script: str, code: int, said: str) -> None:
    done = shell(line, script)
    assert done.returncode == code, done.stderr
    assert said in (sentence(done) if said else done.stderr)
    assert said or not done.stderr
    if "-o" in script:
        assert len(rows((line / "out.csv").read_bytes())) == 6
    assert images(line) == sorted(["in", "m", *(["out.csv"] if "-o" in script else [])])


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (">/dev/full", "cannot write the rows: No space left on device"),
        ("| true", "nobody reads the rows any more, so that no image was moved"),
    ],
)
def test_no_image_is_moved_whose_row_is_lost(line: Path, where: str, said: str) -> None:
    done = shell(line, f"anomscan score in --fpr 0.1 --move-anomalous aside {where}")
    assert done.returncode == 1
    assert sentence(done) == said
    assert images(line / "in") == EVERYTHING
    assert images(line / "aside") == []


def test_no_image_is_moved_whose_row_does_not_fit_on_the_disk(line: Path) -> None:
    """The log has room for some of the rows; what there is of it is what there was."""
    (line / "log.jsonl").write_text("{}\n" * 300)
    arguments = ["score", "in", "--fpr", "0.1", "--format", "jsonl", "--move-anomalous", "aside"]
    with open(line / "log.jsonl", "a") as log:
        done = subprocess.run(
            [sys.executable, "-m", "anomscan", *arguments],
            cwd=line,
            env=environment(line),
            stdout=log,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1200, 1200)),
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "anomscan: cannot write the rows: File too large\n")
    assert images(line / "in") == EVERYTHING


def test_the_reader_of_the_first_line_of_2000_gets_it_and_the_copies_are_made(line: Path) -> None:
    done = shell(
        line,
        "for i in $(seq 334); do echo in/0.png; echo in/1.png; for o in 0 1 2 3; do echo in/odd$o.png; done; "
        "done | anomscan score - --fpr 0.1 --copy-anomalous aside | head -1",
    )
    assert (done.returncode, done.stdout) == (0, HEADER + "\n")
    assert done.stderr == "1336 of 2004 images are anomalous\n"
    assert images(line / "aside") == EVERYTHING[2:]


# Signals


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_no_part_of_a_file_outlives_its_writer(line: Path, how: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "anomscan", "score", "-", "-o", "out.csv"],
        cwd=line,
        env=environment(line),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_for(lambda: bool(parts(line)))
    assert process.stdin is not None
    process.stdin.write(b"in/0.png\n")
    process.stdin.flush()
    time.sleep(0.2)
    process.send_signal(how)
    _, error = process.communicate(timeout=60)
    assert process.returncode == -how
    assert not (line / "out.csv").exists()
    if how == signal.SIGKILL:
        assert parts(line)
        assert shell(line, "anomscan score in -o out.csv").returncode == 0
    else:
        assert error == b"anomscan: interrupted; nothing was changed\n"
    assert not parts(line)


def parts(folder: Path) -> list[Path]:
    return list(folder.glob(".anomscan-*.part"))


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


INTERRUPTED = """
import errno, os, shutil, sys, time
how, another_disk, after = int(sys.argv[1]), sys.argv[2] == "True", 3
link, copy, unlink, done = os.link, shutil.copyfile, os.unlink, 0

def stop():
    global done
    done += 1
    if done == after:
        os.kill(os.getpid(), how)
        time.sleep(10)

def linked(source, target, **options):
    if another_disk and os.path.dirname(source) != os.path.dirname(target):
        raise OSError(errno.EXDEV, "another disk")
    link(source, target, **options)
    if not another_disk:
        stop()

def copied(source, target):
    with open(source, "rb") as file:
        content = file.read()
    with open(target, "wb") as file:
        file.write(content[: len(content) // 2])
        file.flush()
        stop()
    copy(source, target)

os.link, shutil.copyfile = linked, copied
sys.argv = ["anomscan", "score", "in", "--fpr", "0.1", "--move-anomalous", "aside"]
from anomscan.__main__ import main
main()
"""


@pytest.mark.parametrize("another_disk", [True, False])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_move_that_is_interrupted_is_whole_or_has_not_begun(
    line: Path, how: signal.Signals, another_disk: bool
) -> None:
    """In the middle of the third of four; the rows are safe by then."""
    before = {path.name: path.read_bytes() for path in (line / "in").iterdir()}
    with open(line / "log.csv", "ab") as log:
        process = subprocess.run(
            [sys.executable, "-c", INTERRUPTED, str(int(how)), str(another_disk)],
            cwd=line,
            env=environment(line),
            stdout=log,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            check=False,
        )
    assert process.returncode == -how, process.stderr.decode()
    if how != signal.SIGKILL:
        assert process.stderr == b"anomscan: interrupted; 2 files were moved to aside\n"
    assert len(rows((line / "log.csv").read_bytes())) == 6
    aside = {path.name: path for path in (line / "aside").iterdir() if not path.name.startswith(".")}
    assert len(aside) == 2 + (not another_disk)  # the third had its name already
    for name, path in aside.items():
        assert path.read_bytes() == before[name]
    assert len(set(images(line / "in")) - set(aside)) == 6 - len(aside)
    assert bool(parts(line / "aside")) == (how == signal.SIGKILL and another_disk)
    again = shell(line, "anomscan score in --fpr 0.1 --move-anomalous aside -o again.csv")
    assert again.returncode == 0, again.stderr
    assert images(line / "in") == EVERYTHING[:2]
    assert not parts(line / "aside")
    assert {path.read_bytes() for path in (line / "aside").iterdir()} == {
        before[name] for name in EVERYTHING[2:]
    }


GROWING = """
import sys
from anomscan.cli import console
deliver = console.deliver

def later(*arguments, **options):
    with open("in/odd1.png", "ab") as file:
        file.write(b"the rest of it")
    deliver(*arguments, **options)

console.deliver = later
sys.argv = ["anomscan", "score", "in", "--fpr", "0.1", "--move-anomalous", "aside", "-o", "out.csv"]
from anomscan.__main__ import main
main()
"""


def test_a_file_that_has_changed_since_it_was_scored_stays(line: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GROWING],
        cwd=line,
        env=environment(line),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "in/odd1.png has changed since it was scored, and stays\n" in done.stderr
    assert images(line / "in") == ["0.png", "1.png", "odd1.png"]
    assert (line / "in" / "odd1.png").read_bytes().endswith(b"the rest of it")
    assert images(line / "aside") == ["odd0.png", "odd2.png", "odd3.png"]


# Two at once

MOVER = """
import os, sys, time
from anomscan.cli import console
deliver = console.deliver

def together(*arguments, **options):
    open(f"ready{os.getpid()}", "w").close()
    while sum(name.startswith("ready") for name in os.listdir()) < 2:
        time.sleep(0.001)
    deliver(*arguments, **options)

console.deliver = together
output = f"out{sys.argv[1]}.csv"
sys.argv = ["anomscan", "score", "in", "--fpr", "0.1", "--move-anomalous", "aside", "-o", output]
from anomscan.__main__ import main
main()
"""


def test_two_that_move_the_same_images_both_end_well(line: Path) -> None:
    before = {path.read_bytes() for path in (line / "in").glob("odd*")}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MOVER, str(i)], cwd=line, env=environment(line), stderr=subprocess.PIPE
        )
        for i in range(2)
    ]
    for process in processes:
        _, error = process.communicate(timeout=60)
        assert process.returncode == 0, error.decode()
        assert b"Traceback" not in error
    assert images(line / "in") == EVERYTHING[:2]
    there = [path.read_bytes() for path in (line / "aside").iterdir()]
    assert set(there) == before


def at_once(folder: Path, *commands: Sequence[str]) -> list[tuple[int, str]]:
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "anomscan", *command],
            cwd=folder,
            env=environment(folder),
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    return [(process.returncode, error) for process, error in zip(processes, errors, strict=True)]


def test_two_that_index_at_once_leave_a_whole_model(line: Path, normal_folder: Path) -> None:
    """One may be refused, by the number of the other, or both wait for their turn."""
    few = line / "few"
    few.mkdir()
    for path in sorted(normal_folder.iterdir())[:15]:
        shutil.copy(path, few)
    for wait in ("0", "0", "60"):
        ended = at_once(
            line,
            *(("index", str(folder), "--wait", wait) for folder in (normal_folder, few)),
            ("score", "in"),
        )
        for code, error in ended:
            assert code == 0 or (code == 1 and wait == "0" and "is writing the model in" in error), error
        assert 0 in [code for code, _ in ended[:2]]
        assert ended[2][0] == 0  # a reader waits for nobody
        model = read_model(str(line / "m"), threads=1)
        assert len(model.gallery) == len(model.normals) in (10, 7)
        named = {file.name for file in model.manifest.files.values()}
        assert set(images(line / "m")) == {*named, "model.json", ".lock"}


# Disks without room


@pytest.mark.parametrize("limit", [500, 4000, 9000])
def test_a_model_that_does_not_fit_leaves_the_old_one(line: Path, normal_folder: Path, limit: int) -> None:
    """No file may grow beyond the limit, which the system says as of a disk that is full."""
    before = read_manifest(str(line / "m"))
    done = subprocess.run(
        [sys.executable, "-m", "anomscan", "index", str(normal_folder), "--holdout", "0"],
        cwd=line,
        env=environment(line),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        check=False,
    )
    assert done.returncode == 1
    assert "File too large" in sentence(done)
    assert read_manifest(str(line / "m")) == before
    assert len(read_model(str(line / "m"), threads=1).gallery) == 10
    assert not list((line / "m").glob(".staging-*"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk; mounting one needs root."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path, leaving: int) -> None:
    """Let the disk have room for so many bytes and no more."""
    status = os.statvfs(disk)
    with open(disk / "filled", "wb") as file:
        file.write(bytes(status.f_bavail * status.f_frsize - leaving))


NO_ROOM = "No space left on device"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "anomscan score $MANY -o disk/out.csv",
            "cannot keep the journal of disk/out.csv: database or disk is full",
        ),
        ("anomscan score in -o o.csv --report disk/r.html", f"cannot write disk/r.html: {NO_ROOM}"),
        (
            "anomscan score $MANY --fpr 0.1 --move-anomalous aside >disk/log",
            f"cannot write the rows: {NO_ROOM}",
        ),
        ("anomscan score in --fpr 0.1 --move-anomalous disk/aside -o o.csv", NO_ROOM),
        ("anomscan score in --fpr 0.1 --copy-anomalous disk/aside -o o.csv", NO_ROOM),
        ("anomscan index in --model disk/m --holdout 0", f"cannot write the model folder disk/m: {NO_ROOM}"),
        ("anomscan index --add in --model disk/m", f"cannot write the model folder disk/m: {NO_ROOM}"),
        ("anomscan export disk/x.onnx --images in", NO_ROOM),
    ],
)
def test_a_full_disk_is_one_sentence_and_nothing_is_lost(
    line: Path, disk: Path, script: str, said: str
) -> None:
    shutil.copytree(line / "m", disk / "m")
    fill(disk, leaving=16_384 if "disk/aside" in script else 0 if "export" in script else 4096)
    before = {path.read_bytes() for path in (line / "in").iterdir()}
    done = shell(line, f"MANY='{'in/* ' * 40}'\n{script}")
    assert (done.returncode, said in sentence(done)) == (1, True), done.stderr
    for name in ("out.csv", "r.html", "x.onnx"):
        assert not (disk / name).exists()
    assert not [path for folder in (line, disk, disk / "aside") for path in parts(folder)]
    kept = [path for folder in (line / "in", disk / "aside") if folder.exists() for path in folder.iterdir()]
    assert {path.read_bytes() for path in kept} == before
    assert len(kept) == 6 or "copy" in script
    assert len(read_model(str(disk / "m"), threads=1).gallery) == 10


RANKING = """
from anomscan.screen.ranking import Ranking
from tests.fakes import scored
ranking = Ranking()
names = [f"/line/incoming/{i:0200}.png" for i in range(500)]
for _ in range(100):
    ranking.add(scored(names, [0.5] * 500))
"""


def test_a_full_temporary_folder_is_one_error(line: Path, disk: Path) -> None:
    """As ``score`` keeps a ranking there."""
    fill(disk, leaving=4096)
    done = subprocess.run(
        [sys.executable, "-c", RANKING],
        env={**environment(line), "TMPDIR": str(disk)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines()[-1] == (
        "anomscan.errors.OutputError: cannot keep the ranking in the temporary folder: "
        "database or disk is full"
    )
