from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from anomscan.fit import int8
from tests.conftest import REPOSITORY, Run

HAS_OPENVINO = find_spec("openvino") is not None


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


def test_with_the_scorer_it_scores_by_itself(
    run: Run, calibrated_folder: Path, incoming: Path, tmp_path: Path
) -> None:
    done = run("export", "out.onnx", "--with-scorer", "--model", calibrated_folder)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    first, *others = done.stderr.decode().splitlines()
    assert first.startswith("wrote out.onnx and its report; of 40 real images ranks, ")
    assert "alarms at --fpr 0.0909" in first
    assert [line.split()[0] for line in others] == ["onnxruntime", *(["openvino"] if HAS_OPENVINO else [])]
    for line in others:
        assert float(line.partition("scores differ by ")[2].split()[0]) < 1e-3
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "out.onnx",
        "out.parity.json",
    ]
    done = run(
        "export", "b.onnx", "--with-scorer", "--images", incoming, "--fpr", "0.2", "--fp16", "--model",
        calibrated_folder,
    )  # fmt: skip
    assert done.returncode == 0
    assert b"against the scores by 'anomscan score': " in done.stderr
    assert b" of 6 differ by more than 0.0001, relative, and by " in done.stderr
    assert b" at most; Spearman 1.0000, 0 images are called differently\n" in done.stderr
    assert json.loads((tmp_path / "b.parity.json").read_text())["images"] == 6


def test_what_goes_with_the_scorer_only_is_said(run: Run, calibrated_folder: Path, tmp_path: Path) -> None:
    for arguments, code, sentence in (
        (["--fp16"], 2, "--fp16 goes with --with-scorer only"),
        (["--fpr", "0.1"], 2, "--fpr goes with --with-scorer only"),
        (["--with-scorer", "--fpr", "0.01"], 1, "--fpr 0.01 needs 99 held-out normals"),
        (["--with-scorer", "--images", "nowhere"], 1, "nowhere: No such file or directory"),
    ):
        done = run("export", "x.onnx", *arguments, "--model", calibrated_folder)  # type: ignore[misc]
        assert (done.returncode, done.stdout) == (code, b"")
        assert sentence in done.stderr.decode()
        assert done.stderr.count(b"\n") == 1
    assert not (tmp_path / "x.onnx").exists()


def test_it_needs_no_torch(calibrated_folder: Path, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from anomscan.fit.export_scored import ScoredOptions, export_scored\n"
        f"export_scored({str(calibrated_folder)!r}, 'x.onnx', ScoredOptions(), lambda *_: None)\n"
        "print(sorted({'torch', 'timm', 'onnxscript'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"[]\n"
