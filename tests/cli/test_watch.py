"""``watch`` as it is run: once, as a service that is stopped or killed, two at a time."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.rows import rows
from tests.conftest import REPOSITORY, Run, draw, draw_odd

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path, calibrated_folder: Path) -> Iterator[Start]:
    """Start ``anomscan watch in`` as a process of its own, which is ended with the test."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANOMSCAN")}
    kept |= {"PYTHONPATH": str(REPOSITORY), "ANOMSCAN_MODEL": str(calibrated_folder)}
    kept.pop("PYTHONUNBUFFERED", None)
    started: list[subprocess.Popen[bytes]] = []

    def begin(*options: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "anomscan", "watch", "in", *options],
            cwd=tmp_path,
            env=kept,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def line(tmp_path: Path) -> Path:
    """A folder with an empty folder ``in``."""
    (tmp_path / "in").mkdir()
    return tmp_path


def log(folder: Path, name: str = "log.jsonl") -> list[dict[str, object]]:
    """The rows so far, less one that is being written."""
    file = folder / name
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_once_ends_with_the_exit_codes_of_score(run: Run, calibrated_folder: Path, line: Path) -> None:
    watch = ("watch", "in", "--once", "--model", calibrated_folder, "--settle", "0.2", "-o", "log.csv")
    done = run(*watch)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    draw(400).save(line / "in" / "a.png")
    draw_odd(401).save(line / "in" / "odd.png")
    done = run(*watch, "--fpr", "0.1")
    assert (done.returncode, done.stderr) == (0, b"1 of 2 images are anomalous\n")
    (line / "in" / "broken.png").write_bytes(b"broken")
    done = run(*watch)
    assert (done.returncode, done.stderr) == (3, b"1 of 1 files could not be read\n")
    draw_odd(402).save(line / "in" / "odd2.png")
    assert run(*watch, "--threshold", "0.1", "--fail-on-anomaly").returncode == 10
    assert run(*watch, "--threshold", "0.1", "--fail-on-anomaly").returncode == 0
    found = rows((line / "log.csv").read_bytes())
    assert [(row["path"], row["rank"]) for row in found] == [
        ("in/a.png", ""),
        ("in/odd.png", ""),
        ("in/broken.png", ""),
        ("in/odd2.png", ""),
    ]
    assert sorted(path.name for path in line.iterdir()) == [
        "in",
        "log.csv",
        "log.csv.state",
        "log.csv.state.lock",
    ]


def test_rows_on_standard_output(run: Run, calibrated_folder: Path, line: Path) -> None:
    draw(400).save(line / "in" / "a.png")
    watch = ("watch", "in", "--once", "--model", calibrated_folder)
    (row,) = rows(run(*watch).stdout)
    assert (row["path"], row["error"]) == ("in/a.png", "")
    assert rows(run(*watch).stdout) == []
    assert (line / "watch.state").exists()
    other = ("--state", "other.state", "--format", "jsonl", "--columns", "image_score")
    assert "image_score" in json.loads(run(*watch, *other).stdout)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--on-anomaly", "echo {path}"], "what is anomalous? say so with --fpr or --threshold"),
        (["--move-anomalous", "x"], "what is anomalous?"),
        (["--fpr", "0.1", "--fail-on-anomaly"], "--fail-on-anomaly goes with --once only"),
        (["--fpr", "0.1", "--threshold", "1"], "choose one"),
        (["--fpr", "0.1", "--on-anomaly", "echo '{path}"], "--on-anomaly: No closing quotation"),
        (["--fpr", "0.1", "--on-anomaly", "echo {file}"], "there is no {file}"),
        (["--columns", "x"], "no further column"),
        (["--fdr", "0.1"], "No such option"),
    ],
)
def test_bad_usage(run: Run, calibrated_folder: Path, line: Path, options: list[str], said: str) -> None:
    done = run("watch", "in", "--model", calibrated_folder, *options)
    assert (done.returncode, said in done.stderr.decode()) == (2, True)
    assert [path.name for path in line.iterdir()] == ["in"]


def test_what_cannot_be_is_one_sentence(run: Run, calibrated_folder: Path, line: Path) -> None:
    watch = ("--once", "--model", calibrated_folder)
    for arguments, said in (
        (("none", *watch), "none is not a folder"),
        (("in", "--once", "--model", "none"), "no model in none"),
        (("in", *watch, "--fpr", "0.001"), "--fpr 0.001 needs 999 held-out normals"),
        (("in", *watch, "-o", "no/log.csv"), "cannot use no/log.csv.state: No such file or directory"),
    ):
        done = run("watch", *arguments)
        assert (done.returncode, done.stderr.count(b"\n")) == (1, 1), done.stderr
        assert done.stderr.decode().startswith(f"anomscan: {said}")


HOSTILE = (b"a b.png", b"'q' \"d\".png", b"$(touch harm).png", b"-rf.png", b"new\nline.png", b"caf\xe9.png")


def test_the_command_is_called_for_hostile_names(run: Run, calibrated_folder: Path, line: Path) -> None:
    for seed, name in enumerate(HOSTILE):
        draw_odd(400 + seed).save(line / "in" / "x.png")
        (line / "in" / "x.png").rename(line / "in" / os.fsdecode(name))
    (line / "see.py").write_text(
        "import os, sys\n"
        "assert os.path.exists(sys.argv[1]), 'it is where it was'\n"
        "open('seen', 'ab').write(os.fsencode(sys.argv[1]) + b'\\0' + os.fsencode(sys.argv[2]) + b'\\0')\n"
        "print('not a row')\n"
    )
    done = run(
        *("watch", "in", "--once", "--model", calibrated_folder, "--fpr", "0.1", "--format", "jsonl"),
        *("--on-anomaly", f"{sys.executable} see.py {{path}} p={{p_value}}", "--move-anomalous", "aside"),
    )
    assert done.returncode == 0, done.stderr.decode()
    assert len([json.loads(row) for row in done.stdout.splitlines()]) == len(HOSTILE)
    seen = (line / "seen").read_bytes().split(b"\0")
    assert sorted(seen[:-1:2]) == sorted(os.fsencode(line / "in") + b"/" + name for name in HOSTILE)
    assert set(seen[1::2]) == {f"p={1 / 11}".encode()}
    assert not (line / "harm").exists()
    assert sorted(os.fsencode(path.name) for path in (line / "aside").iterdir()) == sorted(HOSTILE)


