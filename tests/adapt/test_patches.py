from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from anomscan.adapt.backbones import Backbone
from anomscan.adapt.onnx_export import FromPixels, L2Normalise, write_onnx
from anomscan.adapt.patches import (
    LARGEST,
    RIDGE,
    PaperPatches,
    PatchTrunk,
    Reduced,
    WhitenedPatches,
    Whitening,
    WithPatches,
    patch_stages,
)
from anomscan.network.extractor import IMAGE, PATCHES, Extractor
from anomscan.types import Features, Pixels
from tests.adapt.networks import random_backbone
from tests.conftest import draw

SIZE = 64
FAMILIES = {
    "resnet10t": (["layer2", "layer3"], (128, 256)),
    "test_efficientnet": (["blocks.2", "blocks.3"], (32, 48)),
    "test_vit": (["blocks.3", "blocks.4"], (64, 64)),
}
"""Names of the two stages, and how long their vectors are."""


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return random_backbone(str(request.param), SIZE)


def images(side: int, count: int = 3) -> torch.Tensor:
    """Normalised pixels of drawn images."""
    return normalised(np.stack([np.asarray(draw(seed, side=side)) for seed in range(count)]))


def given(module: nn.Module, inputs: torch.Tensor) -> Features:
    with torch.no_grad():
        outputs: Features = module.eval()(inputs).numpy()
    return outputs


def normalised(pixels: Pixels) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def correlated(count: int, dim: int, seed: int = 0) -> Features:
    """Vectors around a mean, a few directions of which vary a lot."""
    generator = np.random.default_rng(seed)
    directions, _ = np.linalg.qr(generator.normal(size=(dim, dim)))
    made: Features = generator.normal(size=(count, dim)) * np.geomspace(10, 0.1, dim) @ directions + 3
    return made.astype(np.float32)


def test_patches_are_made_of_a_fine_and_a_coarse_stage(backbone: Backbone) -> None:
    names, lengths = FAMILIES[backbone.info.name]
    assert patch_stages(backbone) == names
    patches = given(PatchTrunk(backbone), images(SIZE))
    assert patches.shape == (3, 4, 4, sum(lengths))
    for block in np.split(patches, lengths[:1], axis=-1):
        np.testing.assert_allclose(np.linalg.norm(block, axis=-1), 1, atol=1e-5)


def test_a_patch_shows_its_own_place(backbone: Backbone) -> None:
    """Rows are rows and columns are columns: where pixels change, the patches around them change most."""
    trunk, before = PatchTrunk(backbone), images(SIZE, 1)
    after = before.clone()
    after[:, :, :16, 48:] = 1
    changed = np.linalg.norm(given(trunk, after) - given(trunk, before), axis=-1)[0]
    row, column = np.unravel_index(changed.argmax(), changed.shape)
    assert row < 2 <= column


def test_a_finer_stage_is_averaged_over_the_coarser_grid() -> None:
    backbone = random_backbone("resnet10t", SIZE)
    trunk = PatchTrunk(backbone)
    with torch.no_grad():
        fine, coarse = trunk.body(images(SIZE))
    assert (fine.shape[2], coarse.shape[2]) == (8, 4)
    mean = fine.reshape(3, 128, 4, 2, 4, 2).mean((3, 5)).permute(0, 2, 3, 1).numpy()
    expected = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    np.testing.assert_allclose(given(trunk, images(SIZE))[..., :128], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("stages", "names"),
    [
        ([("a", 4), ("b", 8), ("c", 8), ("d", 16), ("e", 32)], ["c", "d"]),
        ([("a", 4), ("b", 16), ("c", 16), ("d", 32)], ["c"]),
        ([("a", 8), ("b", 32)], ["a"]),
        ([("a", 4), ("b", 32)], ["a"]),
        ([(str(i), 14) for i in range(8)], ["4", "6"]),
        ([("a", 16)], ["a", "a"]),
    ],
)
def test_stages_are_chosen_by_their_strides(stages: list[tuple[str, int]], names: list[str]) -> None:
    backbone = replace(random_backbone("resnet10t", SIZE), stages=tuple(stages))
    assert patch_stages(backbone) == names


@pytest.mark.parametrize(
    ("strides", "names"), [((8, 16), ["c", "d"]), ((4, 8, 16), ["a", "c", "d"]), ((2, 4, 16), ["a", "d"])]
)
def test_other_strides_are_other_stages(strides: tuple[int, ...], names: list[str]) -> None:
    stages = (("a", 4), ("b", 8), ("c", 8), ("d", 16), ("e", 32))
    assert patch_stages(replace(random_backbone("resnet10t", SIZE), stages=stages), strides) == names
    flat = replace(random_backbone("resnet10t", SIZE), stages=tuple((str(i), 14) for i in range(8)))
    assert patch_stages(flat, (4, 8, 16)) == ["2", "4", "6"]


