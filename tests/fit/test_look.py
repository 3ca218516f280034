from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomscan.errors import InputError, UsageError
from anomscan.fit.build import build_from
from anomscan.fit.index import IndexOptions, index
from anomscan.fit.look import Gathering, Look
from anomscan.fit.normals import Normals
from anomscan.images.decode import decode
from anomscan.images.find import find, find_images
from anomscan.model.folder import ModelDraft, read_manifest
from anomscan.model.manifest import HoldOut
from anomscan.model.model import read_model
from anomscan.scoring.registry import make_scorer, parse_scorer
from anomscan.screen.evaluate import labelled, measure
from anomscan.screen.run import ScoreJob, run
from anomscan.types import Levels, Reading
from tests.conftest import REPOSITORY, SIZE, draw, fake_model, silent
from tests.fakes import fake_network
from tests.images.files import png

SAMPLES = REPOSITORY / "sample_data"


def look(folder: Path, gathering: Gathering | None = None, levels: Levels | None = None) -> Look:
    return (gathering or Gathering()).look(find_images(str(folder)), silent, levels)


def drawn(folder: Path, seeds: range) -> Path:
    folder.mkdir(exist_ok=True)
    for seed in seeds:
        draw(seed).save(folder / f"{seed:03}.png")
    return folder


def test_8_bits_need_no_range(normal_folder: Path) -> None:
    found = look(normal_folder)
    assert found.reading == Reading(None, beyond_16_bits=True, constant_tail=False)
    assert (found.copies, found.notes) == ({}, [])