def test_a_failing_and_a_slow_command_stop_nothing(run: Run, calibrated_folder: Path, line: Path) -> None:
    draw_odd(400).save(line / "in" / "odd.png")
    watch = ("watch", "in", "--once", "--model", calibrated_folder, "--fpr", "0.1")
    for command, said in (
        ("false", "false for {} failed: exit code 1"),
        ("sleep 60", "sleep for {} took more than 0.3 s"),
    ):
        state = f"{command[:5]}.state"
        done = run(*watch, "--on-anomaly", command, "--on-anomaly-timeout", "0.3", "--state", state)
        assert done.returncode == 0
        assert said.format(line / "in" / "odd.png") in done.stderr.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0(start: Start, line: Path, number: signal.Signals) -> None:
    process = start("-o", "log.jsonl", "--format", "jsonl", "--settle", "0.2")
    draw(400).save(line / "in" / "a.png")
    wait_for(lambda: len(log(line)) == 1)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, b"watching in, told by the system of new files\n")


def test_a_second_signal_interrupts_the_batch(start: Start, line: Path) -> None:
    process = start(
        "--fpr",
        "0.1",
        "-o",
        "log.jsonl",
        "--format",
        "jsonl",
        "--on-anomaly",
        "sleep 600",
        "--on-anomaly-timeout",
        "600",
    )
    draw_odd(400).save(line / "in" / "odd.png")
    wait_for(lambda: len(log(line)) == 1)
    time.sleep(0.3)
    process.terminate()
    time.sleep(0.3)
    assert process.poll() is None
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    assert said.endswith(b"anomscan: interrupted; the rest of the batch is done at the next start\n")


def test_two_with_one_state_keep_each_other_out(
    start: Start, run: Run, calibrated_folder: Path, line: Path
) -> None:
    process = start("-o", "log.jsonl", "--format", "jsonl")
    wait_for(lambda: (line / "log.jsonl.state.lock").exists() and (line / "log.jsonl.state").exists())
    done = run("watch", "in", "--once", "--model", calibrated_folder, "-o", "log.jsonl", "--format", "jsonl")
    assert done.returncode == 1
    assert done.stderr.decode() == (
        f"anomscan: process {process.pid} is watching with log.jsonl.state; name another --state\n"
    )


def test_a_reader_that_goes_ends_it(start: Start, line: Path) -> None:
    process = start("--format", "jsonl", "--settle", "0.2")
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    draw(400).save(line / "in" / "a.png")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.splitlines()[-1].startswith(b"anomscan: nobody reads the rows any more")


def test_killed_five_times_it_reports_every_file_once(start: Start, line: Path) -> None:
    options = (
        "-o",
        "log.jsonl",
        "--format",
        "jsonl",
        "--settle",
        "0.3",
        "--fpr",
        "0.1",
        "--move-anomalous",
        "aside",
    )
    chance, names, number = random.Random(5), [], 0
    process = start(*options)
    for _ in range(5):
        until = time.monotonic() + chance.uniform(0.6, 1.6)
        while time.monotonic() < until:
            name = f"{number:03}.png"
            (draw_odd if number % 5 == 0 else draw)(5000 + number).save(line / "in" / f".{name}", "PNG")
            (line / "in" / f".{name}").rename(line / "in" / name)
            names.append(name)
            number += 1
            time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.wait()
        process = start(*options)
    draw(5000 + number).save(line / "in" / f"{number:03}.png", "PNG")  # by the last process
    names.append(f"{number:03}.png")
    wait_for(lambda: len(log(line)) >= len(names))
    process.terminate()
    assert process.wait(60) == 0
    counts = Counter(os.path.basename(str(row["path"])) for row in log(line))
    assert (sorted(counts), set(counts.values())) == (names, {1})
    anomalous = sorted(os.path.basename(str(row["path"])) for row in log(line) if row["anomalous"])
    assert sorted(path.name for path in (line / "aside").iterdir()) == anomalous
    assert len(anomalous) >= len(names) // 5
    assert len(list((line / "in").iterdir())) == len(names) - len(anomalous)


def test_it_imports_no_torch_and_leaves_no_descriptor_open(calibrated_folder: Path, line: Path) -> None:
    script = (
        "import os, sys\n"
        "from anomscan.files.append import AppendedFile\n"
        "from anomscan.files.ledger import Ledger\n"
        "from anomscan.screen.watch import Watch, WatchJob\n"
        f"job = WatchJob('in', {str(calibrated_folder)!r}, settle=0.1)\n"
        "with Ledger.open('state', 'in') as ledger:\n"
        "    watch = Watch(job, ledger, AppendedFile('log.csv'), print)\n"
        "    counts = []\n"
        "    for i in range(6):\n"
        "        os.link('a.png', f'in/{i}.png')\n"
        "        watch.once()\n"
        "        counts.append(len(os.listdir('/proc/self/fd')))\n"
        "print(counts[1] == counts[-1], sorted({'torch', 'timm'} & set(sys.modules)), watch.counts.rows)\n"
    )
    draw(1).save(line / "a.png")
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=line,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("True [] 6\n", "")
