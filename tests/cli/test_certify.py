from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, Run, draw_plain, fake_model


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A model with twenty held-out normals."""
    (tmp_path / "normal").mkdir()
    for seed in range(40):
        draw_plain(seed).save(tmp_path / "normal" / f"{seed:02}.png")
    fake_model(tmp_path / "normal", tmp_path / "anomscan-model", 0.5)
    return tmp_path / "anomscan-model"


def test_a_table_on_standard_output_and_the_rest_beside_it(run: Run, made: Path, tmp_path: Path) -> None:
    done = run("certify", "--fpr", "0.1", "--draws", "5", "--enough", "--report", "c.html")
    assert done.returncode == 0, done.stderr
    table = done.stdout.decode().splitlines()
    names = ["scratch", "hole", "blob", "missing part", "stain", "blur"]
    first = [line.split("  ")[0].strip() for line in table]
    assert first == ["size, % of the side", *names, "contrast, of 255", *names]
    assert table[0].split()[-5:] == ["1", "2", "4", "8", "16"]
    assert max(map(len, table)) <= 80
    told = done.stderr.decode()
    assert "at --fpr 0.1: 5 defects of each kind, size and contrast on 20 normal images" in told
    assert "without any defect," not in told
    assert "made defects are not real ones" in told
    assert "with 20 normals" in told
    assert "more normals" in told.splitlines()[-1]
    assert "What the model catches at --fpr 0.1" in (tmp_path / "c.html").read_text()


def test_other_normals_tell_the_false_alarms_too(run: Run, made: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for seed in range(8):
        draw_plain(900 + seed).save(tmp_path / "other" / f"{seed}.png")
    told = run("certify", "other", "--fpr", "0.1", "--draws", "5").stderr.decode()
    assert "on 8 normal images" in told
    assert "without any defect," in told


def test_the_same_as_json(run: Run, made: Path) -> None:
    printed = json.loads(run("certify", "--fpr", "0.1", "--draws", "5", "--json").stdout)
    assert printed["kinds"]["hole"]["by_size"]["made"] == [5] * 5
    assert printed["enough"] is None
    assert "example" not in printed["kinds"]["hole"]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--fpr", "0.01"], 1, "--fpr 0.01 needs 99 held-out normals and the model has 20"),
        (["gone"], 1, "gone: No such file or directory"),
        (["normal", "--fpr", "0.1"], 1, "is among the normals that the model compares with"),
        (["--draws", "2"], 2, "--draws"),
        (["--fpr", "0.1", "--report", "no/c.html"], 1, "cannot write no/c.html"),
    ],
)
def test_what_goes_wrong_is_one_sentence(
    run: Run, made: Path, arguments: list[str], code: int, sentence: str
) -> None:
    done = run("certify", *arguments)
    text = " ".join(done.stderr.decode().replace("│", " ").split())
    assert (done.returncode, sentence in text, "Traceback" in text) == (code, True, False), text


def test_neither_torch_nor_timm_is_imported(made: Path, tmp_path: Path) -> None:
    """Nor looked for: they may not be there."""
    script = (
        "import sys; sys.modules.update(torch=None, timm=None, torchvision=None)\n"
        "sys.argv = ['anomscan', *'certify --fpr 0.1 --draws 5 --enough --report c.html'.split()]\n"
        "from anomscan.__main__ import main\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "c.html").exists()
