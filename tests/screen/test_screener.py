from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

from anomscan.errors import GalleryTooSmall, UnreadableImage, UsageError
from anomscan.images.decode import Decoded, decode, decode_all
from anomscan.images.find import Unreadable, find
from anomscan.model.model import Model, read_model
from anomscan.screen import screener
from anomscan.screen.run import ScoreJob, run
from anomscan.screen.screener import Scored, Screener
from tests.conftest import fake_model, silent


@pytest.fixture(params=["plain", "calibrated", "mahalanobis"])
def loaded(
    request: pytest.FixtureRequest,
    model_folder: Path,
    calibrated_folder: Path,
    normal_folder: Path,
    tmp_path: Path,
) -> Model:
    """Models with and without p-values, with and without neighbours."""
    if request.param == "mahalanobis":
        fake_model(normal_folder, tmp_path / "m", 0.5, scorer="mahalanobis")
        return read_model(str(tmp_path / "m"), threads=1)
    folder = calibrated_folder if request.param == "calibrated" else model_folder
    return read_model(str(folder), threads=1)


def images(model: Model, folder: Path) -> list[Decoded]:
    decoded = decode_all(find([str(folder)]), model.manifest.preprocessing, threads=1)
    return [image for image in decoded if isinstance(image, Decoded)]


def by_path(scored: Scored) -> dict[str, tuple[float, float | None, str, bool]]:
    p_values = [None] * len(scored.images) if scored.p_values is None else scored.p_values.tolist()
    values = zip(scored.scores.tolist(), p_values, scored.nearest, scored.known.tolist(), strict=True)
    return dict(zip((image.path for image in scored.images), values, strict=True))


def test_a_batch_gives_the_rows_of_a_run(loaded: Model, incoming: Path) -> None:
    batch = by_path(Screener(loaded).batch(images(loaded, incoming)))
    with run(ScoreJob(find([str(incoming)]), loaded), silent) as outcome:
        rows = {row.path: row for row in outcome.ranking.rows() if row.score is not None}
    assert batch.keys() == rows.keys()
    for path, (score, p_value, nearest, _) in batch.items():
        row = rows[path]
        assert row.score == pytest.approx(score, abs=1e-6)
        assert (row.p_value, row.nearest_normal) == (p_value, nearest)


def test_alone_or_among_others_in_any_order_the_batch_is_the_same(loaded: Model, incoming: Path) -> None:
    screener, decoded = Screener(loaded), images(loaded, incoming)
    together = by_path(screener.batch(decoded))
    for few in (decoded[:1], decoded[5:8], decoded[::-1]):
        for path, (score, *others) in by_path(screener.batch(few)).items():
            assert score == pytest.approx(together[path][0], abs=1e-6)
            assert tuple(others) == together[path][1:]


def test_a_batch_leaves_no_trace(loaded: Model, incoming: Path, capfd: pytest.CaptureFixture[str]) -> None:
    screener, decoded = Screener(loaded), images(loaded, incoming)
    before = copy.deepcopy(decoded)
    vectors, calibration = loaded.gallery.vectors(), copy.deepcopy(screener.calibration)
    first, again = by_path(screener.batch(decoded)), by_path(screener.batch(decoded))
    assert first == again
    np.testing.assert_array_equal(loaded.gallery.vectors(), vectors)
    if calibration is not None and screener.calibration is not None:
        np.testing.assert_array_equal(screener.calibration.scores, calibration.scores)
    assert all((now.pixels == then.pixels).all() for now, then in zip(decoded, before, strict=True))
    assert capfd.readouterr() == ("", "")


def test_a_stream_is_batches_and_what_is_unreadable(
    model: Model, incoming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screener, "SEARCH", 10)
    decoded = images(model, incoming)
    broken = Unreadable("x", "broken")
    found = list(Screener(model).stream([*decoded[:7], broken, *decoded[7:]]))
    parts = [scored for scored in found if isinstance(scored, Scored)]
    assert [scored for scored in found if isinstance(scored, Unreadable)] == [broken]
    assert [image.path for part in parts for image in part.images] == [image.path for image in decoded]
    assert all(len(part.images) in range(10, 14) for part in parts[:-1])
    whole = by_path(Screener(model).batch(decoded))
    for part in parts:
        for path, (score, *others) in by_path(part).items():
            assert score == pytest.approx(whole[path][0], abs=1e-6)
            assert tuple(others) == whole[path][1:]


def test_one_image_at_a_time_by_hand(model: Model, incoming: Path) -> None:
    scored = by_path(Screener(model, k=2).batch(images(model, incoming)))
    seen = 0
    for source in find([str(incoming)]):
        try:
            pixels = decode(source.path, model.manifest.preprocessing).pixels
        except UnreadableImage:
            continue
        cosines = np.sort(model.gallery.vectors() @ model.extractor.run(pixels[None]).image[0])
        assert scored[source.path][0] == pytest.approx(float(np.sum(1 - cosines[-2:])), abs=1e-6)
        seen += 1
    assert seen == len(scored)


def test_a_normal_scores_by_its_second_neighbour_only(model: Model) -> None:
    image = decode(model.normals[4], model.manifest.preprocessing)
    scored = Screener(model).batch([image])
    distances, neighbours = model.gallery.search(model.gallery.vectors()[4:5], 2)
    assert neighbours[0, 0] == 4
    assert scored.nearest == [model.normals[4]]
    assert scored.known.tolist() == [True]
    assert float(scored.scores[0]) == pytest.approx(float(distances[0, 1]), abs=1e-6)


def test_every_normal_again_is_known_and_has_a_p_value_of_one(
    calibrated_folder: Path, normal_folder: Path
) -> None:
    loaded = read_model(str(calibrated_folder), threads=1)
    for image in images(loaded, normal_folder):  # alone in its batch, unlike when the index was built
        scored = Screener(loaded).batch([image])
        assert scored.p_values is not None
        assert (scored.p_values.tolist(), scored.known.tolist()) == ([1.0], [True])


def test_p_values_are_those_of_the_same_scores(calibrated_folder: Path, incoming: Path) -> None:
    loaded = read_model(str(calibrated_folder), threads=1)
    for k in (None, 3):
        screener = Screener(loaded, k)
        scored = screener.batch(images(loaded, incoming))
        assert screener.calibration is not None
        assert scored.p_values is not None
        held_out = screener.calibration.scores
        assert (k is None) == np.array_equal(held_out, loaded.calibration.scores)  # type: ignore[union-attr]
        expected = [(1 + (held_out >= score).sum()) / 11 for score in scored.scores]
        np.testing.assert_allclose(scored.p_values, expected)


def test_k(model: Model, incoming: Path, normal_folder: Path, tmp_path: Path) -> None:
    image = next(image for image in images(model, incoming) if "odd" in image.path)
    one, two = (Screener(model, k).batch([image]).scores[0] for k in (1, None))
    assert 0 < one < two
    with pytest.raises(GalleryTooSmall, match="the largest possible --k is 20"):
        Screener(model, 21).batch([image])
    fake_model(normal_folder, tmp_path / "m", scorer="mahalanobis")
    with pytest.raises(UsageError, match="mahalanobis, has no neighbours; leave --k out"):
        Screener(read_model(str(tmp_path / "m"), threads=1), 2)
