from __future__ import annotations

import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anomscan.adapt.options import FocusChoice
from anomscan.errors import CalibrationTooSmall, GalleryTooSmall, NoImages, UnreadableImage, UsageError
from anomscan.fit.index import IndexOptions, index
from anomscan.images import overlay
from anomscan.images.decode import decode
from anomscan.images.find import Source, Unreadable, find
from anomscan.model.manifest import ALL
from anomscan.model.model import Model, read_model
from anomscan.report.rows import Row
from anomscan.scoring.patches import averages, peaks
from anomscan.screen.decide import decide
from anomscan.screen.run import Outcome, ScoreJob, run, scale_of
from anomscan.screen.screener import Screener
from anomscan.stats.calibration import Calibration
from anomscan.stats.decision import UNDECIDED, Decision
from tests.conftest import draw, fake_model, silent
from tests.fakes import scored


def ranked(model: Model, *paths: str | Path, top: int | None = None, threads: int = 2) -> list[Row]:
    sources = find([os.fspath(path) for path in paths])
    with run(ScoreJob(sources, model, threads=threads), silent) as outcome:
        return list(outcome.ranking.rows(top))


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
    assert [row.rank for row in ranked(model, incoming, top=3)] == [1, 2, 3, None]


def test_alone_or_among_others_the_score_is_the_same(model: Model, incoming: Path) -> None:
    together = {row.path: row.score for row in ranked(model, incoming)}
    for name in ("00.png", "17.png", "odd.png"):
        (row,) = ranked(model, incoming / name)
        assert row.score == pytest.approx(together[row.path], abs=1e-6)