def neighbourhood_means(stage: Features) -> Features:
    """PatchCore eq. 1 and 2 of (N, C, rows, columns): each place is the mean of 3 x 3 around it."""
    means = np.empty_like(stage)
    for row in range(stage.shape[2]):
        for column in range(stage.shape[3]):
            around = stage[:, :, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
            means[:, :, row, column] = around.mean(axis=(2, 3))
    return means


def interpolated(stage: Features, factor: int) -> Features:
    """(N, C, rows, columns) to so many times as many, linearly between the middles, as at the edge beyond."""
    for axis in (2, 3):
        count = stage.shape[axis]
        places = ((np.arange(factor * count) + 0.5) / factor - 0.5).clip(0, count - 1)
        low = np.floor(places).astype(int)
        high = np.minimum(low + 1, count - 1)
        share = (places - low).reshape([-1 if i == axis else 1 for i in range(4)])
        stage = np.take(stage, low, axis) * (1 - share) + np.take(stage, high, axis) * share
    return stage


def test_patches_of_patchcore_are_means_of_neighbourhoods_on_the_finer_grid() -> None:
    backbone = random_backbone("resnet10t", SIZE)
    module = PaperPatches("patchcore", (8, 16), neighbourhood=3).of(backbone, seed=0)
    with torch.no_grad():
        fine, coarse = (stage.numpy() for stage in module.trunk.maps(images(SIZE)))
    parts = [neighbourhood_means(fine), interpolated(neighbourhood_means(coarse), 2)]
    expected = np.concatenate(parts, axis=1).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(given(module, images(SIZE)), expected, atol=1e-4)
    assert expected.shape == (3, 8, 8, 128 + 256)


def test_patches_of_spade_are_a_pyramid_and_padim_s_some_of_it() -> None:
    backbone = random_backbone("resnet10t", SIZE)
    module = PaperPatches("spade", (4, 8, 16)).of(backbone, seed=0)
    with torch.no_grad():
        finest, fine, coarse = (stage.numpy() for stage in module.trunk.maps(images(SIZE)))
    assert finest.shape[2:] == (16, 16)
    averaged = finest.reshape(3, -1, 8, 2, 8, 2).mean(axis=(3, 5))
    expected = np.concatenate([averaged, fine, interpolated(coarse, 2)], axis=1).transpose(0, 2, 3, 1)
    found = given(module, images(SIZE))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    some = PaperPatches("padim", (4, 8, 16), components=100)
    first, same, other = (some.of(backbone, seed) for seed in (0, 0, 1))
    assert first.kept is not None
    assert len(set(first.kept.tolist())) == 100
    np.testing.assert_array_equal(given(first, images(SIZE)), found[..., first.kept.numpy()])
    np.testing.assert_array_equal(same.kept, first.kept)
    assert (other.kept != first.kept).any()
    assert PaperPatches("padim", (4, 8, 16), components=1000).of(backbone, 0).kept is None


@pytest.mark.parametrize("paper", [PaperPatches("x", (8, 16), 3), PaperPatches("x", (4, 8, 16), 1, 50)])
def test_patches_of_papers_are_the_same_in_the_graph(
    backbone: Backbone, paper: PaperPatches, tmp_path: Path
) -> None:
    module = FromPixels(backbone.preprocessing, paper.of(backbone, seed=0))
    write_onnx(module, tmp_path / "x.onnx", backbone.preprocessing, backbone.info)
    pixels = np.stack([np.asarray(draw(seed, side=SIZE)) for seed in range(3)])
    expected = given(module, torch.from_numpy(pixels))
    assert expected.shape[1:3] == ((4, 4) if backbone.info.name == "test_vit" else (8, 8))
    found = Extractor(tmp_path / "x.onnx", threads=1).run(pixels).image
    np.testing.assert_allclose(found, expected, atol=1e-3 * max(1.0, float(np.abs(expected).max())))


def test_whitened_patches_vary_alike_in_all_directions() -> None:
    patches = correlated(20_000, 20)
    whitening = Whitening()
    for part in np.split(patches.reshape(5, 40, 100, 20), 5):
        whitening.add(part)
    np.testing.assert_allclose(whitening.mean, patches.mean(axis=0), rtol=1e-4)
    white = whitening.apply(patches)
    assert white.dtype == np.float32
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-3)
    values = np.sort(np.linalg.eigvalsh(np.cov(patches.T.astype(np.float64), bias=True)))
    covariance = np.cov(white.T, bias=True)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-3)
    expected = values / (values + RIDGE * values.mean())
    np.testing.assert_allclose(np.sort(np.diag(covariance)), expected, atol=1e-3)
    assert expected[-1] > 0.95  # 1, but for the ridge
    assert expected[0] < 0.1