# Grey levels


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parts of the samples, in grey."""
    folder = tmp_path_factory.mktemp("eight")
    anomalous = {
        line.split(",")[0]
        for line in (SAMPLES / "labels.csv").read_text().splitlines()
        if line.endswith(",1")
    }
    for part in ("normal", "incoming"):
        for path in sorted((SAMPLES / part).iterdir())[:: 1 + (part == "normal")]:
            if path.name == "part_003.jpg" and part == "incoming":
                continue  # it is cut off
            kind = "odd" if f"{part}/{path.name}" in anomalous else part
            (folder / kind).mkdir(exist_ok=True)
            Image.open(path).convert("L").save(folder / kind / f"{path.stem}.png")
    return folder


def auroc(model: Path, folder: Path) -> float:
    loaded = read_model(str(model), threads=2)
    images = labelled(str(folder / "incoming"), str(folder / "odd"))
    with (
        run(ScoreJob(images.normal, loaded), silent) as normal,
        run(ScoreJob(images.anomalous, loaded), silent) as anomalous,
    ):
        assert not normal.remarks.counts["clipped"]
        return measure(normal.ranking.rows(), anomalous.ranking.rows(), 0).auroc.value


@pytest.fixture(scope="module")
def of_8_bits(eight: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    model = tmp_path_factory.mktemp("models") / "m"
    fake_model(eight / "normal", model)
    return auroc(model, eight)


@pytest.mark.parametrize(
    ("factor", "offset", "bits", "suffix"),
    [
        (257, 0, None, "png"),
        (64, 0, None, "png"),
        (16, 0, None, "tif"),
        (4, 0, None, "png"),
        (16, 20_000, None, "png"),
        (4, 51_200, None, "tif"),
        (64, 0, 14, "png"),
        (16, 0, 12, "png"),
        (4, 0, 10, "png"),
    ],
    ids=lambda value: str(value),
)
def test_deep_images_are_told_apart_as_well_as_those_of_8_bits(
    eight: Path, of_8_bits: float, tmp_path: Path, factor: int, offset: int, bits: int | None, suffix: str
) -> None:
    """10, 12, 14 bits, an offset of 20,000, a thermal range, declared or not; with at least 200 levels."""
    for path in eight.glob("*/*.png"):
        values = np.asarray(Image.open(path)).astype(np.uint16) * factor + offset
        target = (tmp_path / path.relative_to(eight)).with_suffix(f".{suffix}")
        target.parent.mkdir(exist_ok=True)
        if suffix == "png":
            png(target, values, *([(b"sBIT", bytes([bits]))] if bits else []))
        else:
            Image.fromarray(values).save(target)
    fake_model(tmp_path / "normal", tmp_path / "m")
    preprocessing = read_manifest(str(tmp_path / "m")).preprocessing
    levels = preprocessing.reading.levels
    assert levels is not None
    if bits:
        assert levels == Levels(0, 2**bits - 1)
    of_all = [decode(str(path), preprocessing).pixels for path in (tmp_path / "normal").iterdir()]
    darkest, brightest = (np.quantile(np.stack(of_all), share) for share in (0.001, 0.999))
    whole = [np.asarray(Image.open(path)) for path in (eight / "normal").iterdir()]
    of_8 = np.quantile(np.stack(whole), 0.999) - np.quantile(np.stack(whole), 0.001)
    assert brightest - darkest >= (0.75 * of_8 if bits else 200)
    assert auroc(tmp_path / "m", tmp_path) == pytest.approx(of_8_bits, abs=0.01)


def deep_disc(seed: int, low: int, high: int) -> np.ndarray:
    grey = np.asarray(draw(seed).convert("L")).astype(np.float64)
    return (low + grey / 255 * (high - low)).astype(np.uint16)


def test_a_range_is_stated_or_that_of_the_format_or_of_the_network(tmp_path: Path) -> None:
    for seed in range(4):
        png(tmp_path / f"{seed}.png", deep_disc(seed, 1000, 5000), (b"sBIT", bytes([14])))
    for gathering, trained, levels in (
        (Gathering(), None, Levels(0, 16383)),
        (Gathering(range="900:6000"), None, Levels(900, 6000)),
        (Gathering(range="900:6000"), Levels(0, 9999), Levels(900, 6000)),
        (Gathering(), Levels(0, 9999), Levels(0, 9999)),
        (Gathering(range="file"), None, Levels(0, 16383)),
        (Gathering(range="file"), Levels(0, 9999), Levels(0, 16383)),
    ):
        assert look(tmp_path, gathering, trained).reading.levels == levels
    for seed in range(4):
        png(tmp_path / f"{seed}.png", deep_disc(seed, 1000, 5000))
    assert look(tmp_path, Gathering(range="file")).reading.levels == Levels(0, 65535)
    with pytest.raises(UsageError, match="--range takes LO:HI"):
        look(tmp_path, Gathering(range="wide"))
    Image.fromarray(deep_disc(9, 0, 9000).astype(np.int32)).save(tmp_path / "9.tif")
    with pytest.raises(UsageError, match="have no range of their own"):
        look(tmp_path, Gathering(range="file"))


def test_the_range_stays_when_a_trained_network_is_indexed_again(tmp_path: Path) -> None:
    """Its weights were trained on images of that range; another backbone, or none trained, decides anew."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, low, high in ((first, 1000, 3000), (second, 1000, 4000)):
        folder.mkdir()
        for seed in range(6):
            png(folder / f"{seed}.png", deep_disc(seed, low, high))
    for steps, same in ((5, True), (0, False)):
        model = tmp_path / f"m{steps}"
        fake_model(first, model, steps=steps)
        before = read_manifest(str(model)).preprocessing
        after = index(str(second), str(model), IndexOptions(), silent).manifest.preprocessing
        assert (after.reading.levels == before.reading.levels) == same


# Nothing to see


@pytest.mark.parametrize("kind", ["lens cap", "stuck", "wrong range"])
def test_normals_that_show_nothing_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    generator, gathering = np.random.default_rng(0), Gathering()
    for i in range(20):
        if kind == "lens cap":
            noise = 4 + generator.normal(0, 1, (96, 96))
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(tmp_path / f"{i:02}.png")
        elif kind == "stuck":
            draw(0).save(tmp_path / f"{i:02}.jpg", quality=80 + i % 2)
        else:
            png(tmp_path / f"{i:02}.png", deep_disc(i, 0, 200))
            gathering = Gathering(range="0:65535")
    with pytest.raises(InputError, match=r"the 20 normal images are all but .*00\.\w+, .*--range"):
        look(tmp_path, gathering)
    with pytest.raises(InputError, match="all but identical"):
        index(str(tmp_path), str(tmp_path / "m"), IndexOptions(), silent, gathering=gathering)
    assert not (tmp_path / "m").exists()


