from __future__ import annotations

import csv
import os
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray

from anomscan.errors import AnomscanError, InputError, NoImages, UsageError
from anomscan.images.find import Source, find
from anomscan.model.model import Model
from anomscan.report.rows import Row
from anomscan.screen.evaluate import Evaluation, Labelled, evaluate, labelled, measure, read_labels
from anomscan.screen.run import ScoreJob, run
from anomscan.stats.measures import Labels, auroc, average_precision, fpr_at_tpr
from tests.conftest import draw, silent
from tests.stats.test_measures import of_images


def result(scores: NDArray[np.float64], labels: Labels, seed: int = 0) -> Evaluation:
    normal, anomalous = (
        [Row(1, "x", score) for score in scores[kind].tolist()] for kind in (~labels, labels)
    )
    return measure(normal, anomalous, seed)


def test_an_evaluation_is_the_measures_with_intervals_around_them() -> None:
    for seed in range(12):
        scores, labels = of_images(40, 25, seed)
        found = result(scores, labels, seed)
        assert (found.normal, found.anomalous, found.unreadable, found.seed) == (40, 25, 0, seed)
        for estimate, figure in (
            (found.auroc, auroc),
            (found.average_precision, average_precision),
            (found.fpr_at_95_tpr, fpr_at_tpr),
        ):
            assert estimate.value == figure(scores, labels)
            assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
            assert estimate.low < estimate.high


def test_about_95_percent_of_the_intervals_hold_the_truth() -> None:
    # scores of N(0, 1) and N(1.5, 1): the AUROC is Phi(1.5 / sqrt 2), the FPR is 1 - Phi(1.5 - 1.645)
    unit = NormalDist()
    area, alarms = unit.cdf(1.5 / 2**0.5), 1 - unit.cdf(1.5 + unit.inv_cdf(0.05))
    precision = average_precision(*of_images(200_000, 100_000, 1))
    holds = []
    for seed in range(1, 181, 3):
        found = result(*of_images(200, 100, seed), seed)
        pairs = (found.auroc, area), (found.average_precision, precision), (found.fpr_at_95_tpr, alarms)
        holds.append([estimate.low <= truth <= estimate.high for estimate, truth in pairs])
    share = np.mean(holds, axis=0)  # of 60 sets: standard error 0.03
    assert ((share > 0.85) & (share < 1)).all()


def test_more_images_make_narrower_intervals() -> None:
    few, many = (result(*of_images(n, n, 1)).auroc for n in (50, 800))
    assert 0.2 < (many.high - many.low) / (few.high - few.low) < 0.35  # about 1 / sqrt 16


def test_the_same_seed_gives_the_same_interval() -> None:
    scores, labels = of_images(30, 20, 1)
    first, second, other = (result(scores, labels, seed) for seed in (3, 3, 4))
    assert first == second
    assert first.auroc.value == other.auroc.value
    assert first.auroc != other.auroc


def test_the_unreadable_are_left_out_and_counted() -> None:
    broken = Row(None, "x", None, error="broken")
    found = measure([Row(1, "a", 0.1), broken], [broken, broken, Row(1, "b", 0.2)], 0)
    assert (found.normal, found.anomalous, found.unreadable) == (1, 1, 3)
    assert found.auroc.value == 1
    with pytest.raises(InputError, match="not one of the 1 anomalous images could be read"):
        measure([Row(1, "a", 0.1)], [broken], 0)


def test_labelled_images_are_scored_and_measured(model: Model, incoming: Path) -> None:
    normal = [source for source in find([str(incoming)]) if "odd" not in source.path]
    odd = Source(str(incoming / "odd.png"))
    left_out: list[Row] = []
    found = evaluate(Labelled(normal, [odd, odd]), model, None, 3, silent, left_out.append)
    assert (found.normal, found.anomalous, found.unreadable, found.seed) == (70, 2, 1, 3)
    assert found.auroc.value == 1
    assert [Path(row.path).name for row in left_out] == ["broken.jpg"]
    with run(ScoreJob(normal, model, k=1), silent) as good, run(ScoreJob([odd], model, k=1), silent) as bad:
        by_hand = measure(good.ranking.rows(), bad.ranking.rows(), 3)
    assert evaluate(Labelled(normal, [odd]), model, 1, 3, silent, silent) == by_hand


def test_where_only_one_kind_can_be_read_the_others_are_told(model: Model, incoming: Path) -> None:
    left_out: list[Row] = []
    broken, good = Source(str(incoming / "broken.jpg")), Source(str(incoming / "00.png"))
    with pytest.raises(InputError, match="not one of the 2 anomalous images could be read"):
        evaluate(Labelled([good], [broken, broken]), model, None, 0, silent, left_out.append)
    assert [row.path for row in left_out] == [broken.path] * 2


