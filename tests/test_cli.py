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
from anomscan.__main__ import main
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


@pytest.fixture
def judged(incoming: Path) -> Path:
    """Six drawn images like the normals, and two that are not."""
    for name in ("odd.png", "=odd.png"):
        draw(410).rotate(45).resize((96, 30)).save(incoming / name)
    return incoming


def test_fpr_fills_p_value_and_anomalous(run: Run, calibrated_folder: Path, judged: Path) -> None:
    found = rows(run("score", judged, "--model", calibrated_folder, "--fpr", "0.1").stdout)
    assert {row["anomalous"] for row in found[:2]} == {"True"}
    assert all(row["anomalous"] == str(float(row["p_value"]) <= 0.1) for row in found)
    plain = rows(run("score", judged, "--model", calibrated_folder).stdout)
    assert [row["p_value"] for row in plain] == [row["p_value"] for row in found]
    assert {row["anomalous"] for row in plain} == {""}


def test_csv_and_json_lines_carry_the_same_decisions(run: Run, calibrated_folder: Path, judged: Path) -> None:
    arguments = ("score", ".", "--model", calibrated_folder, "--fdr", "0.5")
    as_csv = rows(run(*arguments, cwd=judged).stdout)
    lines = run(*arguments, "--format", "jsonl", cwd=judged).stdout.splitlines()
    as_json = [json.loads(line) for line in lines]
    plain = [{key: "" if value is None else str(value) for key, value in row.items()} for row in as_json]
    assert plain == as_csv
    named = run("score", "=odd.png", "--model", calibrated_folder, cwd=judged)
    assert [row["path"] for row in rows(named.stdout)] == ["./=odd.png"]
    assert (judged / rows(named.stdout)[0]["path"]).exists()


def test_a_normal_scored_again_is_never_anomalous(
    run: Run, calibrated_folder: Path, normal_folder: Path
) -> None:
    for option in ("--fpr", "--fdr"):
        done = run("score", normal_folder, "--model", calibrated_folder, option, "0.5", "--fail-on-anomaly")
        assert done.returncode == 0
        assert {(row["p_value"], row["anomalous"]) for row in rows(done.stdout)} == {("1.0", "False")}


def test_a_threshold_needs_no_calibration(run: Run, model_folder: Path, judged: Path) -> None:
    scores = [float(row["score"]) for row in rows(run("score", judged, "--model", model_folder).stdout)]
    arguments = ("score", judged, "--model", model_folder, "--threshold", str(scores[1]))
    assert [row["anomalous"] for row in rows(run(*arguments).stdout)] == ["True"] * 2 + ["False"] * 6
    assert run(*arguments).returncode == 0
    assert run(*arguments, "--fail-on-anomaly").returncode == 10
    (judged / "broken.png").touch()
    assert run(*arguments).returncode == 3
    assert run(*arguments, "--fail-on-anomaly").returncode == 10
    none = run("score", judged, "--model", model_folder, "--threshold", "9", "--fail-on-anomaly")
    assert none.returncode == 3
    assert none.stderr.decode().splitlines() == [
        "0 of 8 images are anomalous",
        "1 of 9 files could not be read",
    ]


def test_anomalous_files_are_moved_or_copied_and_nothing_is_overwritten(
    run: Run, calibrated_folder: Path, judged: Path, tmp_path: Path
) -> None:
    aside = tmp_path / "aside" / "today"
    decide = ("--model", calibrated_folder, "--fpr", "0.1")
    found = rows(run("score", judged, *decide, "--copy-anomalous", aside).stdout)
    called = {Path(row["path"]).name for row in found if row["anomalous"] == "True"}
    assert {"odd.png", "=odd.png"} <= called
    assert {path.name for path in aside.iterdir()} == called
    first = (aside / "odd.png").read_bytes()
    assert run("score", judged, *decide, "--move-anomalous", aside).returncode == 0
    assert (aside / "odd.png").read_bytes() == (aside / "odd-1.png").read_bytes() == first
    assert len(list(aside.iterdir())) == 2 * len(called)
    assert not (judged / "odd.png").exists()


def test_the_summary(run: Run, calibrated_folder: Path, judged: Path, tmp_path: Path) -> None:
    (judged / "broken.png").touch()
    run("score", judged, "--model", calibrated_folder, "--fpr", "0.1", "--summary", "s.json")
    summary = json.loads((tmp_path / "s.json").read_text())
    info = json.loads(run("info", "--json", "--model", calibrated_folder).stdout)
    assert (summary["images"], summary["unreadable"], summary["held_out"]) == (9, 1, 10)
    assert summary["anomalous"] >= 2
    assert summary["decision"] == {"fpr": 0.1, "fdr": None, "threshold": None}
    assert list(summary["quantiles"]) == ["0", "0.05", "0.25", "0.5", "0.75", "0.95", "1"]
    assert sorted(summary["quantiles"].values()) == list(summary["quantiles"].values())
    assert summary["drift"] is None
    assert summary["images_per_second"] > 0
    assert len(summary["model"]) == 16
    assert info["calibration"]["images"] == 10