def test_a_part_that_never_moves_is_no_lens_cap(tmp_path: Path) -> None:
    """What differs from shot to shot is the noise, and the lamp by a hundredth."""
    scene, generator = np.asarray(draw(0)).astype(np.float64), np.random.default_rng(0)
    for i in range(12):
        shot = scene * generator.normal(1, 0.01) + generator.normal(0, 2, scene.shape)
        Image.fromarray(shot.clip(0, 255).astype(np.uint8)).save(tmp_path / f"{i:02}.png")
    assert look(tmp_path).copies == {}


def test_one_normal_is_enough_to_look_at(tmp_path: Path) -> None:
    assert look(drawn(tmp_path, range(1))).notes == []
    (tmp_path / "000.png").write_bytes(b"broken")
    assert look(tmp_path).notes == []  # that it cannot be read is said when it is embedded


def test_few_grey_levels_are_told_with_the_names(tmp_path: Path) -> None:
    for seed in range(5):
        values = deep_disc(seed, 0, 8000)
        png(tmp_path / f"{seed}.png", values)
    (note,) = look(tmp_path, Gathering(range="0:65535")).notes
    assert note.startswith("fewer than 64 grey levels are used by ")
    assert "0.png " in note
    assert note.endswith(" and 2 more: is the range right? see --range")
    assert look(tmp_path).notes == []


# Copies


def jpeg(quality: int) -> Callable[[Image.Image, Path], None]:
    return lambda image, path: image.save(path.with_suffix(".jpg"), quality=quality)