def write(folder: Path, text: str | bytes) -> str:
    file = folder / "labels.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(file)


def test_labels_are_relative_to_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "path,note,anomalous\na.png,,1\nsub/b.png,x,0\n\n/c.png,,1\n"
    found = read_labels(write(tmp_path, text))
    assert [source.path for source in found.normal] == [f"{tmp_path}/sub/b.png"]
    assert [source.path for source in found.anomalous] == [f"{tmp_path}/a.png", "/c.png"]
    monkeypatch.chdir(tmp_path)
    write(tmp_path, b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    found = labelled("labels.csv", None)
    assert [source.path for source in found.normal] == ["sub/b.png"]
    assert [source.path for source in found.anomalous] == ["a.png", "/c.png"]


def test_odd_names_in_labels_survive(tmp_path: Path) -> None:
    names = [b"\xff.png", b"a\nb.png", b"a\r.png", b'"q", comma.png', "🔩.png".encode(), b"=1.png", b" .png"]
    with open(tmp_path / "labels.csv", "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "anomalous"])
        writer.writerows((os.fsdecode(name), i % 2) for i, name in enumerate(names))
    found = read_labels(str(tmp_path / "labels.csv"))
    prefix = os.fsencode(tmp_path) + b"/"
    assert [os.fsencode(source.path) for source in found.normal] == [prefix + name for name in names[::2]]
    assert [os.fsencode(source.path) for source in found.anomalous] == [prefix + name for name in names[1::2]]


HEADER = "path,anomalous\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"labels.csv: the first line must name the columns path,anomalous$"),
        ("a.png,0\nb.png,1\n", r"the first line must name the columns"),
        ("path;anomalous\na.png;0\n", r"the first line must name the columns"),
        (HEADER, r"labels.csv lists no normal image: an evaluation needs both kinds$"),
        (HEADER + "a.png,0\n", r"lists no anomalous image"),
        (HEADER + "a.png,1\n", r"lists no normal image"),
        (HEADER + "a.png,0\nb.png,2\n", r"labels.csv, line 3: anomalous must be 0 or 1, not '2'$"),
        (HEADER + "a.png\n", r"line 2: anomalous must be 0 or 1, not ''$"),
        (HEADER + "a,b.png,1\n", r"line 2: anomalous must be 0 or 1, not 'b.png'$"),
        (HEADER + "a.png,\x1b\n", r"not '\\x1b'$"),
        (HEADER.encode() + b"a.png,\xff\n", r"not '\\xff'$"),
        (HEADER + ",1\n", r"line 2: the path is empty$"),
        (HEADER + "a.png,0\nb.png,1\na.png,1\n", r"line 4: a.png is listed twice$"),
        (HEADER + "a" * 200_000 + ",1\n", r"line 2: not CSV \(field larger than field limit \(131072\)\)$"),
        ((HEADER + "a.png,0\n").encode("utf-16"), r"the first line must name the columns"),
    ],
)
def test_a_labels_file_that_cannot_be_used(tmp_path: Path, text: str | bytes, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read_labels(write(tmp_path, text))


def test_two_folders(tmp_path: Path) -> None:
    for name in ("good/1.png", "good/sub/0.png", "bad/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        draw(0).save(tmp_path / name)
    found = labelled(str(tmp_path / "good"), str(tmp_path / "bad"))
    assert [source.path for source in found.normal] == [
        f"{tmp_path}/good/{x}" for x in ("1.png", "sub/0.png")
    ]
    assert [source.path for source in found.anomalous] == [f"{tmp_path}/bad/2.png"]


@pytest.mark.parametrize(
    ("normal", "anomalous", "error", "sentence"),
    [
        ("good", None, UsageError, "good is a folder: name the folder of anomalous images after it"),
        ("good", "good/0.png", UsageError, "0.png is a file: name two folders"),
        ("labels.csv", "good", UsageError, "labels.csv is a file: name two folders"),
        (".", "good", UsageError, "share images: one folder lies in the other"),
        ("good", "link", UsageError, "share images"),
        ("link", "good", UsageError, "share images"),
        ("nowhere", None, InputError, "nowhere: No such file"),
        ("nowhere", "good", InputError, "nowhere: No such file"),
        ("good", "empty", NoImages, "no images in empty"),
    ],
)
def test_what_two_folders_are_not(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    normal: str,
    anomalous: str | None,
    error: type[AnomscanError],
    sentence: str,
) -> None:
    for name in ("good", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("good")
    draw(0).save(tmp_path / "good" / "0.png")
    (tmp_path / "labels.csv").write_text(HEADER)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=sentence):
        labelled(normal, anomalous)
