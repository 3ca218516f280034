from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import Run, draw_odd


@pytest.fixture
def labelled_folders(incoming: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Six drawn images, and four that are nothing like them."""
    anomalous = tmp_path / "anomalous"
    anomalous.mkdir()
    for seed in range(4):
        draw_odd(400 + seed).save(anomalous / f"{seed}.png")
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
        f"left out {path}: not an image that can be read (JPEG, PNG, BMP, TIFF, WEBP, GIF, PPM)"
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
    (tmp_path / "labels.csv").write_text("path,anomalous\nincoming/0.png,0\nincoming/1.png,yes\n")
    (tmp_path / "gone.csv").write_text("path,anomalous\nincoming/0.png,0\ngone.png,1\n")
    done = run("evaluate", *(model_folder if argument == "MODEL" else argument for argument in arguments))
    *before, last = done.stderr.decode().splitlines()
    assert (done.returncode, done.stdout) == (code, b"")
    assert last.startswith("anomscan: ")
    assert sentence in last
    assert before == (["left out gone.png: No such file or directory"] if "gone.csv" in arguments else [])