def test_long_patches_are_projected_and_distances_stay() -> None:
    patches = correlated(2000, 300)
    whitening = Whitening()
    whitening.add(patches)
    assert whitening.matrix.shape == (300, LARGEST)
    values, vectors = np.linalg.eigh(np.cov(patches.T.astype(np.float64), bias=True))
    all_of_them = (patches - patches.mean(axis=0)) @ vectors / np.sqrt(values + RIDGE * values.mean())
    expected = np.linalg.norm(all_of_them[:50, None] - all_of_them[50:100], axis=-1)
    white = whitening.apply(patches[:100])
    found = np.linalg.norm(white[:50, None] - white[50:], axis=-1)
    ratios = found / expected
    assert np.abs(ratios - 1).max() < 0.25
    assert abs(ratios.mean() - 1) < 0.05


def test_fewer_patches_than_directions_are_whitened_too() -> None:
    whitening = Whitening()
    whitening.add(correlated(10, 40))
    assert np.isfinite(whitening.apply(correlated(10, 40, seed=1))).all()
    same = Whitening()
    same.add(np.ones((5, 8), np.float32))
    assert np.isfinite(same.apply(np.ones((2, 8), np.float32))).all()


def test_in_torch_patches_are_whitened_alike(backbone: Backbone) -> None:
    trunk, whitening = PatchTrunk(backbone), Whitening()
    patches = given(trunk, images(SIZE))
    whitening.add(patches)
    whitened = given(WhitenedPatches(trunk, whitening), images(SIZE))
    assert whitened.shape == (3, 4, 4, min(patches.shape[-1], LARGEST))
    np.testing.assert_allclose(whitened, whitening.apply(patches), atol=1e-2)


def averaged(images: Features, factor: float) -> Features:
    """By hand: every pixel is the mean over the area that it comes from, (n, C, H, W)."""
    count, channels, height, width = images.shape
    made = np.zeros((count, channels, round(height / factor), round(width / factor)), np.float64)
    for row in range(made.shape[2]):
        for column in range(made.shape[3]):
            for y in range(height):
                high = max(0.0, min(y + 1, (row + 1) * factor) - max(y, row * factor))
                for x in range(width) if high else ():
                    wide = max(0.0, min(x + 1, (column + 1) * factor) - max(x, column * factor))
                    made[:, :, row, column] += high * wide / factor**2 * images[:, :, y, x]
    return made.astype(np.float32)


@pytest.mark.parametrize(("factor", "shape"), [(1.5, (6, 6)), (1.5, (9, 12)), (2.0, (4, 4)), (2.0, (6, 10))])
def test_larger_images_are_reduced_by_averaging_areas(factor: float, shape: tuple[int, int]) -> None:
    made = np.random.default_rng(0).normal(size=(2, 3, *shape)).astype(np.float32)
    reduced = given(Reduced(factor), torch.from_numpy(made))
    np.testing.assert_allclose(reduced, averaged(made, factor), atol=1e-6)


def test_an_image_of_the_own_size_stays_as_it_is() -> None:
    made = torch.rand(2, 3, 5, 7)
    assert Reduced(1.0)(made) is made


def enlarged(pixels: Pixels, times: int) -> Pixels:
    return pixels.repeat(times, axis=1).repeat(times, axis=2)


def test_one_graph_gives_the_image_at_its_own_size_and_patches_at_a_larger_one(
    backbone: Backbone, tmp_path: Path
) -> None:
    """Blocks of 2 x 2 pixels at the own size are 3 x 3 at the larger one, and what they average to."""
    family = backbone.info.name
    factor, times = {"resnet10t": (1.5, 3), "test_efficientnet": (2.0, 4)}.get(family, (1.0, 2))
    rules = replace(backbone.preprocessing, height=round(factor * SIZE), width=round(factor * SIZE))
    small = np.stack([np.asarray(draw(seed, side=SIZE // 2)) for seed in range(5)])
    own, larger = enlarged(small, 2), enlarged(small, times)
    assert larger.shape[1] == rules.height

    trunk, whitening = PatchTrunk(backbone), Whitening()
    whitening.add(given(trunk, normalised(larger)))
    patches, whole = WhitenedPatches(trunk, whitening), [backbone.model, L2Normalise()]
    module, names = FromPixels(rules, WithPatches(factor, whole, patches)), [IMAGE, PATCHES]
    write_onnx(module, tmp_path / "x.onnx", rules, backbone.info, outputs=names)
    assert [output.name for output in onnx.load(tmp_path / "x.onnx").graph.output] == names

    outputs = Extractor(tmp_path / "x.onnx", threads=1).run(larger)
    np.testing.assert_allclose(outputs.image, given(nn.Sequential(*whole), normalised(own)), atol=1e-4)
    expected = given(patches, normalised(larger))
    assert expected.shape[:3] == (5, rules.height // 16, rules.width // 16)
    assert outputs.patches is not None
    np.testing.assert_allclose(outputs.patches, expected, atol=1e-3 * np.abs(expected).max())