def test_a_batch_that_has_shifted_says_so(run: Run, calibrated_folder: Path, tmp_path: Path) -> None:
    for name, noise in (("same", 0), ("shifted", 60)):
        (tmp_path / name).mkdir()
        for seed in range(60):
            image = draw(1000 + seed)
            image.point([min(255, level + noise) for level in range(256)] * 3).save(
                tmp_path / name / f"{seed}.png"
            )
    arguments = ("--model", calibrated_folder, "--summary", "s.json", "-o", os.devnull, "--fpr", "0.1")
    same = run("score", "same", *arguments)
    assert b"shifted" not in same.stderr
    assert json.loads((tmp_path / "s.json").read_text())["drift"]["shifted"] is False
    shifted = run("score", "shifted", *arguments)
    assert shifted.stderr.decode().splitlines() == [
        "the whole batch has shifted: lamp, lens, or a new product? recalibrate"
    ]
    drift = json.loads((tmp_path / "s.json").read_text())["drift"]
    assert drift["shifted"]
    assert drift["p_value"] <= 0.01


def test_index_adds_and_removes(run: Run, calibrated_folder: Path, judged: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(calibrated_folder, tmp_path / "m")
    added = run("index", "--add", judged / "odd.png", judged / "=odd.png", "--model", folder)
    assert added.returncode == 0, added.stderr.decode()
    assert "12 normals" in added.stderr.decode()
    again = rows(run("score", judged / "odd.png", "--model", folder, "--fpr", "0.1").stdout)
    assert (again[0]["p_value"], again[0]["anomalous"]) == ("1.0", "False")
    assert "added" in run("info", "--model", folder).stdout.decode()
    assert "11 normals" in run("index", "--remove", judged / "odd.png", "--model", folder).stderr.decode()


def test_calibrate_and_index_keep_the_rule(
    run: Run, calibrated_folder: Path, normal_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(calibrated_folder, tmp_path / "m")
    (tmp_path / "day" / "a").mkdir(parents=True)
    for seed in range(12):
        draw(600 + seed).save(tmp_path / "day" / "a" / f"{seed}.png")
    done = run("calibrate", "day", "--model", folder, "--group-by", "folder")
    assert "12 more are held out in 1 groups" in done.stderr.decode()
    refused = run("score", "day", "--model", folder, "--fpr", "0.1")
    assert "needs 9 held-out groups of normals and the model has 1" in refused.stderr.decode()
    done = run("index", normal_folder, "--model", folder, "--group-by", "none", "--holdout", "0.3")
    assert "6 more are held out: p-values from 0.14 up" in done.stderr.decode()
    assert "6 more are held out" in run("index", normal_folder, "--model", folder).stderr.decode()
    done = run("index", normal_folder, "--model", folder, "--holdout", "0")
    assert "no normals are held out" in done.stderr.decode()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--fpr", "0.05"], 1, "--fpr 0.05 needs 19 held-out normals and the model has 10"),
        (["--fdr", "0.01"], 1, "--fdr 0.01 needs 99 held-out normals"),
        (["--fpr", "0.1", "--fdr", "0.1"], 2, "three ways to decide; choose one"),
        (["--fail-on-anomaly"], 2, "say so with --fpr, --fdr or --threshold"),
        (["--move-anomalous", "x"], 2, "say so with --fpr, --fdr or --threshold"),
        (["--fpr", "2"], 2, "--fpr"),
        (["--fpr", "0.1", "--report", "no/folder.html"], 1, "cannot write no/folder.html"),
        (["--fpr", "0.1", "--move-anomalous", "file"], 1, "to file: File exists"),
    ],
)
def test_what_goes_wrong_in_a_decision_is_one_sentence(
    run: Run,
    calibrated_folder: Path,
    judged: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    sentence: str,
) -> None:
    (tmp_path / "file").touch()
    done = run("score", judged, "--model", calibrated_folder, *arguments)
    text = " ".join(done.stderr.decode().replace("│", " ").split())
    assert (done.returncode, sentence in text, "Traceback" in text) == (code, True, False), text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["index", "a", "b"], "name one folder"),
        (["index", "--add", "--remove", "a"], "leave each other"),
        (["index", "--add", "a", "--scorer", "mean"], "leave each other"),
        (["index", "--remove", "a", "--holdout", "0.1"], "leave each other"),
    ],
)
def test_what_index_refuses(run: Run, arguments: list[str], sentence: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr.decode()