def smaller(image: Image.Image, path: Path) -> None:
    image.resize((image.width * 3 // 4, image.height * 3 // 4), Image.Resampling.BICUBIC).save(path)


def doubled(folder: Path, *again: Callable[[Image.Image, Path], None]) -> Path:
    """Every image of a folder, saved again in these ways."""
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as image:
            for i, save in enumerate(again):
                save(image, folder / f"{path.stem}-{i}.png")
    return folder


def sets(found: Look) -> list[set[str]]:
    """What are copies of each other, by the numbers in front of their names."""
    by_number: dict[int, set[str]] = {}
    for path, number in found.copies.items():
        by_number.setdefault(number, set()).add(Path(path).name[:3])
    return list(by_number.values())


@pytest.mark.parametrize(
    "again",
    [
        (lambda image, path: image.save(path),),
        (jpeg(90), jpeg(80)),
        (jpeg(60),),
        (lambda image, path: image.save(path.with_suffix(".tif")), jpeg(75)),
    ],
    ids=["saved again", "90 and 80", "60", "another format"],
)
def test_copies_are_found_and_nothing_else(
    tmp_path: Path, again: tuple[Callable[[Image.Image, Path], None], ...]
) -> None:
    found = look(doubled(drawn(tmp_path, range(30)), *again))
    assert sorted(sets(found), key=min) == [{f"{i:03}"} for i in range(30)]
    assert len(found.copies) == 30 * (1 + len(again))
    assert found.notes[:1] == [
        f"{30 * len(again)} of {len(found.copies)} normals are copies, or nearly, of others: a set of copies "
        "counts once, and is held out together"
    ]


def test_smaller_copies_of_the_samples_are_found(tmp_path: Path) -> None:
    for path in sorted((SAMPLES / "normal").iterdir())[:30]:
        with Image.open(path) as image:
            image.save(tmp_path / f"{path.stem[-3:]}.png")
    assert look(tmp_path).copies == {}
    assert len(sets(look(doubled(tmp_path, smaller)))) == 30


def test_two_shots_of_a_part_in_the_same_place_are_no_copies(tmp_path: Path) -> None:
    for start in (0, 800, 2000):
        folder = drawn(tmp_path / str(start), range(start, start + 40))
        assert look(folder).copies == {}


def test_copies_that_show_no_detail_are_copies(tmp_path: Path) -> None:
    """Such as drawings: all detail is zero."""
    for i in range(10):
        for again in range(2):
            Image.new("L", (96, 96), 20 * i).save(tmp_path / f"{i:03}-{again}.png")
    assert sorted(sets(look(tmp_path)), key=min) == [{f"{i:03}"} for i in range(10)]


def test_copies_are_known_by_their_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doubled(drawn(tmp_path / "n", range(12)), jpeg(90))
    monkeypatch.chdir(tmp_path)
    found = Normals.find("n").look.by_absolute_path()
    assert len(found) == 24
    assert all(os.path.isabs(path) for path in found)


FPR = 0.06


def false_alarms(folder: Path, good: Path, tmp_path: Path, *, copies: bool = True) -> float:
    """The mean share of good parts called anomalous, over some splits."""
    found = Normals.find(str(folder))
    if not copies:
        found = replace(found, look=replace(found.look, copies={}))
    rates = []
    for seed in range(4):
        model = tmp_path / f"m{seed}"
        with ModelDraft.begin(str(model)) as draft:
            scorer = make_scorer(parse_scorer("knn"))
            split = found.split(HoldOut(0.4), seed)
            build_from(draft, fake_network(draft.scratch, SIZE), scorer, split, silent)
        with run(ScoreJob(find([str(good)]), read_model(str(model), 2)), silent) as outcome:
            rates.append(np.mean([(row.p_value or 1) <= FPR for row in outcome.ranking.rows()]))
        shutil.rmtree(model)
    return float(np.mean(rates))


@pytest.mark.parametrize("kind", ["clean", "doubled", "compressed again"])
def test_the_bound_on_false_alarms_holds_whatever_copies_there_are(tmp_path: Path, kind: str) -> None:
    folder = drawn(tmp_path / "normal", range(50))
    if kind == "doubled":
        doubled(folder, lambda image, path: image.save(path), lambda image, path: image.save(path))
    elif kind == "compressed again":
        doubled(folder, jpeg(90), jpeg(75))
    good = drawn(tmp_path / "good", range(1000, 1070))
    kept = false_alarms(folder, good, tmp_path)
    assert kept <= FPR + 0.03
    if kind != "clean":
        assert false_alarms(folder, good, tmp_path, copies=False) > 0.2


# What else is said


def test_further_pages_are_said(tmp_path: Path) -> None:
    drawn(tmp_path, range(3))
    draw(7).save(tmp_path / "film.tif", save_all=True, append_images=[draw(8), draw(9)])
    assert look(tmp_path).notes == ["1 file has further pages or frames that were not looked at"]


def test_a_constant_end_of_a_normal_is_remembered(tmp_path: Path) -> None:
    drawn(tmp_path, range(3))
    assert not look(tmp_path).reading.constant_tail
    image = draw(5)
    image.paste("black", (0, 80, 96, 96))
    image.save(tmp_path / "label.png")
    assert look(tmp_path).reading.constant_tail


def test_what_is_excluded_is_neither_looked_at_nor_indexed(tmp_path: Path) -> None:
    drawn(tmp_path / "n", range(3))
    draw(9).save(tmp_path / "n" / "a_mask.png")
    (tmp_path / "n" / ".thumbnails").mkdir()
    found = Normals.find(str(tmp_path / "n"), Gathering(("*_mask.png",)))
    assert [Path(source.path).name for source in found.sources] == ["000.png", "001.png", "002.png"]
    assert found.look.notes == ["1 hidden or system name was passed over", "1 name was excluded"]


def test_a_limit_of_pixels_is_that_of_every_image_to_come(tmp_path: Path) -> None:
    drawn(tmp_path, range(3))
    assert look(tmp_path, Gathering(max_pixels=10_000)).reading.max_pixels == 10_000
    assert look(tmp_path, Gathering(max_pixels=100)).notes == []  # each becomes a reason when it is embedded


def test_progress_is_told(normal_folder: Path) -> None:
    told: list[int] = []
    Gathering().look(find_images(str(normal_folder)), lambda what, done, total, remark: told.append(done))
    assert told == list(range(1, 21))
