"""The command line as a shell script sees it: processes, pipes, exit codes."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anomscan.config import COLUMNS
from tests.conftest import REPOSITORY, Run, draw

HEAVY = ("torch", "torchvision", "timm", "onnxruntime", "faiss", "numpy", "PIL")


def rows(output: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(output.decode("utf-8", "surrogateescape"), newline="")))


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    folder = tmp_path / "incoming"
    folder.mkdir()
    for seed in range(6):
        draw(400 + seed).save(folder / f"{seed}.png")
    return folder


def test_score_prints_csv_and_nothing_else(run: Run, model_folder: Path, incoming: Path) -> None:
    done = run("score", incoming, "--model", model_folder, "--top", "4")
    assert (done.returncode, done.stderr) == (0, b"")
    ranked = rows(done.stdout)
    assert tuple(ranked[0]) == COLUMNS
    assert [row["rank"] for row in ranked] == ["1", "2", "3", "4"]
    assert all(row["p_value"] == row["anomalous"] == row["error"] == "" for row in ranked)


def test_an_unreadable_file_is_a_row_and_exit_code_3(run: Run, model_folder: Path, incoming: Path) -> None:
    (incoming / "0.png").write_bytes(b"broken")
    done = run("score", "incoming", "--top", "1", ANOMSCAN_MODEL=str(model_folder))
    assert done.returncode == 3
    assert [row["path"] for row in rows(done.stdout)][1:] == ["incoming/0.png"]
    assert rows(done.stdout)[1]["error"].startswith("not an image")
    assert done.stderr == b"1 of 6 files could not be read\n"


def test_json_lines_carry_the_same(run: Run, model_folder: Path, incoming: Path) -> None:
    as_csv = rows(run("score", incoming, "--model", model_folder).stdout)
    lines = run("score", incoming, "--model", model_folder, "--format", "jsonl").stdout.splitlines()
    as_json = [json.loads(line) for line in lines]
    plain = [{key: "" if value is None else str(value) for key, value in row.items()} for row in as_json]
    assert plain == as_csv


def test_the_output_file_appears_whole(run: Run, model_folder: Path, incoming: Path, tmp_path: Path) -> None:
    done = run("score", incoming, "--model", model_folder, "-o", "out.csv")
    assert (done.returncode, done.stdout) == (0, b"")
    assert len(rows((tmp_path / "out.csv").read_bytes())) == 6
    run("score", incoming, "--model", model_folder, "-o", "out.csv", "--k", "99")
    assert len(rows((tmp_path / "out.csv").read_bytes())) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["incoming", "out.csv"]


def test_any_name_goes_in_and_comes_out(run: Run, model_folder: Path, tmp_path: Path) -> None:
    names = [
        b"space and 'quotes\".png",
        b"comma,.png",
        b"line\nfeed.png",
        b"\xff.png",
        "🔩.png".encode(),
        b"=1.png",
        b"-x.png",
    ]
    for name in names:
        draw(1).save(tmp_path / "x.png")
        os.rename(tmp_path / "x.png", os.fsencode(tmp_path) + b"/" + name)
    walked = rows(run("score", ".", "--model", model_folder).stdout)
    assert sorted(os.fsencode(os.path.normpath(row["path"])) for row in walked) == sorted(names)
    listed = run("score", "-0", "-", "--model", model_folder, stdin=b"\0".join(names) + b"\0")
    assert sorted(os.fsencode(os.path.normpath(row["path"])) for row in rows(listed.stdout)) == sorted(names)
    lines = run("score", "-", "--model", model_folder, "--format", "jsonl", stdin="🔩.png\n\n".encode())
    assert [json.loads(line)["path"] for line in lines.stdout.splitlines()] == ["🔩.png"]


def test_a_closed_pipe_is_no_error(model_folder: Path, incoming: Path) -> None:
    script = f"{sys.executable} -m anomscan score {incoming} {incoming} --model {model_folder} | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script], cwd=REPOSITORY, capture_output=True, check=False
    )
    assert done.stdout.decode() == ",".join(COLUMNS) + "\n"
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (
            ["score", "incoming"],
            1,
            "no model in anomscan-model; make one with 'anomscan adapt NORMAL_FOLDER'",
        ),
        (["score", "nowhere", "--model", "MODEL"], 1, "nowhere: No such file or directory"),
        (["score", "empty", "--model", "MODEL"], 1, "no images to score"),
        (["score", "incoming", "--model", "MODEL", "--top", "0"], 2, "for '--top'"),
        (["score", "incoming", "--model", "MODEL", "-o", "/proc/x.csv"], 1, "cannot write /proc/x.csv"),
        (["score", "incoming", "--model", "MODEL", "--format", "xml"], 2, "'xml' is not one of"),
        (["score", "incoming", "--model", "MODEL", "--k", "21"], 1, "the largest possible --k is 20"),
        (["score"], 2, "Missing argument"),
        (["adapt", "empty"], 1, "no images in empty"),
        (["adapt", "textonly"], 1, "no images in textonly"),
        (
            ["adapt", "incoming", "--method", "panda"],
            2,
            "there is no method called 'panda'; choose one of none",
        ),
        (["adapt", "incoming", "--model", "textonly/a.txt"], 1, "cannot write the model folder"),
        (["index", "nowhere"], 1, "nowhere: No such file or directory"),
        (["export", "x.onnx"], 1, "no model in anomscan-model"),
        (["info", "--model", "TAMPERED"], 1, "checksum differs"),
        (["score", "incoming", "--model", "TAMPERED"], 1, "checksum differs"),
        (["score", "incoming", "--model", "NEWER"], 1, "written by a newer anomscan"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_what_goes_wrong_is_one_sentence(
    run: Run,
    model_folder: Path,
    incoming: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    sentence: str,
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "textonly").mkdir()
    (tmp_path / "textonly" / "a.txt").touch()
    tampered = Path(shutil.copytree(model_folder, tmp_path / "tampered"))
    with open(next(tampered.glob("index-*")), "ab") as file:
        file.write(b"!")
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "model.json").write_text('{"schema": 99, "anomscan": "7"}')
    folders = {"MODEL": model_folder, "TAMPERED": tampered, "NEWER": newer}
    done = run(*(folders.get(argument, argument) for argument in arguments))
    text = done.stderr.decode()
    assert (done.returncode, done.stdout) == (code, b""), text
    assert sentence in " ".join(text.replace("│", " ").split())
    assert "Traceback" not in text
    if code == 1:
        assert text.count("\n") == 1


def test_score_imports_neither_torch_nor_timm(model_folder: Path, incoming: Path) -> None:
    script = (
        "import sys\n"
        "from anomscan.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "assert 'onnxruntime' in loaded\n"
        "print(sorted(loaded & {'torch', 'torchvision', 'timm', 'onnx', 'rich', 'safetensors'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "score", incoming, "--model", model_folder, "-o", os.devnull],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"[]\n"


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from anomscan.cli import app\n"
        "app(['--help'], standalone_mode=False)\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, check=True)
    assert done.stdout.decode().splitlines()[-1] == "[]"
    assert b"adapt" in done.stdout


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "timm", "onnx", "onnxscript", "safetensors"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
from anomscan.cli import main
main()
"""


