from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from anomscan.model.folder import read_manifest
from anomscan.model.model import read_model
from tests.cli.rows import rows
from tests.conftest import REPOSITORY, Run, draw, draw_odd, fake_model

HOLDER = """
import sys
from pathlib import Path
from anomscan.files.lock import locked
with locked(Path(sys.argv[1]), 0):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that writes the model of ``folder`` until its standard input is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder / ".lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process


@pytest.fixture
def folder(calibrated_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(calibrated_folder, tmp_path / "m"))


def test_index_adds_and_removes(run: Run, folder: Path, judged: Path) -> None:
    added = run("index", "--add", judged / "odd.png", judged / "=odd.png", "--model", folder)
    assert added.returncode == 0, added.stderr.decode()
    assert "12 normals" in added.stderr.decode()
    again = rows(run("score", judged / "odd.png", "--model", folder, "--fpr", "0.1").stdout)
    assert (again[0]["p_value"], again[0]["anomalous"]) == ("1.0", "False")
    assert "added" in run("info", "--model", folder).stdout.decode()
    assert "11 normals" in run("index", "--remove", judged / "odd.png", "--model", folder).stderr.decode()


def test_index_learns_from_missed_anomalies(run: Run, folder: Path, judged: Path) -> None:
    odd = judged / "odd.png"
    before = rows(run("score", odd, judged / "=odd.png", "--model", folder).stdout)
    done = run("index", "--reject", odd, "--model", folder)
    assert (done.returncode, done.stdout) == (0, b"")
    assert "10 normals" in done.stderr.decode()
    assert "learns from 1 missed anomaly\n" in done.stderr.decode()
    after = rows(run("score", odd, judged / "=odd.png", "--model", folder).stdout)
    for then in before:
        (now,) = (row for row in after if row["path"] == then["path"])
        assert float(now["score"]) > 1.05 * float(then["score"])
    shown = run("info", "--model", folder).stdout.decode()
    assert "1 missed anomaly" in shown
    assert "rejected" in shown
    refused = run("index", "--add", odd, "--model", folder)
    assert (refused.returncode, refused.stderr.count(b"\n")) == (1, 1)
    assert "among its rejects" in refused.stderr.decode()
    done = run("index", "--unreject", odd, "--model", folder)
    assert done.returncode == 0
    assert "learns from" not in done.stderr.decode()
    assert rows(run("score", odd, judged / "=odd.png", "--model", folder).stdout) == before


def test_rejects_need_neither_torch_nor_timm(folder: Path, judged: Path) -> None:
    arguments = ["anomscan", "index", "--reject", str(judged / "odd.png"), "--model", str(folder)]
    code = (
        "import sys; sys.modules.update(torch=None, timm=None)\n"
        "from anomscan.__main__ import main\n"
        f"sys.argv = {arguments!r}\n"
        "main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert read_manifest(str(folder)).rejects is not None


def test_index_keeps_the_rule(run: Run, folder: Path, normal_folder: Path) -> None:
    done = run("index", normal_folder, "--model", folder, "--group-by", "none", "--holdout", "0.3")
    assert "6 more are held out: p-values from 0.14 up" in done.stderr.decode()
    assert "6 more are held out" in run("index", normal_folder, "--model", folder).stderr.decode()
    done = run("index", normal_folder, "--model", folder, "--holdout", "0")
    said = "none is held out, 20 calibrate: p-values from 0.048 up"
    assert said in done.stderr.decode()
    assert said in run("index", normal_folder, "--model", folder).stderr.decode()


def test_where_all_calibrate_twenty_normals_are_enough(run: Run, folder: Path, normal_folder: Path) -> None:
    refused = run("score", normal_folder, "--model", folder, "--fpr", "0.05")
    assert refused.returncode == 1
    assert "let all normals calibrate with --holdout 0" in refused.stderr.decode()
    assert run("index", normal_folder, "--model", folder, "--holdout", "0").returncode == 0
    for seed in range(2):
        draw_odd(seed).save(folder / f"odd {seed}.png")
    draw(777).save(folder / "good.png")
    images = [folder / "odd 0.png", folder / "odd 1.png", folder / "good.png", normal_folder / "03.png"]
    done = run("score", *images, "--model", folder, "--fpr", "0.05")
    assert done.returncode == 0, done.stderr.decode()
    found = {Path(row["path"]).name: row for row in rows(done.stdout)}
    assert {found[f"odd {seed}.png"]["anomalous"] for seed in range(2)} == {"True"}
    assert float(found["odd 0.png"]["p_value"]) == pytest.approx(1 / 21)
    assert found["good.png"]["anomalous"] == "False"
    assert found["03.png"]["p_value"] == "1.0", "a copy of a normal"
    assert "20 of the normals calibrate, each scored by the others" in " ".join(
        run("info", "--model", folder).stdout.decode().split()
    )
    refused = run("score", *images, "--model", folder, "--fpr", "0.04")
    assert "needs 24 normals and the model has 20" in refused.stderr.decode()
    refused = run("certify", "--model", folder, "--fpr", "0.1")
    assert refused.returncode == 1
    assert "all calibrate and none is held out" in refused.stderr.decode()


def test_a_trained_network_leaves_none_to_calibrate(run: Run, normal_folder: Path, tmp_path: Path) -> None:
    fake_model(normal_folder, tmp_path / "m", steps=2)
    done = run("index", normal_folder, "--model", "m", "--holdout", "0")
    assert done.returncode == 0
    assert "no normals are held out, so that scores have no p-values" in done.stderr.decode()
    assert "and here the network was trained on them; hold some out" in done.stderr.decode()


def test_an_unreadable_normal_is_skipped_and_exit_code_3(run: Run, folder: Path, tmp_path: Path) -> None:
    normals = tmp_path / "n"
    normals.mkdir()
    for seed in range(3):
        draw_odd(seed).save(normals / f"{seed}.png")
    (normals / "broken.png").touch()
    done = run("index", "n", "--model", folder, "--reduce", "coreset:2", "--scorer", "mahalanobis")
    assert done.returncode == 3
    assert done.stderr.decode().splitlines()[0].startswith("skipped n/broken.png: not an image")
    manifest = read_manifest(str(folder))
    assert (manifest.scorer.name, manifest.gallery.reduced) == ("mahalanobis", "coreset:2")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["nowhere"], 1, "nowhere: No such file or directory"),
        (["a", "b"], 2, "name one folder"),
        (["--add", "--remove", "a"], 2, "leave each other"),
        (["--add", "a", "--scorer", "mean"], 2, "leave each other"),
        (["--remove", "a", "--holdout", "0.1"], 2, "leave each other"),
        (["--add", "a", "--int8"], 2, "leave each other"),
        (["--remove", "a", "--reduce", "coreset:2"], 2, "leave each other"),
        (["--add", "a", "--region", "0,0,9,9"], 2, "leave each other"),
        (["--remove", "a", "--mask", "m.png"], 2, "leave each other"),
        (["--remove", "a", "--isolate"], 2, "--isolate goes with building an index, and with --add"),
        (["--reject", "a", "--isolate"], 2, "--isolate goes with building an index, and with --add"),
        (["--add", "a", "--exclude", "*.bmp"], 2, "leave each other"),
        (["--add", "a", "--engine", "ray"], 2, "--engine ray goes with building an index only"),
        (["--reject", "a", "--engine", "ray"], 2, "--engine ray goes with building an index only"),
        (["a", "--address", "auto"], 2, "--address goes with --engine ray only"),
        (["--reject", "a", "--max-pixels", "99"], 2, "leave each other"),
        (["--add", "a", "--decode-limit", "3"], 2, "--decode-limit goes with --isolate only"),
        (["a", "--force"], 2, "--force goes with --int8 only"),
        (["--add", "a"], 1, "a: No such file or directory"),
        (["--remove", "a"], 1, "no model in anomscan-model"),
        (["--reject", "a"], 1, "a: No such file or directory"),
        (["--unreject", "a"], 1, "no model in anomscan-model"),
        (["--reject", "--add", "a"], 2, "leave each other"),
        (["--reject", "a", "--reduce", "coreset:2"], 2, "leave each other"),
        (["a", "--box", "0,0,9,9"], 2, "it goes with --reject only"),
        (["--unreject", "a", "--box", "0,0,9,9"], 2, "it goes with --reject only"),
        (["--reject", "a", "--box", "0,0,9"], 2, "--box takes x,y,w,h"),
    ],
)
def test_what_index_refuses(run: Run, tmp_path: Path, arguments: list[str], code: int, sentence: str) -> None:
    done = run("index", *arguments)
    assert (done.returncode, done.stdout) == (code, b"")
    assert sentence in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert not (tmp_path / "anomscan-model").exists()


def test_in_eight_bits_it_says_what_that_costs(run: Run, folder: Path, normal_folder: Path) -> None:
    done = run("index", normal_folder, "--model", folder, "--int8", "--force")
    assert done.returncode == 0
    assert "8 bits: " in done.stderr.decode()
    assert "times as fast" in done.stderr.decode()


def test_without_the_list_of_normals_the_index_is_built_again(
    run: Run, folder: Path, normal_folder: Path
) -> None:
    next(folder.glob("gallery-*")).unlink()
    done = run("index", normal_folder, "--model", folder)
    assert (done.returncode, done.stdout) == (0, b"")
    assert "10 more are held out" in done.stderr.decode()
    assert run("score", normal_folder, "--model", folder).returncode == 0


def test_a_model_that_another_process_writes_is_busy(
    run: Run, folder: Path, normal_folder: Path, judged: Path
) -> None:
    before = read_manifest(str(folder))
    with held(folder) as process:
        for arguments in ([normal_folder], ["--add", judged / "odd.png"], ["--remove", normal_folder]):
            done = run("index", *arguments, "--model", folder)
            assert (done.returncode, done.stdout) == (1, b"")
            assert done.stderr.decode() == (
                f"anomscan: process {process.pid} is writing the model in {folder}; "
                "wait for it with --wait SECONDS\n"
            )
        waited = run("index", normal_folder, "--model", folder, "--wait", "0.2")
        assert waited.returncode == 1
        assert run("score", normal_folder, "--model", folder).returncode == 0  # readers wait for nobody
    assert read_manifest(str(folder)) == before


def test_with_wait_it_goes_on_when_the_other_has_finished(
    run: Run, folder: Path, normal_folder: Path
) -> None:
    with held(folder) as process:
        assert process.stdin is not None
        letting_go = threading.Timer(0.5, process.stdin.close)
        letting_go.start()
        done = run("index", normal_folder, "--model", folder, "--wait", "60")
        letting_go.join()
    assert done.returncode == 0, done.stderr.decode()
    assert "10 more are held out" in done.stderr.decode()


def test_a_writer_that_is_killed_is_not_waited_for(run: Run, folder: Path, normal_folder: Path) -> None:
    with held(folder) as process:
        process.kill()
        process.wait()
        assert run("index", normal_folder, "--model", folder).returncode == 0


def test_eight_at_a_time_lose_nothing(folder: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{seed}.png" for seed in range(8)]
    for seed, path in enumerate(paths):
        draw_odd(seed).save(path)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "anomscan", "index", "--add", path, "--model", folder, "--wait", "60"],
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        for path in paths
    ]
    for process in processes:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error.decode()
    model = read_model(str(folder), threads=1)
    assert sorted(model.normals[10:]) == [str(path) for path in paths]
    assert (len(model.gallery), len(model.manifest.changes)) == (18, 8)
    names = {file.name for file in model.manifest.files.values()}
    assert {path.name for path in folder.iterdir()} == {*names, "model.json", ".lock"}
