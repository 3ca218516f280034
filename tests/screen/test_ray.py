from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from anomscan.errors import AnomscanError, ClusterError, MissingExtra, ModelDamaged, UsageError
from anomscan.images.find import Search, Source, Unreadable
from anomscan.model.folder import read_manifest
from anomscan.model.model import Model, read_model
from anomscan.screen import ray as engine
from anomscan.screen.ray import RayEngine, Worker
from anomscan.screen.run import ScoreJob, here
from anomscan.screen.screener import Screener
from tests.conftest import REPOSITORY, draw, draw_odd, silent

needs_ray = pytest.mark.skipif(
    find_spec("ray") is None or sys.platform != "linux", reason="Ray is not installed, or there is no /proc"
)


@pytest.fixture(scope="module")
def incoming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("incoming")
    for seed in range(21):
        draw(seed + 100).save(folder / f"{seed:02}.png")
    draw_odd(600).save(folder / "odd.png")
    (folder / "07.png").write_bytes(b"broken")
    (folder / "zz.png").write_bytes(b"broken")
    return folder


@needs_ray
def test_a_cluster_of_two_gives_the_rows_of_this_machine_though_a_worker_is_killed(
    incoming: Path, calibrated_folder: Path, tmp_path: Path
) -> None:
    script = REPOSITORY / "tests" / "screen" / "ray_cluster.py"
    done = subprocess.run(
        [sys.executable, script, incoming, calibrated_folder, tmp_path / "log"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["killed"] == 1
    assert sorted(set(told["begun"])) == list(range(6))
    assert len(told["begun"]) > 6, "no worker was in the middle of anything"
    assert len(told["there"]) == 23
    for name in ("path", "error", "rank", "nearest_normal"):
        assert [row[name] for row in told["there"]] == [row[name] for row in told["here"]]
    for name in ("score", "p_value"):
        here_, there = (
            [row[name] for row in told[where] if row[name] is not None] for where in ("here", "there")
        )
        np.testing.assert_allclose(there, here_, rtol=0, atol=1e-6)


@pytest.fixture
def shipped(calibrated_folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The files of a model, as if they had come by Ray."""
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda what: what))
    folder = str(calibrated_folder)
    return engine._files(folder, read_manifest(folder))


SETTINGS = {"k": None, "keep": 0, "max_pixels": None, "isolate": None, "threads": 1}


def answered(worker: Worker, sources: list[Any]) -> Any:
    answer = worker({"number": np.array([3]), "chunk": np.array([pickle.dumps(sources)], object)})
    assert answer["number"] == [3]
    return pickle.loads(answer["answer"][0])


def test_a_worker_judges_as_this_machine_and_sends_no_pixels(
    shipped: dict[str, bytes], incoming: Path, calibrated_folder: Path
) -> None:
    sources = list(Search().find([str(incoming)]))
    own = read_model(str(calibrated_folder), 1)
    expected = list(here(ScoreJob((), own, threads=1), Screener(own), sources, silent))
    answer = answered(Worker(shipped, "cpu", SETTINGS, os.getcwd()), sources)
    assert [type(each) for each in answer] == [type(each) for each in expected]
    for one, other in zip(answer, expected, strict=True):
        if isinstance(one, Unreadable):
            assert one == other
            continue
        np.testing.assert_array_equal(one[0].scores, other[0].scores)
        assert [image.identity for image in one[0].images] == [image.identity for image in other[0].images]
        assert one[0].nearest == other[0].nearest
    assert len(pickle.dumps(answer)) / len(sources) < 8000


def test_what_is_expected_to_go_wrong_comes_back(shipped: dict[str, bytes], incoming: Path) -> None:
    name = next(name for name in shipped if name.startswith("extractor") and name.endswith(".onnx"))
    answer = answered(
        Worker({**shipped, name: b"altered"}, "cpu", SETTINGS, os.getcwd()),
        [Source(str(incoming / "00.png"))],
    )
    assert isinstance(answer, ModelDamaged)


def test_a_relative_path_begins_where_the_command_was_called(
    shipped: dict[str, bytes], incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    worker = Worker(shipped, "cpu", SETTINGS, str(incoming.parent))
    name = os.path.join(incoming.name, "00.png")
    (found,) = answered(worker, [Source(name)])
    assert [image.path for image in found[0].images] == [name]


class FakeData:
    """Ray Data as far as it is used, with answers as given."""

    def __init__(self, numbers: list[int], answer: object) -> None:
        self.rows = [{"number": number, "answer": pickle.dumps(answer)} for number in numbers]
        self.context = SimpleNamespace(execution_options=SimpleNamespace())
        self.DataContext = SimpleNamespace(get_current=lambda: SimpleNamespace())

    def from_items(self, rows: list[Any], override_num_blocks: int) -> FakeData:
        return self

    def map_batches(self, *_: Any, **__: Any) -> FakeData:
        return self

    def ActorPoolStrategy(self, size: int) -> int:  # noqa: N802 - it is Ray's
        return size

    def iter_rows(self) -> list[Any]:
        return self.rows


@pytest.mark.parametrize("numbers", [[], [0], [0, 0, 1], [1, 0], [0, 2], [0, 1, 2]])
def test_chunks_that_are_lost_doubled_or_swapped_are_seen(numbers: list[int]) -> None:
    fake = SimpleNamespace(data=FakeData(numbers, []))
    with pytest.raises(ClusterError, match="score them again"):
        list(engine._answers(fake, [[], []], (), 1, 1))


def test_an_error_of_a_worker_is_raised_here() -> None:
    fake = SimpleNamespace(data=FakeData([0], UsageError("no neighbours")))
    with pytest.raises(AnomscanError, match="no neighbours"):
        list(engine._answers(fake, [[]], (), 1, 1))


@pytest.mark.parametrize(
    ("machines", "asked", "shares"),
    [
        ([8], None, (4, 2)),
        ([8, 2], None, (2, 5)),
        ([8, 3], 4, (4, 2)),
        ([1, 1], None, (1, 2)),
        ([0, 4], None, (4, 1)),
    ],
)
def test_actors_have_some_cores_each(machines: list[int], asked: int | None, shares: tuple[int, int]) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": float(cores)}} for cores in machines]
    nodes.append({"Alive": False, "Resources": {"CPU": 64.0}})
    assert engine._shares(SimpleNamespace(nodes=lambda: nodes), asked) == shares


@pytest.mark.parametrize(("machines", "asked"), [([], None), ([0], None), ([2], 4)])
def test_a_cluster_without_room_is_refused(machines: list[int], asked: int | None) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": float(cores)} if cores else {}} for cores in machines]
    with pytest.raises(ClusterError, match="cores"):
        engine._shares(SimpleNamespace(nodes=lambda: nodes), asked)


def test_without_ray_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, model: Model, model_folder: Path
) -> None:
    for name in ("ray", "ray.data"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"--engine ray needs .*anomscan\[ray\]"):
        list(RayEngine(str(model_folder))(ScoreJob((), model), Screener(model), [Source("x")], silent))


def test_nothing_to_score_starts_no_cluster(model: Model, model_folder: Path) -> None:
    assert list(RayEngine(str(model_folder))(ScoreJob((), model), Screener(model), [], silent)) == []
