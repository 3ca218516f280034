from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from anomscan.errors import MissingExtra, ModelDamaged
from anomscan.images.find import Search, Source, Unreadable
from anomscan.model.folder import read_manifest
from anomscan.model.model import Model, read_model
from anomscan.screen import ray as engine
from anomscan.screen.ray import RayEngine, Scoring
from anomscan.screen.run import ScoreJob, here
from anomscan.screen.screener import Screener
from tests.conftest import draw, draw_odd, silent
from tests.ray_cluster import needs_ray, told_by


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
    told = told_by(Path(__file__).parent / "ray_cluster.py", incoming, calibrated_folder, tmp_path / "log")
    assert sorted(set(told["begun"])) == list(range(6))
    assert len(told["there"]) == 23
    for name in ("path", "error", "rank", "nearest_normal"):
        assert [row[name] for row in told["there"]] == [row[name] for row in told["here"]]
    for name in ("score", "p_value"):
        here_, there = (
            [row[name] for row in told[where] if row[name] is not None] for where in ("here", "there")
        )
        np.testing.assert_allclose(there, here_, rtol=0, atol=1e-6)


@pytest.fixture
def sent(calibrated_folder: Path, tmp_path: Path) -> Path:
    """The files of a model, as an actor finds them."""
    (tmp_path / "sent").mkdir()
    folder = str(calibrated_folder)
    for name, content in engine._files(folder, read_manifest(folder)).items():
        (tmp_path / "sent" / name).write_bytes(content)
    return tmp_path / "sent"


SCORING = Scoring("cpu", {"k": None, "keep": 0, "max_pixels": None, "isolate": None})


def test_a_worker_judges_as_this_machine_and_sends_no_pixels(
    sent: Path, incoming: Path, calibrated_folder: Path
) -> None:
    sources = list(Search().find([str(incoming)]))
    own = read_model(str(calibrated_folder), 1)
    expected = list(here(ScoreJob((), own, threads=1), Screener(own), sources, silent))
    answer = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(SCORING))(sent, 1)(sources)))
    assert [type(each) for each in answer] == [type(each) for each in expected]
    for one, other in zip(answer, expected, strict=True):
        if isinstance(one, Unreadable):
            assert one == other
            continue
        assert not isinstance(other, Unreadable)
        np.testing.assert_array_equal(one[0].scores, other[0].scores)
        assert [image.identity for image in one[0].images] == [image.identity for image in other[0].images]
        assert one[0].nearest == other[0].nearest
    assert len(pickle.dumps(answer)) / len(sources) < 8000


def test_a_model_that_is_not_what_was_sent_is_refused(sent: Path) -> None:
    next(sent.glob("extractor*.onnx")).write_bytes(b"altered")
    with pytest.raises(ModelDamaged):
        SCORING(sent, 1)


def test_without_ray_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, model: Model, model_folder: Path
) -> None:
    for name in ("ray", "ray.data"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"--engine ray needs .*anomscan\[ray\]"):
        list(RayEngine(str(model_folder))(ScoreJob((), model), Screener(model), [Source("x")], silent))


def test_nothing_to_score_starts_no_cluster(model: Model, model_folder: Path) -> None:
    assert list(RayEngine(str(model_folder))(ScoreJob((), model), Screener(model), [], silent)) == []
