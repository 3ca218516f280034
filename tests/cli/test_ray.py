"""``--engine ray`` of ``score`` and ``index`` without a cluster; see ``tests/screen/test_ray.py`` for one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conftest import Run, draw


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    (tmp_path / "incoming").mkdir()
    draw(50).save(tmp_path / "incoming" / "a.png")
    return tmp_path / "incoming"


def test_an_address_is_that_of_a_cluster(run: Run, model_folder: Path, incoming: Path) -> None:
    done = run("score", incoming, "--model", model_folder, "--address", "auto")
    assert (done.returncode, done.stderr) == (2, b"anomscan: --address goes with --engine ray only\n")


def test_without_ray_one_sentence_names_the_extra(
    run: Run, model_folder: Path, incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ray", "ray.data"):
        monkeypatch.setitem(sys.modules, name, None)
    done = run("score", incoming, "--model", model_folder, "--engine", "ray", "-o", "rows.csv")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert done.stderr.endswith(b"pip install 'anomscan[ray]'\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["incoming"]


def test_an_index_is_not_begun_without_ray(
    run: Run, normal_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = run("index", normal_folder, "--engine", "ray")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert done.stderr.endswith(b"pip install 'anomscan[ray]'\n")
    assert list(tmp_path.iterdir()) == []
