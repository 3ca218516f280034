from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from anomscan.adapt import focus
from anomscan.adapt.backbones import Backbone
from anomscan.adapt.focus import FEWEST, Sight, check, choose, limit_of, weight_of
from anomscan.adapt.likeness import MOST, distinctness
from anomscan.adapt.made_defects import PATCH
from anomscan.adapt.options import FocusChoice
from anomscan.adapt.patches import PatchTrunk, Whitening
from anomscan.errors import AnomscanError, UsageError
from anomscan.images.find import Found, Unreadable, find
from anomscan.images.part import part_of
from anomscan.network.network import BackboneInfo
from anomscan.types import Features, Part, Preprocessing, Reading, Tiles
from tests.adapt.networks import random_backbone
from tests.conftest import silent

SIZE = 32


class Tiny(nn.Module):
    """Two convolutions, of stride 8 and 16."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 12, 8, 8), nn.Conv2d(12, 12, 2, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.coarse(self.fine(images))
        return maps.mean((2, 3))


class OneSize(Tiny):
    """The same with something for every place, so that it takes no other size."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.zeros(1, 12, SIZE // 8, SIZE // 8))

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.coarse(self.fine(images) + self.places)
        return maps.mean((2, 3))


class Branching(Tiny):
    """The same with a branch, so that its stages cannot be told apart."""

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.coarse(self.fine(images))
        return maps.mean((2, 3)) if maps.sum() > 0 else maps.amax((2, 3))


