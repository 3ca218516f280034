from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomscan.adapt.folders import classes_of, decoded, decoded_once, decoded_others, find_others
from anomscan.adapt.options import AdaptOptions
from anomscan.adapt.presets import PRESETS
from anomscan.errors import InputError, NoImages, UsageError
from anomscan.images.decode import Decoded
from anomscan.images.find import Found, Source, Unreadable
from anomscan.types import Part, Preprocessing, Reading, Tiles

SOURCES: list[Found] = [Source(f"{i}.png") for i in range(50)]


def found(name: str, **folders: str) -> dict[str, list[Found]]:
    return find_others(PRESETS[name], AdaptOptions(name, **folders))


def test_further_folders_come_by_their_options(others: Path) -> None:
    assert found("panda-es") == {}
    assert found("panda-ewc") == {}
    assert len(found("panda-ewc", reference=str(others))["reference"]) == 12
    assert len(found("adib", outliers=str(others))["outliers"]) == 12
    assert len(found("joint", reference=str(others))["reference"]) == 12


def test_a_further_folder_must_hold_images(tmp_path: Path, others: Path) -> None:
    with pytest.raises(NoImages, match="no images in"):
        found("adib", outliers=str(tmp_path))
    with pytest.raises(InputError, match="No such file"):
        found("adib", outliers=str(tmp_path / "nowhere"))
    assert len(found("panda-ewc", reference=str(others / "noise"))["reference"]) == 6, "needs no classes"
    with pytest.raises(UsageError, match="needs a subfolder of reference images for each"):
        found("joint", reference=str(others / "noise"))


def test_the_top_folder_is_the_class() -> None:
    paths = ["r/b/x.png", "r/a/deep/y.png", "r/z.png", "r/b/w.png"]
    assert classes_of("r", [Source(path) for path in paths]) == {
        "r/b/x.png": 1,
        "r/a/deep/y.png": 0,
        "r/b/w.png": 1,
    }


def test_images_are_decoded_in_order(normal_folder: Path) -> None:
    preprocessing = Preprocessing(8, 8, "bicubic", (0.5,) * 3, (0.5,) * 3)
    sources = [Source(str(normal_folder / "01.png")), Unreadable("x", "broken")]
    images = decoded(sources, preprocessing)
    first = next(images)
    assert isinstance(first, Decoded)
    assert (first.pixels.shape, first.pixels.dtype) == ((8, 8, 3), np.uint8)
    assert list(images) == [sources[1]]


def test_tiles_are_images_of_their_own_and_further_images_have_none(normal_folder: Path) -> None:
    rules = Preprocessing(8, 8, "bicubic", (0.5,) * 3, (0.5,) * 3, tiles=Tiles(2, 2, 0.0, (96, 96)))
    sources = [Source(str(normal_folder / f"0{i}.png")) for i in range(2)]
    each = list(decoded(sources, rules))
    assert [image.path for image in each] == [source.path for source in sources for _ in range(4)]
    once, middle = list(decoded_once(sources, rules)), list(decoded_once(sources, rules, 2))
    for found, places in ((once, (0, 5)), (middle, (2, 6))):
        for image, place in zip(found, places, strict=True):
            assert isinstance(image, Decoded)
            np.testing.assert_array_equal(image.pixels, each[place].pixels)  # type: ignore[union-attr]
    (further, _) = decoded_others(sources, rules)
    assert isinstance(further, Decoded)
    assert further.pixels.shape == (8, 8, 3)


def test_of_further_images_those_like_the_normals_are_cropped(normal_folder: Path, tmp_path: Path) -> None:
    with Image.open(normal_folder / "01.png") as image:
        image.crop((0, 0, 50, 50)).save(tmp_path / "other.png")
    whole = Preprocessing(8, 8, "bicubic", (0.5,) * 3, (0.5,) * 3)
    region = replace(whole, reading=Reading(part=Part((96, 96), (10, 10, 40, 40))))
    sources = [Source(str(normal_folder / "01.png")), Source(str(tmp_path / "other.png")), Source("gone.png")]
    like, other, gone = decoded_others(sources, region)
    for image, source, rules in ((like, sources[0], region), (other, sources[1], whole)):
        (expected,) = decoded([source], rules)
        assert isinstance(image, Decoded)
        assert isinstance(expected, Decoded)
        np.testing.assert_array_equal(image.pixels, expected.pixels)
    assert gone == Unreadable("gone.png", "No such file or directory")
    assert [image.path for image in decoded_others(sources[:2], whole)] == [s.name for s in sources[:2]]
