from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """A model with twenty normals, to change."""
    return Path(shutil.copytree(model_folder, tmp_path / "model"))