class Untiled(Tiny):
    """The same, with tokens that lie on no square grid."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Flatten(2)

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.tokens(self.fine(images)[:, :, 1:])
        return tokens.mean(2)


def backbone_of(network: type[nn.Module], size: int = SIZE) -> Backbone:
    torch.manual_seed(0)
    stages = (("tokens", 8),) if network is Untiled else (("fine", 8), ("coarse", 16))
    rules = Preprocessing(size, size, "bicubic", (0.5,) * 3, (0.5,) * 3)
    return Backbone(network().eval(), None, stages, rules, BackboneInfo("tiny", "random", "", 12))


def images(folder: Path, count: int = 16, *, noise: float = 1.0, side: int = 80) -> list[Found]:
    """Grey images with some noise."""
    folder.mkdir()
    for seed in range(count):
        pixels = 120 + np.random.default_rng(seed).normal(0, noise, (side, side, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{seed:02}.png")
    return list(find([str(folder)]))


def clustered(count: int, spread: float = 0.05) -> Features:
    """Features of four things, which differ from each other much more than from their like."""
    generator = np.random.default_rng(0)
    return (np.eye(4)[np.arange(count) % 4] + generator.normal(0, spread, (count, 4))).astype(np.float32)


def apart(count: int) -> Features:
    """Features of as many things."""
    return np.random.default_rng(0).normal(size=(count, 200)).astype(np.float32)


def chosen(
    sources: Sequence[Found],
    scratch: Path,
    looks: str = "auto",
    *,
    features: Features | None = None,
    backbone: Backbone | None = None,
    budget: float | None = None,
    only_own_size: bool = False,
) -> Sight:
    return choose(
        backbone or backbone_of(Tiny),
        sources,
        FocusChoice(looks, budget),
        features=clustered(len(sources)) if features is None else features,
        only_own_size=only_own_size,
        scratch=scratch,
        progress=silent,
    )


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[float, tuple[float, float]]:
    """What patches show at every size, AUROC and milliseconds, in the place of a look; to be changed."""
    shown = {1.0: (0.6, 5.0), 1.5: (0.7, 10.0), 2.0: (0.8, 20.0)}

    def look(backbone: Backbone, factor: float, *_: Any) -> Any:
        whitening = Whitening()
        whitening.add(np.random.default_rng(0).normal(size=(30, 24)).astype(np.float32))
        size = round(factor * backbone.preprocessing.height)
        trunk, (area, milliseconds) = PatchTrunk(backbone), shown[factor]
        return focus._View(factor, size, trunk, whitening, dict.fromkeys(PATCH, area), milliseconds)

    monkeypatch.setattr(focus, "_look", look)
    return shown


def sizes(sight: Sight) -> list[int]:
    """Those that were looked at."""
    return [int(name) for name in sight.info.measured if name.isdigit()]


def test_of_more_normals_more_likeness_is_asked_for() -> None:
    limits = [limit_of(count) for count in (10, 15, 50, 100, MOST)]
    assert limits == sorted(limits, reverse=True)
    assert len(set(limits)) == 5
    assert limit_of(15) == pytest.approx(0.72)
    assert limit_of(MOST) == limit_of(10_000) > 0.4


def test_the_image_counts_for_less_where_patches_see_more() -> None:
    weights = [weight_of(seen) for seen in (0.0, 0.58, 0.6, 0.7, 0.72, 0.8, 0.9, 1.0)]
    assert weights == sorted(weights, reverse=True)
    assert len(set(weights)) == 6
    assert (weights[0], weight_of(0.65), weight_of(0.81), weights[-1]) == (1.2, 0.994, 0.175, 0.1)


@pytest.mark.parametrize("looks", [None, "auto", "image", "patch", "both"])
def test_a_focus_that_there_is(looks: str | None) -> None:
    check(FocusChoice(looks))


@pytest.mark.parametrize("looks", ["", "patches", "Both"])
def test_a_focus_that_there_is_not(looks: str) -> None:
    with pytest.raises(UsageError, match="choose one of auto, image, patch, both"):
        check(FocusChoice(looks))


@pytest.mark.usefixtures("seen")
def test_an_image_that_was_asked_for_needs_no_look(tmp_path: Path) -> None:
    sight = chosen([Unreadable("x", "denied")], tmp_path, "image")
    assert (sight.info.looks, sight.info.size, sight.patches) == ("image", 0, None)


@pytest.mark.usefixtures("seen")
def test_of_few_normals_nothing_can_be_told(tmp_path: Path) -> None:
    sources = images(tmp_path / "n", FEWEST)
    assert chosen(sources, tmp_path).info.looks == "both"
    sight = chosen(sources[:-1], tmp_path)
    assert (sight.info.looks, sight.info.size, sight.patches, sight.factor) == ("image", 0, None, 1.0)
    assert "9 normals are too few" in sight.info.reason


@pytest.mark.usefixtures("seen")
def test_normals_that_differ_much_are_looked_at_as_a_whole(tmp_path: Path) -> None:
    sight = chosen(images(tmp_path / "n"), tmp_path, features=apart(16))
    assert (sight.info.looks, sight.info.size, sight.patches) == ("image", 0, None)
    assert "differ too much to see small defects" in sight.info.reason
    assert sight.info.measured["distinctness"] == pytest.approx(distinctness(apart(16)), abs=1e-3)


@pytest.mark.usefixtures("seen")
def test_small_images_hide_what_is_small(tmp_path: Path) -> None:
    enough = chosen(images(tmp_path / "enough", side=SIZE // 2), tmp_path)
    assert enough.info.looks == "both"
    sight = chosen(images(tmp_path / "small", side=SIZE // 2 - 1), tmp_path)
    assert (sight.info.looks, sight.info.size, sight.patches) == ("image", 0, None)
    assert "the images have only 15 px" in sight.info.reason


@pytest.mark.usefixtures("seen")
def test_of_a_region_its_own_side_counts(tmp_path: Path) -> None:
    backbone = backbone_of(Tiny)
    reading = Reading(part=Part((80, 80), (0, 0, 60, SIZE // 2 - 1)))
    backbone = replace(backbone, preprocessing=replace(backbone.preprocessing, reading=reading))
    sight = chosen(images(tmp_path / "n"), tmp_path, backbone=backbone)
    assert "the images have only 15 px" in sight.info.reason


@pytest.mark.usefixtures("seen")
def test_of_tiles_their_own_side_counts(tmp_path: Path) -> None:
    backbone = backbone_of(Tiny)
    rules = replace(backbone.preprocessing, tiles=Tiles(1, 4, 0.0, (80, 80)))
    sources = images(tmp_path / "n", side=80)
    enough = chosen(sources, tmp_path, backbone=replace(backbone, preprocessing=rules))
    assert sizes(enough) == [32]
    finer = replace(rules, tiles=Tiles(6, 1, 0.0, (80, 80)))
    sight = chosen(sources, tmp_path, backbone=replace(backbone, preprocessing=finer))
    assert "the images have only 13 px" in sight.info.reason


def test_every_tile_of_fewer_others_is_looked_at() -> None:
    sources: list[Found] = [Unreadable(str(i), "") for i in range(400)]
    judges, others = focus._drawn(sources, 1)
    fewer_judges, fewer = focus._drawn(sources, 40)
    assert fewer_judges == judges
    assert len(fewer) == FEWEST
    assert set(fewer) <= set(others)


@pytest.mark.parametrize("looks", ["patch", "both"])
def test_what_was_asked_for_is_done_whatever_the_normals(
    tmp_path: Path, looks: str, seen: dict[float, tuple[float, float]]
) -> None:
    seen[1.0] = (0.5, 5.0)
    sight = chosen(images(tmp_path / "n", 4, side=10), tmp_path, looks, features=np.empty((0, 1), np.float32))
    assert sight.info.looks == looks
    assert sight.info.size == SIZE
    assert sight.patches is not None


def test_the_larger_size_is_taken_where_it_shows_more(
    tmp_path: Path, seen: dict[float, tuple[float, float]]
) -> None:
    sources = images(tmp_path / "n")
    sight = chosen(sources, tmp_path)
    assert (sight.info.looks, sight.info.size, sight.factor) == ("both", 64, 2.0)
    assert sizes(sight) == [32, 48, 64]
    assert sight.info.weight == weight_of(0.8) < weight_of(0.6)
    assert sight.info.measured["48"] == {**dict.fromkeys(PATCH, 0.7), "ms": 10.0}
    assert "patches at 64 px" in sight.info.reason
    assert "AUROC of 80" in sight.info.reason
    seen[2.0] = (0.704, 20.0)
    assert chosen(sources, tmp_path).info.size == 48
    seen[1.5] = (0.604, 10.0)
    assert chosen(sources, tmp_path).info.size == 64
    seen[2.0] = (0.604, 20.0)
    assert chosen(sources, tmp_path).info.size == 48
    seen[1.0], seen[1.5], seen[2.0] = (0.5, 5.0), (0.5, 10.0), (0.57, 20.0)
    sight = chosen(sources, tmp_path)
    assert (sight.info.looks, sight.info.size, sight.patches) == ("image", 0, None)
    assert "AUROC of 57" in sight.info.reason
    assert sizes(sight) == [32, 48, 64]


@pytest.mark.parametrize(("own", "larger", "size"), [(0.8, 0.751, 48), (0.8, 0.749, 32), (0.6, 0.579, 32)])
def test_the_larger_size_is_taken_where_it_hardly_shows_less(
    tmp_path: Path, seen: dict[float, tuple[float, float]], own: float, larger: float, size: int
) -> None:
    seen[1.0], seen[1.5], seen[2.0] = (own, 5.0), (larger, 10.0), (0.5, 20.0)
    assert chosen(images(tmp_path / "n"), tmp_path).info.size == size


@pytest.mark.parametrize(
    ("side", "larger", "size"), [(44, 0.751, 48), (43, 0.804, 32), (43, 0.806, 48), (34, 0.806, 48)]
)
def test_images_are_enlarged_only_where_that_shows_more(
    tmp_path: Path, seen: dict[float, tuple[float, float]], side: int, larger: float, size: int
) -> None:
    seen[1.0], seen[1.5] = (0.8, 5.0), (larger, 10.0)
    assert chosen(images(tmp_path / "n", side=side), tmp_path).info.size == size


@pytest.mark.usefixtures("seen")
def test_a_budget_rules_larger_sizes_out(tmp_path: Path) -> None:
    sources = images(tmp_path / "n")
    for budget, looked_at in ((20.0, [32, 48, 64]), (19.9, [32, 48]), (9.9, [32]), (1.0, [32])):
        sight = chosen(sources, tmp_path, budget=budget)
        assert sizes(sight) == looked_at
        assert sight.info.size == looked_at[-1]


@pytest.mark.usefixtures("seen")
def test_a_size_that_the_user_named_is_kept(tmp_path: Path) -> None:
    sight = chosen(images(tmp_path / "n"), tmp_path, only_own_size=True)
    assert (sight.info.size, sight.factor, sizes(sight)) == (32, 1.0, [32])


@pytest.mark.usefixtures("seen")
@pytest.mark.parametrize(
    ("side", "looked_at"), [(33, [32]), (34, [32, 48]), (44, [32, 48]), (45, [32, 48, 64])]
)
def test_no_size_is_looked_at_that_the_images_have_no_pixels_for(
    tmp_path: Path, side: int, looked_at: list[int]
) -> None:
    assert sizes(chosen(images(tmp_path / "n", side=side), tmp_path)) == looked_at


@pytest.mark.usefixtures("seen")
def test_a_network_of_one_size_is_looked_at_in_that(tmp_path: Path) -> None:
    sight = chosen(images(tmp_path / "n", side=200), tmp_path, backbone=random_backbone("test_vit", 64))
    assert sizes(sight) == [64]
    assert sizes(chosen(images(tmp_path / "m"), tmp_path, backbone=backbone_of(OneSize))) == [32]


@pytest.mark.usefixtures("seen")
def test_nothing_is_said_of_other_sizes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sight = chosen(images(tmp_path / "n"), tmp_path, backbone=backbone_of(OneSize))
    assert sizes(sight) == [32]
    assert capfd.readouterr() == ("", "")


def test_patches_that_tell_small_defects_are_looked_at_beside_the_image(tmp_path: Path) -> None:
    sight = chosen(images(tmp_path / "n", side=44), tmp_path)
    assert sight.info.looks == "both"
    assert sizes(sight) == [32, 48]
    for size in ("32", "48"):
        assert set(sight.info.measured[size]) == {*PATCH, "ms"}
        assert sight.info.measured[size]["hairline"] > 0.8
        assert sight.info.measured[size]["ms"] > 0
    assert sight.info.size == round(sight.factor * SIZE)
    assert sight.patches is not None
    larger = torch.rand(2, 3, sight.info.size, sight.info.size)
    assert sight.patches(larger).shape == (2, sight.info.size // 16, sight.info.size // 16, 24)


def test_patches_that_tell_nothing_are_left(tmp_path: Path) -> None:
    """In images of noise no small defect is to be seen."""
    sight = chosen(images(tmp_path / "n", noise=60), tmp_path, only_own_size=True)
    assert (sight.info.looks, sight.info.size, sight.patches) == ("image", 0, None)
    assert "tell small made defects with an AUROC of" in sight.info.reason
    for kind in PATCH:
        assert 0.3 < sight.info.measured["32"][kind] < 0.7


def test_unreadable_normals_are_passed_over(tmp_path: Path) -> None:
    sources = [*images(tmp_path / "n", 12), Unreadable("x", "denied"), Unreadable("y", "denied")]
    (tmp_path / "broken.png").write_bytes(b"\x89PNG not much")
    sight = chosen([*sources, *find([str(tmp_path / "broken.png")])], tmp_path, only_own_size=True)
    assert sight.info.looks == "both"


def test_an_only_normal_is_looked_at_or_refused(tmp_path: Path) -> None:
    try:
        sight = chosen(images(tmp_path / "n", 1), tmp_path, "both", only_own_size=True)
    except AnomscanError:
        return
    assert sight.patches is not None


@pytest.mark.parametrize("network", [Branching, Untiled])
def test_a_network_without_a_grid_of_patches_is_looked_at_as_a_whole(
    network: type[nn.Module], tmp_path: Path
) -> None:
    sources, backbone = images(tmp_path / "n"), backbone_of(network)
    sight = chosen(sources, tmp_path, backbone=backbone, only_own_size=True)
    assert (sight.info.looks, sight.patches) == ("image", None)
    with pytest.raises(UsageError):
        chosen(sources, tmp_path, "both", backbone=backbone, only_own_size=True)


def test_defects_are_made_where_the_mask_lets_see(tmp_path: Path) -> None:
    Image.fromarray(np.full((96, 96, 3), 90, np.uint8)).save(tmp_path / "a.png")
    white = np.zeros((96, 96), np.bool_)
    white[20:50, 40:80] = True
    own = Preprocessing(96, 96, "bicubic", (0.5,) * 3, (0.5,) * 3)
    own = replace(own, reading=Reading(part=part_of((96, 96), None, white)))
    made = focus._with_defects([*find([str(tmp_path)])] * 20, own, 1.0, 96)
    shows = made[""][0, ..., 0] == 90
    assert 0.8 * white.sum() < shows.sum() < 1.2 * white.sum()
    for kind in ("spot", "hairline"):
        changed = (made[kind] != made[""][0]).any(axis=-1)
        assert changed.any(axis=(1, 2)).all()
        assert not changed[:, ~shows].any()
