from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from anomscan.bundle import Model, read_model
from anomscan.errors import CalibrationTooSmall, GalleryTooSmall, NoImages, UnreadableImage
from anomscan.images import Source, decode, find
from anomscan.options import Decision
from anomscan.report import Row
from anomscan.screening import FeatureSample, Ranking, check, decide, score
from tests.conftest import draw, silent


def ranked(model: Model, *paths: str | Path, k: int | None = None, top: int | None = None) -> list[Row]:
    with Ranking() as ranking:
        sources = find([os.fspath(path) for path in paths])
        score(sources, model, ranking, k=k, threads=2, progress=lambda *_: None)
        return list(ranking.rows(top))


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    folder = tmp_path / "incoming"
    folder.mkdir()
    for seed in range(70):
        draw(200 + seed).save(folder / f"{seed:02}.png")
    draw(300).rotate(45).resize((96, 30)).save(folder / "odd.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much")
    return folder


def test_rows_are_ranked_and_the_unreadable_come_last(model: Model, incoming: Path) -> None:
    rows = ranked(model, incoming)
    assert [row.rank for row in rows] == [*range(1, 72), None]
    assert Path(rows[0].path).name == "odd.png"
    scores = [row.score for row in rows[:-1] if row.score is not None]
    assert scores == sorted(scores, reverse=True)
    assert Path(rows[-1].path).name == "broken.jpg"
    assert rows[-1].error
    assert {row.nearest_normal for row in rows[:-1]} <= set(model.normals)


def test_top_never_cuts_the_unreadable(model: Model, incoming: Path) -> None:
    rows = ranked(model, incoming, top=3)
    assert [row.rank for row in rows] == [1, 2, 3, None]


def test_alone_or_among_others_the_score_is_the_same(model: Model, incoming: Path) -> None:
    together = {row.path: row.score for row in ranked(model, incoming)}
    for name in ("00.png", "17.png", "odd.png"):
        (row,) = ranked(model, incoming / name)
        assert row.score == pytest.approx(together[row.path], abs=1e-5)


