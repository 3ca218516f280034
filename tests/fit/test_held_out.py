from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomscan.adapt.patches import Whitening
from anomscan.errors import ModelDamaged
from anomscan.fit import held_out as module
from anomscan.fit.embed import Embedded
from anomscan.fit.held_out import HELD, HeldOut, Kept, Moments, spread
from anomscan.images.decode import decode
from anomscan.images.find import Found, Source
from anomscan.model.manifest import ALL, HoldOut
from anomscan.model.model import Model, read_model
from anomscan.network.network import MethodInfo
from anomscan.scoring.base import Scorer, read_arrays
from anomscan.scoring.reduction import Reduction
from anomscan.scoring.registry import make_scorer, parse_scorer
from anomscan.types import Features, Outputs


def made(count: int, seed: int = 0) -> Features:
    """Patches of whole numbers, (count, 8, 8, 3), like those of the fake network."""
    return np.random.default_rng(seed).integers(0, 255, (count, 8, 8, 3)).astype(np.float32)


def embedded(count: int, dim: int = 192) -> Embedded:
    features = np.random.default_rng(1).normal(size=(count, dim)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    days = ("monday", "tuesday")
    paths = [f"/n/{days[i % 2]}/{i:02}.png" for i in range(count)]
    return Embedded("/n", paths, Outputs(features), [], "print")


@pytest.fixture
def patchy(fake_patch_model: Path) -> Model:
    return read_model(str(fake_patch_model), threads=1)


def patches_of(model: Model, paths: list[str]) -> Features:
    """As the network gives them for one image after the other."""
    rules = model.manifest.preprocessing
    outputs = [model.extractor.run(decode(path, rules).pixels[None]) for path in paths]
    patches = Outputs.joined(outputs).patches
    assert patches is not None
    return patches


def test_fewer_are_kept_of_images_in_many_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WITH_PATCHES", 50)
    monkeypatch.setattr(module, "MOST_TILES", 120)
    monkeypatch.setattr(module, "MOST_TILES_WITH_PATCHES", 60)
    sources: list[Found] = [Source(f"{i}.png") for i in range(100)]

    def kept(tiles: int, *, with_patches: bool) -> int:
        found = spread(sources, tiles, with_patches=with_patches)
        assert found == sorted(set(found), key=sources.index)
        return len(found)

    assert spread(sources, 1, with_patches=False) == sources
    assert [kept(tiles, with_patches=True) for tiles in (1, 2, 6, 60, 400)] == [50, 30, 10, 1, 1]
    assert [kept(tiles, with_patches=False) for tiles in (1, 2, 6, 60, 400)] == [100, 60, 20, 2, 1]


def test_patches_are_kept_in_order_in_16_bits() -> None:
    kept, patches = Kept(), made(5)
    assert kept.patches() is None
    kept.add(patches[:3], ["a", "b", "c"])
    kept.add(patches[3:], ["d", "e"])
    found = kept.patches()
    assert found is not None
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, patches)
    patches[:] = 0
    assert kept.patches().any()  # type: ignore[union-attr]


def test_of_embedded_normals_groups_are_counted() -> None:
    images, patches = embedded(6), made(6).astype(np.float16)
    held_out = HeldOut.of(images, HoldOut(0.5, "folder"), {}, patches)
    assert (held_out.info.images, held_out.info.groups, held_out.info.root) == (6, 2, "/n")
    assert (held_out.info.rule, held_out.info.fingerprint) == (HoldOut(0.5, "folder"), "print")
    assert held_out.calibration.paths == images.paths
    np.testing.assert_array_equal(held_out.calibration.features, images.outputs.image)
    assert held_out.patches is patches
    assert HeldOut.of(images, HoldOut(0.5), {"/n/monday/00.png": 0, "/n/tuesday/01.png": 0}).info.groups == 5


def test_of_a_model_those_are_left_that_were_not_named(patchy: Model, fake_patch_model: Path) -> None:
    assert patchy.calibration is not None
    paths, folder = patchy.calibration.paths, str(fake_patch_model)
    held_out = HeldOut.without(folder, patchy, {paths[0], paths[4], "/elsewhere"})
    assert held_out is not None
    left = [path for path in paths if path not in (paths[0], paths[4])]
    assert held_out.calibration.paths == left
    assert (held_out.info.images, held_out.info.groups) == (8, 8)
    assert patchy.manifest.calibration is not None
    assert replace(held_out.info, images=10, groups=10) == patchy.manifest.calibration
    assert held_out.patches is not None
    np.testing.assert_array_equal(held_out.patches, patches_of(patchy, left))


