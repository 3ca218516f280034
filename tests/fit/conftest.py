from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from anomscan.adapt.options import BackboneChoice
from anomscan.fit.index import IndexOptions, index
from tests.conftest import SIZE, draw, draw_odd, silent


@pytest.fixture(scope="session")
def default_folder(tmp_path_factory: pytest.TempPathFactory, normal_folder: Path) -> Path:
    """A model of the default backbone, unadapted, at 64 pixels. Read it, never write it."""
    folder = tmp_path_factory.mktemp("session") / "model"
    index(str(normal_folder), str(folder), IndexOptions(BackboneChoice(size=SIZE), "knn"), silent)
    return folder


@pytest.fixture
def folder(calibrated_folder: Path, tmp_path: Path) -> Path:
    """A model with ten normals and ten held out, to change."""
    return Path(shutil.copytree(calibrated_folder, tmp_path / "m"))


@pytest.fixture
def plain(model_folder: Path, tmp_path: Path) -> Path:
    """A model with twenty normals and none held out, to change."""
    return Path(shutil.copytree(model_folder, tmp_path / "m"))


@pytest.fixture
def patchy(fake_patch_model: Path, tmp_path: Path) -> Path:
    """A model that looks at patches, too, with ten normals and ten held out, to change."""
    return Path(shutil.copytree(fake_patch_model, tmp_path / "patchy"))


def stained_images(folder: Path, count: int, colour: tuple[int, int, int]) -> list[str]:
    """Images that are like the normals but for a cell of that colour, of row 3 and column 4."""
    paths = [str(folder / f"stained {seed}.png") for seed in range(count)]
    for seed, path in enumerate(paths):
        image = draw(750 + seed)
        image.paste(colour, (48, 36, 60, 48))
        image.save(path)
    return paths


@pytest.fixture
def alarms(tmp_path: Path) -> list[str]:
    """Images unlike the normals, of a kind."""
    paths = []
    for seed in range(4):
        paths.append(str(tmp_path / f"alarm {seed}.png"))
        draw_odd(700 + seed).save(paths[-1])
    return paths
