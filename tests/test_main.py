"""The process as a whole: pipes, signals, what it imports, what a new verb takes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import anomscan
from anomscan.report.rows import COLUMNS
from tests.cli.rows import rows
from tests.conftest import REPOSITORY, Run, draw

HEAVY = ("torch", "torchvision", "timm", "onnxruntime", "faiss", "numpy", "PIL")


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    folder = tmp_path / "incoming"
    folder.mkdir()
    for seed in range(6):
        draw(400 + seed).save(folder / f"{seed}.png")
    return folder


def python(*arguments: str | Path, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        check=False,
    )


def test_score_prints_rows_and_ends_with_its_code(
    run: Run, model_folder: Path, incoming: Path, tmp_path: Path
) -> None:
    (incoming / "0.png").write_bytes(b"broken")
    names = b"incoming/1.png\nincoming/0.png\n"
    done = run("score", "-", stdin=names, ANOMSCAN_MODEL=str(model_folder))
    assert (done.returncode, done.stderr) == (3, b"1 of 2 files could not be read\n")
    assert [row["path"] for row in rows(done.stdout)] == ["incoming/1.png", "incoming/0.png"]
    failed = run("score", "incoming")
    assert (failed.returncode, failed.stdout) == (1, b"")
    assert failed.stderr.startswith(b"anomscan: no model in anomscan-model; ")
    assert failed.stderr.count(b"\n") == 1
    assert list(tmp_path.iterdir()) == [incoming]


def test_a_closed_pipe_is_no_error(model_folder: Path, incoming: Path) -> None:
    script = f"{sys.executable} -m anomscan score {incoming} {incoming} --model {model_folder} | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script], cwd=REPOSITORY, capture_output=True, check=False
    )
    assert done.stdout.decode() == ",".join(COLUMNS) + "\n"
    assert done.stderr == b""


def test_version_and_a_verb_that_is_none(run: Run) -> None:
    assert run("--version").stdout.decode() == f"anomscan {anomscan.__version__}\n"
    done = run("frobnicate")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"No such command" in done.stderr
    assert b"Traceback" not in done.stderr


def test_score_imports_neither_torch_nor_timm(model_folder: Path, incoming: Path) -> None:
    script = (
        "import sys\n"
        "from anomscan.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "assert 'onnxruntime' in loaded\n"
        "print(sorted(loaded & {'torch', 'torchvision', 'timm', 'onnx', 'rich', 'safetensors'}))"
    )
    done = python("-c", script, "score", incoming, "--model", model_folder, "-o", os.devnull)
    assert (done.returncode, done.stdout) == (0, b"[]\n"), done.stderr.decode()


def test_a_plain_score_starts_and_ends_with_no_more_than_it_needs(model_folder: Path, incoming: Path) -> None:
    unwanted = {
        "anomscan.files.delivery",
        "anomscan.files.remote",
        "anomscan.images.isolate",
        "anomscan.images.workpiece",
        "anomscan.model.whereabouts",
        "anomscan.report.evidence",
        "anomscan.report.heatmaps",
        "anomscan.report.parquet",
        "anomscan.scoring.bank",
        "anomscan.scoring.patches",
        "anomscan.scoring.reduction",
        "anomscan.scoring.rejects",
        "anomscan.scoring.tiled",
        "anomscan.screen.parts",
        "PIL.ImageDraw",
    }
    script = (
        "import gc, sys\n"
        "from anomscan.__main__ import main\n"
        "passes = []\n"
        "gc.callbacks.append(lambda phase, info: passes.append(phase))\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        f"    print(sorted({unwanted} & sys.modules.keys()), passes, gc.get_freeze_count() > 50_000)"
    )
    done = python("-c", script, "score", incoming, "--model", model_folder, "-o", os.devnull)
    assert (done.returncode, done.stdout) == (0, b"[] [] True\n"), done.stderr.decode()


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from anomscan.cli import app\n"
        "app(['--help'], standalone_mode=False)\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = python("-c", script)
    assert done.returncode == 0
    assert done.stdout.decode().splitlines()[-1] == "[]"
    assert b"adapt" in done.stdout


BLOCKED = """
import shlex, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "timm", "onnx", "onnxscript", "safetensors"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
from anomscan.__main__ import main
for command in sys.argv[1:]:
    sys.argv = ["anomscan", *shlex.split(command)]
    try:
        main()
    except SystemExit as ended:
        print("exit", ended.code, command.partition(" ")[0], file=sys.stderr)
"""


def test_a_line_pc_needs_torch_to_adapt_only(
    model_folder: Path, normal_folder: Path, incoming: Path, tmp_path: Path
) -> None:
    """All in one process: each start costs half a second."""
    shutil.copytree(model_folder, tmp_path / "anomscan-model")
    commands = (
        f"score {incoming}",
        f"index {normal_folder}",
        "info",
        "export out.onnx",
        f"evaluate {incoming} {normal_folder}",
        f"calibrate {incoming}",
        f"adapt {normal_folder}",
    )
    done = python("-c", BLOCKED, *commands, cwd=tmp_path)
    lines = done.stderr.decode().splitlines()
    ended = [line for line in lines if line.startswith("exit")]
    assert ended == [
        *(f"exit 0 {verb}" for verb in ("score", "index", "info", "export", "evaluate", "calibrate")),
        "exit 1 adapt",
    ], done.stderr.decode()
    assert re.match(
        r"anomscan: this needs (torch|timm|safetensors), which an installation for scoring", lines[-2]
    )
    assert "Traceback" not in done.stderr.decode()


def test_interrupted_is_a_sentence_and_the_signal(model_folder: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "anomscan", "score", "-", "--model", model_folder, "-o", "out.csv"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
    )
    while not list(tmp_path.iterdir()):
        time.sleep(0.05)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert error == b"anomscan: interrupted; nothing was changed\n"
    assert not list(tmp_path.iterdir())


VERB = '''
def greet(name: str) -> None:
    """Say hello."""
    print(f"hello {name}")
'''


def test_a_new_verb_is_one_file(tmp_path: Path) -> None:
    package = tmp_path / "anomscan"
    shutil.copytree(REPOSITORY / "anomscan", package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "cli" / "greet.py").write_text(VERB)
    script = (
        "from anomscan.cli import app\n"
        "app(['greet', 'you'], standalone_mode=False)\n"
        "app(['--help'], standalone_mode=False)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        check=True,
    )
    first, *shown = done.stdout.decode().splitlines()
    assert first == "hello you"
    verbs = [line.split()[0] for line in shown[shown.index("Commands:") + 1 :] if line.strip()]
    assert verbs.index("info") < verbs.index("greet")
    assert any("Say hello." in line for line in shown)


@pytest.mark.parametrize(
    ("words", "position", "completed"),
    [("anomscan ev", 1, ["evaluate"]), ("anomscan score --fa", 2, ["--fail-on-anomaly"])],
)
def test_a_shell_completes_it(words: str, position: int, completed: list[str]) -> None:
    asked = {"_ANOMSCAN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(position)}
    done = subprocess.run(
        [Path(sys.executable).parent / "anomscan"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **asked},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == completed
