from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from anomscan.fit.build import on_suspects
from anomscan.fit.feedback import add, remove
from anomscan.fit.suspects import RATE, image_scores, rank, standing, tail_p_values
from anomscan.model.folder import read_manifest, verified
from anomscan.model.suspects import SUSPECTS, Suspects
from anomscan.scoring.info import Looks, ScorerInfo
from anomscan.scoring.knn import Knn
from tests.conftest import draw_odd, draw_plain, fake_model, silent


def test_a_normal_is_scored_by_the_others_without_its_copies() -> None:
    features = np.array([[0.0], [1.0], [3.0], [3.0], [10.0]], np.float32)
    alone = np.arange(5)
    scores, nearest = image_scores(features, "euclidean", 1, alone)
    assert scores.tolist() == [1, 1, 0, 0, 7]
    assert nearest[:2].tolist() == [1, 0]
    scores, nearest = image_scores(features, "euclidean", 2, np.array([0, 1, 2, 2, 3]))
    assert scores.tolist() == [1 + 3, 1 + 2, 2 + 3, 2 + 3, 7 + 7]
    assert nearest[2:4].tolist() == [1, 1]
    scores, _ = image_scores(features, "euclidean", 1, np.zeros(5, np.int64))
    assert np.isfinite(scores).all()


def test_the_p_values_of_an_exponential_tail_are_right() -> None:
    oddness = standing(np.random.default_rng(0).exponential(size=20_000))
    p_values = tail_p_values(oddness)
    for rate in (0.3, 0.1, 0.01):
        assert (p_values <= rate).mean() == pytest.approx(rate, rel=0.2)
    assert set(p_values[oddness <= 0]) == {1.0}


@pytest.mark.parametrize("count", [40, 100, 400])
def test_of_clean_normals_the_list_is_mostly_empty(count: int) -> None:
    generator, named = np.random.default_rng(count), 0
    for _ in range(100):
        features = generator.normal(size=(count, 12)).astype(np.float32)
        found = rank([str(i) for i in range(count)], features, None, euclidean(), {})
        assert found is not None
        named += bool(found.suspected)
    assert named <= 100 * RATE


def test_anomalies_among_the_normals_are_first_and_named() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(105, 12)).astype(np.float32)
    features[:5] += 12 * np.eye(12)[:5]
    found = rank([str(i) for i in range(105)], features, None, euclidean(), {})
    assert found is not None
    assert {suspect.path for suspect in found.suspected} == set("01234")
    assert {suspect.path for suspect in found.ranked[:5]} == set("01234")
    copied = np.concatenate([features, features[:1]])  # a copy is no fellow
    found = rank([str(i) for i in range(106)], copied, None, euclidean(), {"0": 7, "105": 7})
    assert found is not None
    assert {suspect.path for suspect in found.suspected} == {*"01234", "105"}
    assert rank([str(i) for i in range(19)], features[:19], None, euclidean(), {}) is None


def test_patches_count_beside_the_whole_image_or_alone() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(60, 12)).astype(np.float32)
    patch = np.exp(generator.normal(size=60) / 10).astype(np.float32)
    patch[7] = 3
    names = [str(i) for i in range(60)]
    for weight in (0.0, 0.3):
        found = rank(names, features, patch, euclidean(), {}, weight)
        assert found is not None
        assert found.ranked[0].path == "7"
        assert found.ranked[0].suspected


def euclidean() -> Knn:
    return Knn(ScorerInfo("knn", 2, "euclidean"))


@pytest.fixture
def dirty(tmp_path: Path) -> Path:
    """Forty normals, and an anomaly among them."""
    folder = tmp_path / "normal"
    folder.mkdir()
    for seed in range(40):
        draw_plain(seed).save(folder / f"{seed:02}.png")
    draw_odd(500).save(folder / "odd.png")
    return folder


@pytest.mark.parametrize("looks", ["image", "both", "patch"])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_an_anomaly_among_the_normals_is_named_with_what_removes_it(
    dirty: Path, tmp_path: Path, looks: Looks, share: float
) -> None:
    model = tmp_path / "m"
    fitted = fake_model(dirty, model, share, looks=looks)
    found = read(model)
    assert [Path(suspect.path).name for suspect in found.suspected] == ["odd.png"]
    assert found.normals == len(found.ranked) == 41
    said = [note for note in fitted.notes if "odd.png" in note]
    assert said == [f"  anomscan index --model {model} --remove {dirty / 'odd.png'}"]
    assert any(note.startswith("1 normal is unlike the other 40; look at them") for note in fitted.notes)
    remove([str(dirty / "odd.png")], str(model))
    assert (read(model).suspected, len(read(model).ranked)) == ([], 40)
    draw_plain(999).save(tmp_path / "more.png")
    add([str(tmp_path / "more.png")], str(model), silent)
    assert len(read(model).ranked) == 40


def test_clean_normals_are_not_spoken_of(dirty: Path, tmp_path: Path) -> None:
    (dirty / "odd.png").unlink()
    assert on_suspects(str(tmp_path / "m"), fake_model(dirty, tmp_path / "m").manifest) == []
    for path in sorted(dirty.iterdir())[15:]:
        path.unlink()
    few = fake_model(dirty, tmp_path / "few").manifest
    assert SUSPECTS not in few.files
    assert on_suspects(str(tmp_path / "few"), few) == []


def test_many_suspects_are_counted(tmp_path: Path, dirty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anomscan.fit import build

    shutil.copy(dirty / "00.png", dirty / "copy.png")
    monkeypatch.setattr(build, "_NAMED", 0)
    assert fake_model(dirty, tmp_path / "m").notes[-1].endswith("--remove  ... (1 more)")


def test_of_too_many_normals_with_patches_some_are_ranked(
    dirty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anomscan.fit import held_out

    monkeypatch.setattr(held_out, "MOST_WITH_PATCHES", 25)
    fake_model(dirty, tmp_path / "m", looks="both")
    assert read(tmp_path / "m").normals == 25


def test_of_very_many_normals_some_are_ranked(
    dirty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anomscan.fit import suspects

    monkeypatch.setattr(suspects, "MOST_RANKED", 30)
    fake_model(dirty, tmp_path / "m", 0.2)
    assert read(tmp_path / "m").normals == 30


def read(model: Path) -> Suspects:
    manifest = read_manifest(str(model))
    return Suspects.load(verified(str(model), manifest, SUSPECTS))