@pytest.mark.parametrize("command", ["score", "index", "info", "export", "evaluate"])
def test_a_line_pc_needs_no_torch(
    model_folder: Path, normal_folder: Path, incoming: Path, tmp_path: Path, command: str
) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "m")
    arguments = {
        "score": [incoming],
        "index": [normal_folder],
        "info": [],
        "export": ["out.onnx"],
        "evaluate": [incoming, normal_folder],
    }[command]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, command, *arguments, "--model", folder],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()


def test_adapt_without_torch_says_what_is_missing(normal_folder: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, "adapt", normal_folder],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert b"needs torch" in done.stderr
    assert done.stderr.count(b"\n") == 1


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


def test_info_shows_and_prints_the_manifest(run: Run, model_folder: Path) -> None:
    table = run("info", "--model", model_folder).stdout.decode()
    assert "tf_efficientnet_lite0" in table
    assert "20 images" in table
    assert json.loads(run("info", "--json", "--model", model_folder).stdout)["data"]["images"] == 20


def test_export_says_what_it_wrote(run: Run, model_folder: Path, tmp_path: Path) -> None:
    done = run("export", "out.onnx", "--model", model_folder)
    assert done.returncode == 0
    assert done.stderr.startswith(b"wrote out.onnx")
    assert (tmp_path / "out.onnx").exists()


