from __future__ import annotations

import pickle
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from anomscan.cluster import Make
from anomscan.errors import InputError
from anomscan.fit import ray as engine
from anomscan.fit.index import IndexOptions, index
from anomscan.model.folder import read_manifest
from anomscan.types import Preprocessing, Tiles
from tests.conftest import silent
from tests.ray_cluster import needs_ray, told_by

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


@pytest.fixture(params=["calibrated_folder", "fake_patch_model"])
def alike(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """Two models that are the same, of whole images or of patches, too."""
    folder = request.getfixturevalue(request.param)
    one, other = (Path(shutil.copytree(folder, tmp_path / name)) for name in ("here", "there"))
    return one, other


@pytest.fixture
def normals(normal_folder: Path, tmp_path: Path) -> Path:
    """Those of the models, and two that cannot be read, of which one stands among those that can."""
    folder = Path(shutil.copytree(normal_folder, tmp_path / "normals"))
    for name in ("05a.png", "zz.png"):
        (folder / name).write_bytes(b"broken")
    return folder


def written(folder: Path) -> dict[str, Any]:
    """All that a model says, but for the time."""
    manifest = read_manifest(str(folder))
    files = {file.name: (folder / file.name).read_bytes() for file in manifest.files.values()}
    return {**files, "manifest": {**manifest.to_json(), "created": None}}


class FakeCluster:
    """Workers of this process, with chunks counted."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.chunks = folder, list[int]()

    def answers(self, chunks: Sequence[list[Any]], files: Mapping[str, bytes], make: Make) -> Iterator[Any]:
        for name, content in files.items():
            (self._folder / name).write_bytes(content)
        work = pickle.loads(pickle.dumps(make))(self._folder, 1)
        for chunk in chunks:
            self.chunks.append(len(chunk))
            yield pickle.loads(pickle.dumps(work(pickle.loads(pickle.dumps(chunk)))))


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    fake = FakeCluster(tmp_path)

    @contextmanager
    def connected(address: str | None) -> Iterator[FakeCluster]:
        assert address == "there"
        yield fake

    monkeypatch.setattr(engine, "connected", connected)
    return fake


def test_the_model_is_the_same_wherever_normals_are_embedded(
    alike: tuple[Path, Path], normals: Path, cluster: FakeCluster
) -> None:
    here, there = alike
    own = index(str(normals), str(here), IndexOptions(), silent)
    with engine.on_cluster("there", chunk=4) as embedding:
        fitted = index(str(normals), str(there), IndexOptions(), silent, engine=embedding)
    assert [Path(image.path).name for image in fitted.unreadable] == ["05a.png", "zz.png"]
    assert fitted.unreadable == own.unreadable
    assert set(cluster.chunks) <= {1, 2, 3, 4}
    assert len(cluster.chunks) > 4
    assert written(there) == written(here)


def test_normals_of_tiles_travel_fewer_at_a_time(tmp_path: Path, cluster: FakeCluster) -> None:
    (tmp_path / "g.onnx").touch()
    rules = Preprocessing(8, 8, "bicubic", (0.0,) * 3, (1.0,) * 3)
    tiled = Preprocessing(8, 8, "bicubic", (0.0,) * 3, (1.0,) * 3, tiles=Tiles(4, 5, 0.1, (99, 99)))
    sizes = []
    cluster.answers = lambda chunks, *_: sizes.append(len(chunks[0])) or []  # type: ignore[method-assign]
    with engine.on_cluster("there") as embedding:
        for each in (rules, tiled):
            list(embedding(tmp_path / "g.onnx", each)([engine.Unreadable("x", "gone")] * 500))
    assert sizes == [128, 4]


def test_where_none_can_be_read_the_old_model_stays(
    alike: tuple[Path, Path], tmp_path: Path, cluster: FakeCluster
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"broken")
    before = written(alike[1])
    with engine.on_cluster("there") as embedding, pytest.raises(InputError, match="none of the 1 normal"):
        index(str(tmp_path / "broken"), str(alike[1]), IndexOptions(), silent, engine=embedding)
    assert written(alike[1]) == before


@needs_ray
def test_a_cluster_of_two_gives_the_model_of_this_machine_though_a_worker_is_killed(
    alike: tuple[Path, Path], normals: Path, tmp_path: Path
) -> None:
    here, there = alike
    told_by(Path(__file__).parent / "ray_cluster.py", normals, here, there, tmp_path / "log")
    assert written(there) == written(here)