def test_the_working_directory_does_not_matter(
    model: Model, incoming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absolute = [row.score for row in ranked(model, incoming)]
    monkeypatch.chdir(incoming)
    assert [row.score for row in ranked(model, ".")] == absolute


def test_a_normal_scores_by_its_second_neighbour_only(model: Model) -> None:
    (row,) = ranked(model, model.normals[4])
    distances, neighbours = model.gallery.search(model.gallery.vectors()[4:5], 2)
    assert neighbours[0, 0] == 4
    assert row.nearest_normal == model.normals[4]
    assert row.score == pytest.approx(float(distances[0, 1]), abs=1e-5)


def test_k(model: Model, incoming: Path) -> None:
    (one,), (two,) = ranked(model, incoming / "odd.png", k=1), ranked(model, incoming / "odd.png")
    assert one.score is not None
    assert two.score is not None
    assert 0 < one.score < two.score
    with pytest.raises(GalleryTooSmall, match="the largest possible --k is 20"):
        ranked(model, incoming, k=21)


def test_nothing_to_score(model: Model, tmp_path: Path) -> None:
    with pytest.raises(NoImages):
        ranked(model, tmp_path)


def test_equal_scores_keep_their_order_and_odd_names_come_back() -> None:
    names = [os.fsdecode(name) for name in (b"b", b"a", b"\xff\n", b"=c")]
    with Ranking() as ranking:
        for name in names:
            ranking.add(name, 0.5, name)
        ranking.add_unreadable(names[2], "broken")
        rows = list(ranking.rows())
    assert [row.path for row in rows] == [*names[:3], "./=c", names[2]]
    assert [row.nearest_normal for row in rows] == [*names, None]


def test_the_ranking_does_not_grow_in_memory() -> None:
    import tracemalloc

    with Ranking() as ranking:
        tracemalloc.start()
        for i, value in enumerate(np.random.default_rng(0).random(30_000)):
            ranking.add(f"/some/long/folder/name/image-{i}.png", float(value), "/normal.png")
        assert next(ranking.rows(1)).rank == 1
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 1_000_000


def test_a_source_with_an_error_is_a_row(model: Model) -> None:
    with Ranking() as ranking:
        score([Source("x", "denied")], model, ranking, k=None, threads=1, progress=lambda *_: None)
        assert list(ranking.rows()) == [Row(None, "x", None, error="denied")]


@pytest.mark.parametrize("threads", [1, 3])
def test_fast_and_plain_paths_agree(model: Model, incoming: Path, threads: int) -> None:
    """One image at a time, by hand, against the pipeline."""
    plain = {}
    for source in find([str(incoming)]):
        try:
            pixels = decode(source.path, model.manifest.preprocessing)
        except UnreadableImage:
            continue
        cosines = np.sort(model.gallery.vectors() @ model.extractor.run(pixels[None])[0])
        plain[source.path] = float(np.sum(1 - cosines[-2:]))
    with Ranking() as ranking:
        score(find([str(incoming)]), model, ranking, k=2, threads=threads, progress=silent)
        fast = {row.path: row.score for row in ranking.rows() if row.score is not None}
    assert fast == pytest.approx(plain, abs=1e-5)


def test_rows_do_not_depend_on_the_threads(model_folder: Path, incoming: Path) -> None:
    found = []
    for threads in (1, 2, 5):
        loaded = read_model(model_folder, threads)
        with Ranking() as ranking:
            score(find([str(incoming)]), loaded, ranking, k=None, threads=threads, progress=silent)
            found.append(list(ranking.rows()))
    assert found[0] == found[1] == found[2]


def calibrated(folder: Path) -> Model:
    return read_model(folder, threads=1)


def test_every_normal_again_has_a_p_value_of_one(calibrated_folder: Path, normal_folder: Path) -> None:
    loaded = calibrated(calibrated_folder)
    for path in normal_folder.iterdir():  # alone in its batch, unlike when the index was built
        (row,) = ranked(loaded, path)
        assert row.p_value == 1.0
    assert {row.p_value for row in ranked(loaded, normal_folder)} == {1.0}


def test_p_values_are_those_of_the_same_scores(calibrated_folder: Path, incoming: Path) -> None:
    loaded = calibrated(calibrated_folder)
    assert loaded.calibration is not None
    for k in (None, 3):
        held_out = loaded.scorer.score(loaded.calibration.features, loaded.gallery, k or 2)
        for row in ranked(loaded, incoming, k=k)[:-1]:
            assert row.score is not None
            close = np.abs(held_out - row.score).min() < 1e-6  # a tie up to rounding may fall either way
            assert close or row.p_value == (1 + (held_out >= row.score).sum()) / 11


def test_decisions(calibrated_folder: Path) -> None:
    held_out = calibrated(calibrated_folder).calibration
    assert held_out is not None
    with Ranking() as ranking:
        for i, p_value in enumerate((1 / 11, 1 / 11, 2 / 11, 1.0)):
            ranking.add(f"{i}", 1.0 - i / 10, "n", p_value)
        ranking.add_unreadable("broken", "broken")
        decide(Decision(), ranking, held_out)
        assert {row.anomalous for row in ranking.rows()} == {None}
        decide(Decision(fpr=0.1), ranking, held_out)
        assert [row.anomalous for row in ranking.rows()] == [True, True, False, False, None]
        decide(Decision(fdr=0.19), ranking, held_out)
        assert list(ranking.anomalous_paths()) == ["0", "1"]
        decide(Decision(fdr=0.25), ranking, held_out)
        assert list(ranking.anomalous_paths()) == ["0", "1", "2"]
        assert decide(Decision(threshold=0.7), ranking, None) == 0.7
        assert [row.anomalous for row in ranking.rows()] == [True, True, True, True, None]
        assert ranking.anomalous == 4
        assert ranking.p_values()[1].tolist() == [2, 1, 1]
        assert [ranking.quantile(share) for share in (0, 0.5, 1)] == [0.7, 0.8, 1.0]
        assert ranking.histogram(0.65, 0.85, 2) == [1, 3]


def test_a_decision_that_cannot_be_made_is_refused(model: Model, calibrated_folder: Path) -> None:
    check(Decision(threshold=1.0), model)
    check(Decision(fpr=1 / 11), calibrated(calibrated_folder))
    with pytest.raises(CalibrationTooSmall, match="the model has none"):
        check(Decision(fpr=0.5), model)
    with pytest.raises(CalibrationTooSmall, match=r"--fdr 0\.05 needs 19 held-out normals"):
        check(Decision(fdr=0.05), calibrated(calibrated_folder))


def test_the_sample_is_bounded_and_holds_the_top() -> None:
    sample = FeatureSample(top=3)
    for i in range(2000):
        sample.add(f"{i}", float(i % 1000), np.full(4, i, np.float32), known=i % 2 == 0)
    features = sample.features()
    assert {"1999", "999", "998"} <= features.keys()
    assert len(features) <= 503
    scores, others = sample.others()
    assert len(scores) == len(others) == 500
    assert (others[:, 0] % 2 == 1).all()
    np.testing.assert_array_equal(others[:, 0] % 1000, scores)
