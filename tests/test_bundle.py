from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from anomscan import bundle
from anomscan.bundle import commit, read_manifest, read_model, staging, write_normals
from anomscan.errors import ModelDamaged, ModelNotFound, ModelTooNew, OutputError
from anomscan.gallery import Gallery
from tests.conftest import REPOSITORY


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def staged(folder: Path, stage: Path, normals: int) -> dict[str, Path]:
    """The files of ``folder`` with a gallery of that many random vectors."""
    files = {}
    for role, file in read_manifest(folder).files.items():
        files[role] = stage / file.name
        shutil.copy(folder / file.name, files[role])
    vectors = np.random.default_rng(normals).normal(size=(normals, 1280)).astype(np.float32)
    Gallery.build(vectors).save(files[bundle.INDEX])
    write_normals(files[bundle.NORMALS], [f"/{normals}/{i}.png" for i in range(normals)])
    return files


def replace_model(folder: Path, normals: int) -> None:
    with staging(folder) as stage:
        commit(folder, staged(folder, stage, normals), read_manifest(folder))


def test_the_folder_holds_what_the_manifest_says_and_nothing_else(folder: Path) -> None:
    replace_model(folder, 5)
    names = {file.name for file in read_manifest(folder).files.values()}
    assert {path.name for path in folder.iterdir()} == names | {"model.json"}
    model = read_model(folder, threads=1)
    assert len(model.gallery) == len(model.normals) == 5


def test_the_manifest_is_plain_json_with_checksums(folder: Path) -> None:
    data = json.loads((folder / "model.json").read_text())
    assert data["schema"] == 1
    assert data["preprocessing"]["height"] == 64
    assert {len(file["sha256"]) for file in data["files"].values()} == {64}
    assert data["versions"].keys() >= {"python", "onnxruntime", "torch", "timm"}


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="anomscan adapt"):
        read_model(tmp_path / "none", threads=1)


def test_a_newer_model(folder: Path) -> None:
    data = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({"schema": 2, "anomscan": "9.0", "else": data}))
    with pytest.raises(ModelTooNew, match=r"9\.0"):
        read_model(folder, threads=1)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 1}', '{"schema": "x"}', "\udcff"])
def test_a_broken_manifest(folder: Path, content: str) -> None:
    (folder / "model.json").write_text(content, errors="surrogateescape")
    with pytest.raises(ModelDamaged, match=r"model\.json"):
        read_model(folder, threads=1)


@pytest.mark.parametrize("role", [bundle.EXTRACTOR, bundle.INDEX, bundle.NORMALS])
def test_a_tampered_or_missing_file(folder: Path, role: str) -> None:
    path = folder / read_manifest(folder).files[role].name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelDamaged, match="checksum differs"):
        read_model(folder, threads=1)
    path.unlink()
    with pytest.raises(ModelDamaged, match="lacks"):
        read_model(folder, threads=1)


def test_a_manifest_without_a_file_it_needs(folder: Path) -> None:
    data = json.loads((folder / "model.json").read_text())
    del data["files"]["scorer"]
    (folder / "model.json").write_text(json.dumps(data))
    with pytest.raises(ModelDamaged, match="names no scorer file"):
        read_model(folder, threads=1)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"), staging(tmp_path / "file" / "model"):
        pytest.fail("the block must not run")


def test_a_failed_first_model_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), staging(tmp_path / "new"):
        raise ValueError("stop")
    assert not (tmp_path / "new").exists()


def test_leftovers_of_a_killed_writer_go_after_a_day(folder: Path) -> None:
    old, young = folder / ".staging-old", folder / ".staging-young"
    old.mkdir()
    young.mkdir()
    os.utime(old, (0, 0))
    replace_model(folder, 3)
    assert not old.exists()
    assert young.exists()


def test_a_reader_never_sees_a_mixture(folder: Path) -> None:
    replace_model(folder, 3)
    stop = threading.Event()

    def write() -> None:
        for i in range(20):
            replace_model(folder, 3 + i % 4)
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    reads = 0
    while not stop.is_set() or reads == 0:
        model = read_model(folder, threads=1)
        assert model.normals[0] == f"/{len(model.gallery)}/0.png"
        reads += 1
    writer.join()


KILLER = """
import os, signal, sys
from pathlib import Path
calls = 0
def deadly(function):
    def call(*arguments, **keywords):
        global calls
        calls += 1
        if calls == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **keywords)
    return call
for name in ("replace", "fsync", "unlink", "chmod", "rmdir"):
    setattr(os, name, deadly(getattr(os, name)))
from tests.test_bundle import replace_model
replace_model(Path(sys.argv[1]), int(sys.argv[3]))
print("survived")
"""


def test_a_writer_killed_at_any_call_leaves_a_whole_model(folder: Path) -> None:
    replace_model(folder, 3)
    killed, old = 0, 3
    for point in range(1, 60):
        new = old + 1
        process = subprocess.run(
            [sys.executable, "-c", KILLER, str(folder), str(point), str(new)],
            cwd=REPOSITORY,
            capture_output=True,
            check=False,
        )
        model = read_model(folder, threads=1)
        assert len(model.gallery) == len(model.normals)
        assert len(model.gallery) in (old, new)
        assert model.normals[0] == f"/{len(model.gallery)}/0.png"
        old = len(model.gallery)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, process.stderr.decode()
        killed += 1
    assert killed >= 10
    assert old == new


def test_a_model_of_before_there_were_calibrations(folder: Path) -> None:
    data = json.loads((folder / "model.json").read_text())
    del data["calibration"], data["changes"]
    (folder / "model.json").write_text(json.dumps(data))
    assert read_manifest(folder).calibration is None
    assert read_model(folder, threads=1).calibration is None


def test_a_tampered_calibration(calibrated_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(calibrated_folder, tmp_path / "m"))
    with open(next(folder.glob("calibration-*")), "ab") as file:
        file.write(b"!")
    with pytest.raises(ModelDamaged, match="checksum differs"):
        read_model(folder, threads=1)