def test_the_working_directory_does_not_matter(
    model: Model, incoming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absolute = [row.score for row in ranked(model, incoming)]
    monkeypatch.chdir(incoming)
    assert [row.score for row in ranked(model, ".")] == absolute


def test_nothing_to_score(model: Model, tmp_path: Path) -> None:
    with pytest.raises(NoImages):
        ranked(model, tmp_path)


def test_a_decision_that_cannot_be_made_costs_no_work(model: Model) -> None:
    def sources() -> object:
        raise AssertionError("an image was asked for")
        yield

    job = ScoreJob(sources(), model, Decision(fpr=0.5))  # type: ignore[arg-type]
    with pytest.raises(CalibrationTooSmall, match="the model has none"):
        run(job, silent)


def test_an_unreadable_source_is_a_row(model: Model) -> None:
    with run(ScoreJob([Unreadable("x", "denied")], model), silent) as outcome:
        assert list(outcome.ranking.rows()) == [Row(None, "x", None, error="denied")]


@pytest.mark.parametrize("threads", [1, 3])
def test_fast_and_plain_paths_agree(model: Model, incoming: Path, threads: int) -> None:
    """One image at a time, by hand, against the pipeline."""
    plain = {}
    for source in find([str(incoming)]):
        if source.path.endswith("broken.jpg"):
            continue
        pixels = decode(source.path, model.manifest.preprocessing).pixels
        cosines = np.sort(model.gallery.vectors() @ model.extractor.run(pixels[None]).image[0])
        plain[source.path] = float(np.sum(1 - cosines[-2:]))
    fast = {row.path: row.score for row in ranked(model, incoming, threads=threads) if row.score is not None}
    assert fast == pytest.approx(plain, abs=1e-6)


def test_rows_do_not_depend_on_the_threads(model_folder: Path, incoming: Path) -> None:
    found = [ranked(read_model(str(model_folder), n), incoming, threads=n) for n in (1, 2, 5)]
    assert found[0] == found[1] == found[2]


def test_every_normal_again_has_a_p_value_of_one(calibrated_folder: Path, normal_folder: Path) -> None:
    loaded = read_model(str(calibrated_folder), threads=1)
    assert {row.p_value for row in ranked(loaded, normal_folder)} == {1.0}


def test_k_rescores_the_calibration(calibrated_folder: Path, incoming: Path) -> None:
    loaded = read_model(str(calibrated_folder), threads=1)
    with run(ScoreJob(find([str(incoming)]), loaded, k=3), silent) as outcome:
        assert outcome.calibration is not None
        held_out = outcome.calibration.scores
        rows = [row for row in outcome.ranking.rows() if row.score is not None]
    assert loaded.calibration is not None
    assert (held_out > loaded.calibration.scores).all()
    for row in rows:
        assert row.p_value == (1 + (held_out >= np.float32(row.score)).sum()) / 11


def test_progress_counts_the_images(model: Model, incoming: Path) -> None:
    told: list[tuple[str, int, int | None, str]] = []
    with run(ScoreJob(find([str(incoming)]), model), lambda *what: told.append(what)):
        assert told[-1] == ("scoring", 72, None, "")


def test_the_sample_is_what_the_run_saw(calibrated_folder: Path, incoming: Path) -> None:
    loaded = read_model(str(calibrated_folder), threads=1)
    job = ScoreJob([*find([str(incoming)]), Source(loaded.normals[0])], loaded, keep=2)
    with run(job, silent) as outcome:
        features = outcome.sample.others()
        paths = set(outcome.sample.features())
    assert features.shape == (71, loaded.gallery.dim)
    assert loaded.normals[0] not in paths


def test_evidence_is_the_top_of_the_ranking(calibrated_folder: Path, incoming: Path) -> None:
    loaded = read_model(str(calibrated_folder), threads=1)
    job = ScoreJob(find([str(incoming)]), loaded, Decision(fpr=0.1), keep=4)
    with run(job, silent) as outcome:
        summary = outcome.summary()
        evidence = outcome.evidence(4, summary)
        assert evidence.rows == list(outcome.ranking.rows(4))[:4]
        assert [Path(row.path).name for row in evidence.unreadable] == ["broken.jpg"]
        assert {row.path for row in evidence.rows} <= evidence.features.keys()
        assert sum(evidence.histogram(0.0, 1.0, 10)) == 71
        assert (evidence.summary, evidence.calibration) == (summary, outcome.calibration)


def filled(
    model: Model, decision: Decision, count: int = 10, calibration: Calibration | None = None
) -> Outcome:
    """The outcome of scoring ``count`` images and a broken one in two seconds."""
    outcome = Outcome(ScoreJob((), model, decision))
    if count:
        names, scores = [f"{i}.png" for i in range(count)], [i / 10 for i in range(count)]
        outcome.ranking.add(scored(names, scores, [*[0.5] * (count - 1), 0.1]))
    outcome.ranking.add_unreadable(Unreadable("broken.png", "broken"))
    outcome.calibration = calibration
    outcome.limit = decide(decision, outcome.ranking, calibration)
    outcome.seconds = 2.0
    return outcome


def test_the_summary_has_counts_quantiles_and_speed(model: Model) -> None:
    with filled(model, Decision(threshold=0.8)) as outcome:
        found = outcome.summary()
    assert (found.images, found.unreadable, found.anomalous, found.limit) == (11, 1, 2, 0.8)
    assert found.quantiles == {
        "0": 0.0,
        "0.05": 0.0,
        "0.25": 0.2,
        "0.5": 0.4,
        "0.75": 0.7,
        "0.95": 0.9,
        "1": 0.9,
    }
    assert (found.seconds, found.images_per_second) == (2.0, 5.5)
    assert (found.model, found.held_out, found.drift) == (model.manifest.id, 0, None)
    assert found.messages() == ["2 of 10 images are anomalous", "1 of 11 files could not be read"]


def test_without_a_decision_nothing_is_said(model: Model) -> None:
    with filled(model, UNDECIDED) as outcome:
        found = outcome.summary()
    assert (found.anomalous, found.limit) == (None, None)
    assert found.messages() == ["1 of 11 files could not be read"]


def test_nothing_could_be_read(model: Model) -> None:
    with filled(model, Decision(threshold=1.0), count=0) as outcome:
        assert outcome.summary().quantiles == {}


def test_a_false_discovery_rate_out_of_reach_is_said(model: Model) -> None:
    names = [str(i) for i in range(19)]
    calibration = Calibration(np.zeros((19, 2), np.float32), np.zeros(19, np.float32), names, names)
    with filled(model, Decision(fdr=0.1), calibration=calibration) as outcome:
        found = outcome.summary()
    assert found.anomalous == 0
    assert found.messages()[1] == (
        "with 19 calibrating normals, --fdr 0.1 finds nothing unless 5 of 10 images exceed them all; "
        "calibrate with more, or use --fpr"
    )
    assert found.quantiles["1"] == pytest.approx(0.9)


@pytest.fixture(scope="module")
def patchy(fake_patch_model: Path) -> Model:
    """A model that looks at patches, too, with p-values from 1/11 up."""
    return read_model(str(fake_patch_model), threads=1)


@pytest.fixture(scope="module")
def stained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images like the normals, two of which have a stain at x = 48 and y = 36; one is of another size."""
    folder = tmp_path_factory.mktemp("stained")
    for seed in range(6):
        image = draw(500 + seed)
        if seed in (2, 4):
            image.paste((255, 0, 0), (48, 36, 60, 48))
        image.resize((192, 384) if seed == 4 else (96, 96), 0).save(folder / f"{seed}.png")
    (folder / "broken.png").write_bytes(b"broken")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_rows_tell_both_scores_and_where_images_are_odd(patchy: Model, stained: Path) -> None:
    rows = ranked(patchy, stained)
    assert {Path(row.path).name for row in rows[:2]} == {"2.png", "4.png"}
    found = {Path(row.path).name: row for row in rows}
    assert found["2.png"].regions == [(48, 36, 12, 12)]
    assert found["4.png"].regions == [(96, 144, 24, 48)]  # in pixels of the file
    assert found["broken.png"].regions is None
    for row in rows[:-1]:
        assert row.image_score is not None
        assert row.patch_score is not None
        assert row.regions is not None
    dark = scale_of(patchy).dark  # type: ignore[union-attr]
    maps = (
        Screener(patchy).batch([decode(str(stained / "0.png"), patchy.manifest.preprocessing)]).outputs.maps
    )
    assert maps is not None
    assert (found["0.png"].regions == []) == (maps.distances.max() <= dark)
    info = patchy.manifest.patches
    assert info is not None
    measured = ((peaks(maps.distances), info.peak), (averages(maps.distances), info.average))
    expected = max((math.log(of[0]) - spread.mean) / spread.deviation for of, spread in measured)
    assert found["0.png"].patch_score == pytest.approx(expected, rel=1e-4)


def test_of_an_image_that_has_gone_it_is_not_known_where(
    patchy: Model, stained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(path: str) -> tuple[int, int]:
        raise UnreadableImage(path)

    monkeypatch.setattr(overlay, "source_size", gone)
    row = ranked(patchy, stained / "2.png")[0]
    assert (row.regions, row.error) == (None, None)


def test_of_whole_images_no_row_tells_where(model: Model, stained: Path, tmp_path: Path) -> None:
    for row in ranked(model, stained):
        assert (row.image_score, row.patch_score, row.regions) == (None, None, None)
    with run(ScoreJob(find([str(stained)]), model, keep=10), silent) as outcome:
        assert outcome.write_heatmaps(str(tmp_path / "heat"), 10, silent) == 0
        assert outcome.evidence(3, outcome.summary()).maps == {}
    assert scale_of(model) is None
    assert not (tmp_path / "heat").exists()


def test_with_patches_rows_do_not_depend_on_threads_or_on_other_images(
    fake_patch_model: Path, stained: Path
) -> None:
    found = [ranked(read_model(str(fake_patch_model), n), stained, threads=n) for n in (1, 3)]
    assert found[0] == found[1]
    for row in found[0][:-1]:
        (alone,) = ranked(read_model(str(fake_patch_model), 1), row.path)
        assert alone.score == pytest.approx(row.score, abs=1e-5)
        assert (alone.patch_score, alone.regions) == (row.patch_score, row.regions)


def test_every_normal_of_patches_again_has_a_p_value_of_one(patchy: Model, normal_folder: Path) -> None:
    rows = ranked(patchy, normal_folder)
    assert {row.p_value for row in rows} == {1.0}
    distances = [row.patch_score for row in rows if row.patch_score is not None]
    assert sum(score == min(distances) for score in distances) == 10  # at no distance


def test_no_neighbours_can_be_asked_for_with_patches(patchy: Model) -> None:
    with pytest.raises(UsageError, match="has no neighbours; leave --k out"):
        run(ScoreJob((), patchy, k=3), silent)


@pytest.mark.parametrize(
    ("decision", "top", "written"),
    [
        (UNDECIDED, 7, ["0.png", "1.png", "2.png", "3.png", "4.png", "5.png"]),
        (UNDECIDED, 2, ["2.png", "4.png"]),
        (Decision(threshold=5.0), 7, ["2.png", "4.png"]),
        (Decision(threshold=1e9), 7, []),
    ],
)
def test_pictures_are_of_the_top_or_of_what_is_anomalous(
    patchy: Model, stained: Path, tmp_path: Path, decision: Decision, top: int, written: list[str]
) -> None:
    told: list[int] = []
    with run(ScoreJob(find([str(stained)]), patchy, decision, keep=top), silent) as outcome:
        count = outcome.write_heatmaps(str(tmp_path / "heat"), top, lambda _, i, *__: told.append(i))
        order = [Path(row.path).stem for row in outcome.ranking.rows()]
    assert count == len(written)
    assert sorted(name.partition("_")[2] for name in names(tmp_path / "heat")) == [
        name.replace(".png", ".jpg") for name in written
    ]
    for name in names(tmp_path / "heat"):
        number, _, stem = name.removesuffix(".jpg").partition("_")
        assert order[int(number) - 1] == stem
    assert told == list(range(1, count + 1))


def test_of_more_images_than_were_kept_there_are_no_pictures(
    patchy: Model, stained: Path, tmp_path: Path
) -> None:
    with run(ScoreJob(find([str(stained)]), patchy, keep=3), silent) as outcome:
        assert outcome.write_heatmaps(str(tmp_path / "heat"), 6, silent) == 3
    assert [name[:4] for name in names(tmp_path / "heat")] == ["0001", "0002", "0003"]


def test_evidence_has_the_maps_of_the_top_and_where_patches_are_from(patchy: Model, stained: Path) -> None:
    with run(ScoreJob(find([str(stained)]), patchy, keep=4), silent) as outcome:
        evidence = outcome.evidence(4, outcome.summary())
        assert list(evidence.maps) == [row.path for row in evidence.rows]
    assert evidence.scale == scale_of(patchy)
    assert evidence.patch_source is not None
    row = evidence.rows[0]
    maps = evidence.maps[row.path]
    assert np.unravel_index(maps.distances[0].argmax(), (8, 8)) == (3, 4)
    path, *_ = evidence.patch_source(int(maps.nearest[0, 3, 4]))
    assert path in patchy.normals


def test_large_images_that_were_scored_have_pictures(patchy: Model, stained: Path, tmp_path: Path) -> None:
    rules = patchy.manifest.preprocessing
    small = replace(rules, reading=replace(rules.reading, max_pixels=1000))
    limited = replace(patchy, manifest=replace(patchy.manifest, preprocessing=small))
    job = ScoreJob(find([str(stained)]), limited, keep=10, max_pixels=10**6)
    with run(job, silent) as outcome:
        assert outcome.ranking.scored == 6
        assert outcome.write_heatmaps(str(tmp_path / "heat"), 10, silent) == 6


def test_patches_that_nobody_looks_at_do_not_wait(
    fake_patch_model: Path, normal_folder: Path, stained: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(fake_patch_model, tmp_path / "m")
    index(str(normal_folder), str(folder), IndexOptions(focus=FocusChoice("image")), silent)
    loaded = read_model(str(folder), threads=1)
    images = [decode(str(stained / f"{i}.png"), loaded.manifest.preprocessing) for i in range(3)]
    assert Screener(loaded).batch(images).outputs.patches is None


def test_where_all_normals_calibrate_k_and_drift_compare_each_with_the_others(
    normal_folder: Path, tmp_path: Path
) -> None:
    fake_model(normal_folder, tmp_path / "m", ALL)
    loaded = read_model(str(tmp_path / "m"), threads=1)
    assert {row.p_value for row in ranked(loaded, normal_folder)} == {1.0}
    (tmp_path / "new").mkdir()
    for seed in range(60):
        draw(2000 + seed).save(tmp_path / "new" / f"{seed}.png")
    with run(ScoreJob(find([str(tmp_path / "new")]), loaded, k=3), silent) as outcome:
        assert outcome.calibration is not None
        x = loaded.gallery.vectors()
        expected = np.sort(1 - x @ x.T + 9 * np.eye(20), axis=1)[:, :3].sum(axis=1)
        np.testing.assert_allclose(outcome.calibration.scores, expected, atol=1e-5)
        moved = outcome.summary().drift
        assert moved is not None
        assert not moved.shifted
    with pytest.raises(GalleryTooSmall, match="the largest possible --k is 19"):
        run(ScoreJob(find([str(tmp_path / "new")]), loaded, k=20), silent)
