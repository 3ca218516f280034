from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from anomscan.errors import InputError
from anomscan.fit.embed import Embedded, by, embed
from anomscan.images.find import Found, Unreadable, find
from anomscan.model.model import Model
from tests.conftest import draw, silent


def embedded(model: Model, root: Path, sources: list[Found] | None = None) -> Embedded:
    found = list(find([str(root)])) if sources is None else sources
    return embed("embedding", str(root), found, by(model.extractor, model.manifest.preprocessing), silent)


def test_features_come_in_the_order_of_the_images(model: Model, normal_folder: Path) -> None:
    images = embedded(model, normal_folder)
    assert images.paths == model.normals
    np.testing.assert_allclose(images.outputs.image, model.gallery.vectors(), atol=1e-6)
    assert images.fingerprint == model.manifest.data.fingerprint
    assert (images.root, images.unreadable) == (str(normal_folder), [])


def test_what_cannot_be_read_is_apart(model: Model, normal_folder: Path, tmp_path: Path) -> None:
    normals = Path(shutil.copytree(normal_folder, tmp_path / "normals"))
    (normals / "03.png").write_bytes(b"broken")
    images = embedded(model, normals, [Unreadable("x", "denied"), *find([str(normals)])])
    assert [Path(image.path).name for image in images.unreadable] == ["x", "03.png"]
    assert len(images.paths) == len(images.outputs) == 19
    with pytest.raises(InputError, match="none of the 1 normal images can be read"):
        embedded(model, normals, [Unreadable("x", "denied")])


def test_the_fingerprint_is_of_pixels_and_names_below_the_root(
    model: Model, normal_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = embedded(model, normal_folder).fingerprint
    moved = Path(shutil.copytree(normal_folder, tmp_path / "moved"))
    assert embedded(model, moved).fingerprint == first
    monkeypatch.chdir(tmp_path)
    relative = embedded(model, Path("moved"))
    assert relative.fingerprint == first
    assert all(os.path.isabs(path) for path in (*relative.paths, relative.root))
    (moved / "00.png").rename(moved / "000.png")
    assert embedded(model, moved).fingerprint != first
    (moved / "000.png").rename(moved / "00.png")
    draw(999).save(moved / "00.png")
    assert embedded(model, moved).fingerprint != first