def test_where_none_is_held_out_none_is_left(
    patchy: Model, fake_patch_model: Path, model: Model, model_folder: Path
) -> None:
    assert HeldOut.without(str(model_folder), model, set()) is None
    assert patchy.calibration is not None
    gone = set(patchy.calibration.paths)
    assert HeldOut.without(str(fake_patch_model), patchy, gone) is None


def test_of_a_model_of_whole_images_there_are_no_patches(calibrated_folder: Path) -> None:
    folder = str(calibrated_folder)
    held_out = HeldOut.without(folder, read_model(folder, threads=1), set())
    assert held_out is not None
    assert held_out.patches is None


class Counting:
    """Counts the images that a scorer compares at a time."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer, self.counts = scorer, list[int]()

    def compared(self, outputs: Outputs) -> Outputs:
        self.counts.append(len(outputs))
        return self.scorer.compared(outputs)


def test_images_are_compared_in_blocks_as_in_one_go(patchy: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 4)
    images, patches = embedded(9), made(9)
    held_out, counting = (
        HeldOut.of(images, HoldOut(), {}, patches.astype(np.float16)),
        Counting(patchy.scorer),
    )
    found = held_out.compared(counting)  # type: ignore[arg-type]
    assert counting.counts == [4, 4, 1]
    expected = patchy.scorer.compared(Outputs(images.outputs.image, patches))
    assert found.patches is None
    assert found.maps is not None
    assert expected.maps is not None
    np.testing.assert_array_equal(found.image, expected.image)
    np.testing.assert_array_equal(found.maps.distances, expected.maps.distances)
    np.testing.assert_array_equal(found.maps.nearest, expected.maps.nearest)


def test_without_patches_the_features_are_all(model: Model) -> None:
    images = embedded(3)
    found = HeldOut.of(images, HoldOut(), {}).compared(model.scorer)
    np.testing.assert_array_equal(found.image, images.outputs.image)
    assert (found.patches, found.maps) == (None, None)


def test_patches_are_written_if_there_are_any(tmp_path: Path) -> None:
    images, patches = embedded(3), made(3).astype(np.float16)
    assert HeldOut.of(images, HoldOut(), {}).save(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []
    files = HeldOut.of(images, HoldOut(), {}, patches).save(tmp_path)
    assert list(files) == [HELD]
    found = read_arrays(files[HELD])["patches"]
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, patches)


def test_the_file_of_a_model_is_verified(fake_patch_model: Path, patchy: Model, tmp_path: Path) -> None:
    copied = tmp_path / "m"
    copied.mkdir()
    for file in fake_patch_model.iterdir():
        if file.is_file() and not file.name.startswith("held-"):
            (copied / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelDamaged):
        HeldOut.without(str(copied), patchy, set())


@pytest.mark.parametrize(
    "held",
    [{"other": made(2)}, {"patches": made(1).astype(np.float16)}, {"patches": np.full((2, 1, 1, 1), np.nan)}],
)
def test_patches_that_are_none_are_damage(tmp_path: Path, held: dict[str, np.ndarray]) -> None:
    np.savez(tmp_path / "held.npz", **held)  # type: ignore[arg-type]
    with pytest.raises(ModelDamaged, match="does not hold the patches of the normals that calibrate"):
        module._patches_in(tmp_path / "held.npz", 2)


def test_all_normals_or_as_many_as_are_kept_calibrate(monkeypatch: pytest.MonkeyPatch) -> None:
    images = embedded(6)
    every = HeldOut.every(images, "folder", {}, None)
    assert (every.info.rule, every.info.images, every.info.groups) == (HoldOut(ALL, "folder"), 6, 2)
    assert every.groups == dict(zip(images.paths, every.calibration.names, strict=True))
    kept, patches = Kept({images.paths[1], images.paths[4]}), made(6)
    kept.add(patches, images.paths)
    some = HeldOut.every(images, "none", {}, kept)
    assert some.calibration.paths == [images.paths[1], images.paths[4]]
    np.testing.assert_array_equal(some.calibration.features, images.outputs.image[[1, 4]])
    np.testing.assert_array_equal(some.patches, patches[[1, 4]])
    assert some.groups is not None
    assert len(some.groups) == 6
    monkeypatch.setattr(module, "MOST_HELD_OUT", 3)
    assert HeldOut.every(images, "none", {}, None).info.images == 3
    monkeypatch.setattr(module, "MOST_TILES", 8)
    assert HeldOut.every(images, "none", {}, None, tiles=4).info.images == 2


def test_a_copy_that_is_added_makes_one_group_of_two() -> None:
    every = HeldOut.every(embedded(6), "folder", {}, None)
    assert set(every.calibration.names) == {"/n/monday", "/n/tuesday"}
    more = every.beside(["/n/tuesday/99.png"], {"/n/tuesday/99.png": "/n/monday/00.png"})
    assert more.groups is not None
    assert len(set(more.groups.values())) == 1
    assert (len(set(more.calibration.names)), more.info.groups) == (1, 1)


def test_further_normals_belong_to_groups_too() -> None:
    every = HeldOut.every(embedded(6), "folder", {"/n/monday/00.png": 0, "/n/tuesday/01.png": 0}, None)
    assert every.groups is not None
    assert set(every.groups.values()) == {"/n/monday"}
    more = every.beside(
        ["/n/tuesday/99.png", "/n/friday/1.png", "/x/2.png"], {"/x/2.png": "/n/monday/00.png"}
    )
    assert more.groups is not None
    assert [more.groups[path] for path in ("/n/tuesday/99.png", "/n/friday/1.png", "/x/2.png")] == [
        "/n/monday",
        "/n/friday",
        "/n/monday",
    ]
    assert more.calibration.names == every.calibration.names
    assert more.info == every.info
    held_out = HeldOut.of(embedded(6), HoldOut(0.5), {})
    assert held_out.beside(["/n/friday/1.png"], {}) is held_out


@pytest.mark.parametrize(
    ("scorer", "method", "reduction", "why"),
    [
        ("knn", {"steps": 3}, None, "the network was trained on them"),
        ("knn", {"settings": {"whitening": 0.0625}}, None, "the features were fitted to normals"),
        ("knn", {"settings": {"whitening": 0}}, None, None),
        ("knn", {}, Reduction("coreset", 4), "the gallery no longer has them all"),
        ("mean", {}, None, "the scorer mean does not go by neighbours alone"),
    ],
)
def test_why_normals_of_the_gallery_do_not_calibrate(
    scorer: str, method: dict[str, Any], reduction: Reduction | None, why: str | None
) -> None:
    images = embedded(6)
    every, fitted = HeldOut.every(images, "none", {}, None), make_scorer(parse_scorer(scorer))
    fitted.fit(images.outputs, 0, reduction)
    found = every.why_not(fitted, MethodInfo("none", 0, **method), reduction, images.paths)
    assert (found or "").startswith(why or "")
    assert (found is None) == (why is None)
    assert HeldOut.of(images, HoldOut(0.5), {}).why_not(fitted, MethodInfo("none", 0, 3), None, []) is None


def test_too_few_are_left_without_a_group() -> None:
    images, scorer = embedded(6), make_scorer(parse_scorer("knn"))
    scorer.fit(images.outputs, 0)
    for rule, known in (("folder", False), ("(/n)", True)):
        every = HeldOut.every(images, rule, {}, None)
        found = every.why_not(scorer, MethodInfo("none", 0), None, images.paths)
        assert (found is not None) == known
    assert found is not None
    assert "too few" in found


def test_without_some_normals_patches_are_whitened_anew() -> None:
    """As if the covariance had been fitted to the others, but for its ridge."""
    generator = np.random.default_rng(0)
    raw = (generator.normal(size=(12, 6, 6, 4)) * [9.0, 3.0, 1.0, 0.3]).astype(np.float32)
    raw[3] *= 2
    whitening = Whitening()
    whitening.add(raw)
    white = whitening.apply(raw)
    stay = np.array([0, 1, 2, *range(5, 12)])
    others = Whitening()
    others.add(raw[stay])
    metric = Moments(white.astype(np.float16)).metric_without(np.array([3, 4]))
    assert metric is not None
    pairs = white.reshape(-1, 4)[:60], white.reshape(-1, 4)[60:120]
    anew = others.apply(raw).reshape(-1, 4)
    expected = np.linalg.norm(anew[:60] - anew[60:120], axis=1)
    found = np.linalg.norm((pairs[0] - pairs[1]) @ metric, axis=1)
    before = np.linalg.norm(pairs[0] - pairs[1], axis=1)
    assert np.abs(found / expected - 1).max() < 0.05
    assert np.abs(found / expected - 1).mean() < 0.3 * np.abs(before / expected - 1).mean()
    assert Moments(white).metric_without(np.arange(12)) is None
    assert Moments(100 * white).metric_without(np.array([3])) is None, "others were whitened"
