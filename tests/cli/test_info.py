from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import Run, draw_odd, draw_plain, fake_model


def test_info_shows_and_prints_the_manifest(run: Run, model_folder: Path) -> None:
    table = run("info", "--model", model_folder).stdout.decode()
    assert "fake (tests), 192 features" in table
    assert "20 images" in table
    assert "none: there are no p-values" in table
    printed = run("info", "--json", "--model", model_folder).stdout
    assert json.loads(printed) == json.loads((model_folder / "model.json").read_text())
    assert json.loads(printed)["data"]["images"] == 20


@pytest.mark.parametrize(
    ("scorer", "line"),
    [
        ("knn", "knn, k = 2, cosine distance"),
        ("knn-euclidean", "knn, k = 2, euclidean distance"),
        ("kmeans:3", "kmeans, 3 centroids, k = 2, cosine distance"),
        ("mean", "mean, cosine distance"),
        ("mahalanobis", "mahalanobis, cosine distance"),
    ],
)
def test_the_scorer_describes_itself(
    run: Run, normal_folder: Path, tmp_path: Path, scorer: str, line: str
) -> None:
    fake_model(normal_folder, tmp_path / "m", 0.5, scorer=scorer)
    done = run("info", "--model", "m")
    assert done.returncode == 0
    shown = {line.split("  ")[0]: " ".join(line.split()[1:]) for line in done.stdout.decode().splitlines()}
    assert shown["scorer"] == line


def test_what_is_damaged_is_one_sentence(run: Run, model_folder: Path, tmp_path: Path) -> None:
    tampered = Path(shutil.copytree(model_folder, tmp_path / "tampered"))
    with open(next(tampered.glob("index-*")), "ab") as file:
        file.write(b"!")
    done = run("info", "--model", "tampered")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"checksum differs" in done.stderr
    assert done.stderr.count(b"\n") == 1
    done = run("info")
    assert (done.returncode, b"no model in anomscan-model" in done.stderr) == (1, True)


def test_suspects_among_the_normals_are_shown(run: Run, tmp_path: Path) -> None:
    (tmp_path / "normal").mkdir()
    for seed in range(30):
        draw_plain(seed).save(tmp_path / "normal" / f"{seed}.png")
    draw_odd(400).save(tmp_path / "normal" / "odd.png")
    fake_model(tmp_path / "normal", tmp_path / "anomscan-model")
    done = run("info", "--report", "normals.html")
    assert done.returncode == 0
    assert "1 of 31: " in " ".join(done.stdout.decode().split())
    assert "1 of 31 normals are unlike the others" in (tmp_path / "normals.html").read_text()


def test_a_model_that_ranked_no_normals_has_no_page(run: Run, tmp_path: Path, normal_folder: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(normal_folder.iterdir())[:10]:
        shutil.copy(path, few)
    fake_model(few, tmp_path / "anomscan-model")
    done = run("info", "--report", "normals.html")
    assert (done.returncode, b"index or adapt again" in done.stderr) == (1, True)
    assert not (tmp_path / "normals.html").exists()
    done = run("info", "--normals", "few")
    assert (done.returncode, b"--report" in done.stderr) == (2, True)
