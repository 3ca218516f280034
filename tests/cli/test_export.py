from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from anomscan.fit import int8
from tests.conftest import Run


def test_export_says_what_it_wrote(run: Run, model_folder: Path, tmp_path: Path) -> None:
    done = run("export", "out.onnx", "--model", model_folder)
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.startswith(b"wrote out.onnx; scores of real images differ by ")
    assert (tmp_path / "out.onnx").exists()


def test_the_images_to_check_with_can_be_named(
    run: Run, model_folder: Path, incoming: Path, tmp_path: Path
) -> None:
    done = run("export", "out.onnx", "--images", incoming, "--images", incoming, "--model", model_folder)
    assert done.returncode == 0
    done = run("export", "other.onnx", "--images", "nowhere", "--model", model_folder)
    assert (done.returncode, done.stderr) == (1, b"anomscan: nowhere: No such file or directory\n")
    assert not (tmp_path / "other.onnx").exists()


def test_in_eight_bits_it_says_what_that_costs(
    run: Run, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run("export", "out.onnx", "--int8", "--model", model_folder)
    assert done.returncode == 0
    assert done.stderr.startswith(b"wrote out.onnx; 8 bits: ")
    monkeypatch.setattr(int8, "LEAST_SPEARMAN", 1.01)
    done = run("export", "other.onnx", "--int8", "--model", model_folder)
    assert (done.returncode, b"--force writes it nevertheless" in done.stderr) == (1, True)
    assert not (tmp_path / "other.onnx").exists()
    assert run("export", "other.onnx", "--int8", "--force", "--model", model_folder).returncode == 0


def test_what_goes_wrong_is_one_sentence(run: Run, model_folder: Path, tmp_path: Path) -> None:
    tampered = Path(shutil.copytree(model_folder, tmp_path / "tampered"))
    next(tampered.glob("extractor-*.onnx")).write_bytes(b"x")
    for arguments, code, sentence in (
        (["x.onnx"], 1, "no model in anomscan-model"),
        (["x.onnx", "--force"], 2, "--force goes with --int8 only"),
        (["/proc/x.onnx", "--model", model_folder], 1, "cannot write /proc/x.onnx"),
        (["x.onnx", "--model", tampered], 1, "checksum differs"),
    ):
        done = run("export", *arguments)  # type: ignore[misc]
        assert (done.returncode, done.stdout) == (code, b"")
        assert sentence in done.stderr.decode()
        assert done.stderr.count(b"\n") == 1
    assert not (tmp_path / "x.onnx").exists()
