from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from anomscan import cluster
from anomscan.errors import AnomscanError, ClusterError, MissingExtra, NoImages, UsageError


def reading(folder: Path, cores: int) -> Callable[[list[str]], list[Any]]:
    """Work that tells what was sent, and what stands in the files that it is given."""
    sent = (folder / "sent").read_text()

    def work(names: list[str]) -> list[Any]:
        if not names:
            raise NoImages("nothing to do")
        return [cores, sent, *(Path(name).read_text() for name in names)]

    return work


def answered(folder: Path, chunk: list[str]) -> Any:
    worker = cluster.Worker({"sent": b"this"}, reading, 3, str(folder))
    answer = worker({"number": np.array([3]), "chunk": np.array([pickle.dumps(chunk)], object)})
    assert answer["number"] == [3]
    return pickle.loads(answer["answer"][0])


@pytest.fixture
def _sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if what was sent had come by Ray."""
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda what: what))


@pytest.mark.usefixtures("_sent")
def test_a_worker_has_the_files_and_reads_where_the_command_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a").write_text("A")
    monkeypatch.chdir(tmp_path)
    assert answered(tmp_path / "there", ["a"]) == [3, "this", "A"]
    assert Path(os.getcwd()) == tmp_path / "there"


@pytest.mark.usefixtures("_sent")
def test_what_is_expected_to_go_wrong_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert isinstance(answered(tmp_path, []), NoImages)


def test_work_is_taken_apart_in_order() -> None:
    assert cluster.chunked(range(5), 2) == [[0, 1], [2, 3], [4]]
    assert cluster.chunked([], 2) == []


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


def answers(data: FakeData, chunks: list[list[Any]]) -> Iterator[Any]:
    return cluster.Cluster(SimpleNamespace(data=data, put=lambda what: what), 1, 1).answers(
        chunks, {}, reading
    )


@pytest.mark.parametrize("numbers", [[], [0], [0, 0, 1], [1, 0], [0, 2], [0, 1, 2]])
def test_chunks_that_are_lost_doubled_or_swapped_are_seen(numbers: list[int]) -> None:
    fake = FakeData(numbers, [])
    with pytest.raises(ClusterError, match="run the same command again"):
        list(answers(fake, [[], []]))


def test_an_error_of_a_worker_is_raised_here() -> None:
    fake = FakeData([0], UsageError("no neighbours"))
    with pytest.raises(AnomscanError, match="no neighbours"):
        list(answers(fake, [[]]))


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
    assert cluster._shares(SimpleNamespace(nodes=lambda: nodes), asked) == shares


@pytest.mark.parametrize(("machines", "asked"), [([], None), ([0], None), ([2], 4)])
def test_a_cluster_without_room_is_refused(machines: list[int], asked: int | None) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": float(cores)} if cores else {}} for cores in machines]
    with pytest.raises(ClusterError, match="cores"):
        cluster._shares(SimpleNamespace(nodes=lambda: nodes), asked)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ray", "ray.data"):
        monkeypatch.setitem(sys.modules, name, None)
    with (
        pytest.raises(MissingExtra, match=r"--engine ray needs .*anomscan\[ray\]"),
        cluster.connected(None),
    ):
        pass