@pytest.fixture
def labelled_folders(incoming: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Six drawn images, and four that show only a strip of them."""
    anomalous = tmp_path / "anomalous"
    anomalous.mkdir()
    for seed in range(4):
        draw(400 + seed).crop((0, 30, 96, 60)).save(anomalous / f"{seed}.png")
    return incoming, anomalous


def test_evaluate_draws_a_table(
    run: Run, model_folder: Path, labelled_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    done = run("evaluate", *labelled_folders, "--model", model_folder)
    assert (done.returncode, done.stderr) == (0, b"")
    lines = [line.rstrip() for line in done.stdout.decode().splitlines()]
    assert [" ".join(line.split()) for line in lines] == [
        "value 95 % interval",
        "AUROC 1.0000 1.0000 to 1.0000",
        "average precision 1.0000 1.0000 to 1.0000",
        "FPR at 95 % TPR 0.0000 0.0000 to 0.0000",
        "normal images 6",
        "anomalous images 4",
        "unreadable files 0",
    ]
    assert max(map(len, lines)) <= 80


def test_evaluate_json_from_folders_and_from_a_file_agree(
    run: Run, model_folder: Path, labelled_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    normal, anomalous = labelled_folders
    for path in (normal / "5.png", anomalous / "1.png"):
        path.write_bytes(b"broken")
    shutil.copy(normal / "0.png", anomalous / "zero.png")
    of_folders = run("evaluate", normal, anomalous, "--json", "--model", model_folder, "--k", "1")
    assert of_folders.returncode == 3
    figures = json.loads(of_folders.stdout)
    assert (figures["normal"], figures["anomalous"], figures["unreadable"], figures["seed"]) == (5, 4, 2, 0)
    area = figures["auroc"]
    assert area["low"] < area["value"] < area["high"] <= 1
    assert of_folders.stderr.decode().splitlines() == [
        f"left out {path}: not an image that can be read (JPEG, PNG, BMP, TIFF, WEBP, GIF)"
        for path in (normal / "5.png", anomalous / "1.png")
    ]

    labels = tmp_path / "lists" / "labels.csv"
    labels.parent.mkdir()
    with open(labels, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "anomalous"])
        writer.writerows((f"../anomalous/{path.name}", 1) for path in sorted(anomalous.iterdir()))
        writer.writerows((path, 0) for path in sorted(normal.iterdir()))
    of_file = run("evaluate", labels, "--json", "--model", model_folder, "--k", "1", cwd=labels.parent)
    assert (of_file.returncode, json.loads(of_file.stdout)) == (3, figures)
    reseeded = run("evaluate", labels, "--json", "--model", model_folder, "--k", "1", "--seed", "7")
    assert json.loads(reseeded.stdout)["auroc"]["value"] == area["value"]
    assert json.loads(reseeded.stdout)["seed"] == 7


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["incoming"], 2, "incoming is a folder: name the folder of anomalous images after it"),
        (["labels.csv", "incoming"], 2, "labels.csv is a file: name two folders"),
        (["incoming", "incoming"], 2, "share images: one folder lies in the other"),
        (["incoming", "empty"], 1, "no images in empty"),
        (["nowhere"], 1, "nowhere: No such file or directory"),
        (["incoming", "nowhere"], 1, "nowhere: No such file or directory"),
        (["labels.csv"], 1, "labels.csv, line 3: anomalous must be 0 or 1, not 'yes'"),
        (["gone.csv", "--model", "MODEL"], 1, "not one of the 1 anomalous images could be read"),
    ],
)
def test_what_goes_wrong_in_evaluate_is_one_sentence(
    run: Run,
    model_folder: Path,
    incoming: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    sentence: str,
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "labels.csv").write_text("path,anomalous\nincoming/0.png,0\nincoming/1.png,yes\n")
    (tmp_path / "gone.csv").write_text("path,anomalous\nincoming/0.png,0\ngone.png,1\n")
    done = run("evaluate", *(model_folder if argument == "MODEL" else argument for argument in arguments))
    *before, last = done.stderr.decode().splitlines()
    assert (done.returncode, done.stdout) == (code, b"")
    assert last.startswith("anomscan: ")
    assert sentence in last
    assert before == (["left out gone.png: No such file or directory"] if "gone.csv" in arguments else [])


def test_version(run: Run) -> None:
    import anomscan

    assert run("--version").stdout.decode() == f"anomscan {anomscan.__version__}\n"
