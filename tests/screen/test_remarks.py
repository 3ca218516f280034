from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from anomscan.images.decode import Remarks
from anomscan.screen.remarks import FEWEST_ALIKE, RemarkCounts, as_seen
from anomscan.screen.screener import Scored
from tests.conftest import draw
from tests.fakes import scored


def with_remarks(*remarks: Remarks) -> Scored:
    batch = scored([str(i) for i in range(len(remarks))], [0.0] * len(remarks))
    images = [replace(image, remarks=odd) for image, odd in zip(batch.images, remarks, strict=True)]
    return replace(batch, images=images)


@pytest.mark.parametrize(
    ("remarks", "sentence"),
    [
        (
            Remarks(clipped=True),
            "2 images have over 1 % of pixels outside the normals' range of levels",
        ),
        (Remarks(flat=True), "2 images are of one single colour"),
        (Remarks(thumbnail=True), "2 files hold a reduced version first, and that was looked at"),
        (
            Remarks(pages=7),
            "2 files have further pages or frames that were not looked at; see --pages all",
        ),
    ],
)
def test_what_is_odd_is_counted_over_batches_and_said(remarks: Remarks, sentence: str) -> None:
    counts = RemarkCounts()
    counts.add(with_remarks(remarks, Remarks()))
    counts.add(with_remarks(Remarks(), remarks, Remarks()))
    assert counts.messages() == [
        "all 5 images look the same: is the camera stuck, the lens capped, the range of grey levels another?",
        sentence,
    ]
    assert sum(counts.counts.values()) == 2


def shown(*pixels: NDArray[np.float64]) -> Scored:
    batch = scored([str(i) for i in range(len(pixels))], [0.0] * len(pixels))
    images = [
        replace(image, pixels=picture.clip(0, 255).astype(np.uint8))
        for image, picture in zip(batch.images, pixels, strict=True)
    ]
    return replace(batch, images=images)


def noise(seed: int) -> NDArray[np.float64]:
    """What every sensor adds, capped or not."""
    return np.random.default_rng(seed).normal(0, 2, (224, 224, 3))


@pytest.mark.parametrize("scene", ["capped", "stuck"])
def test_a_camera_that_is_capped_or_stuck_is_said_whatever_its_noise(scene: str) -> None:
    still = np.full((224, 224, 3), 6.0) if scene == "capped" else np.asarray(draw(0, side=224), np.float64)
    counts = RemarkCounts()
    counts.add(shown(*(still + noise(seed) for seed in range(FEWEST_ALIKE - 1))))
    assert not counts.alike
    counts.add(shown(still + noise(9)))
    assert counts.alike
    assert counts.messages()[0].startswith("all 5 images look the same")
    counts.add(shown(np.asarray(draw(1, side=224), np.float64)))
    assert not counts.alike
    assert counts.messages() == []


def test_good_parts_in_the_same_place_are_not_alike() -> None:
    counts = RemarkCounts()
    parts = (np.asarray(draw(0, side=224), np.float64) * light for light in np.linspace(0.98, 1.02, 8))
    counts.add(shown(*parts))
    assert counts.messages() == []


def test_one_of_a_kind_is_one() -> None:
    counts = RemarkCounts()
    counts.add(with_remarks(Remarks(flat=True, pages=1)))
    assert counts.messages() == [
        "1 image is of one single colour",
        "1 file has further pages or frames that were not looked at; see --pages all",
    ]


def test_images_in_tiles_are_alike_where_all_of_their_tiles_are() -> None:
    """The first tile shows an empty belt on all of them."""
    empty = np.full((64, 64, 3), 90, np.uint8)
    for differs in (False, True):
        counts = RemarkCounts()
        for i in range(FEWEST_ALIKE):
            tile = np.asarray(draw(i if differs else 0, side=64))
            (image,) = scored(["a"], [0.0]).images
            tiles = replace(image, pixels=np.stack([empty, tile]))
            counts.add(replace(scored(["a"], [0.0]), images=[tiles]))
        assert counts.alike is not differs


@pytest.mark.parametrize("tiles", [1, 3])
def test_an_image_as_seen_is_counted_as_the_image(tiles: int) -> None:
    generator = np.random.default_rng(0)
    counts = [RemarkCounts(), RemarkCounts()]
    for batch in range(3):
        batch_of = scored([f"{batch}-{i}" for i in range(2)], [0.1, 0.2])
        base = generator.integers(0, 255, (tiles, 64, 48, 3)).astype(np.uint8)
        images = [replace(image, pixels=base if tiles > 1 else base[0]) for image in batch_of.images]
        seen = [as_seen(image) for image in images]
        assert all(image.pixels.size <= tiles * 16 * 16 * 3 for image in seen)
        marks = [
            count.add(replace(batch_of, images=what))
            for count, what in zip(counts, (images, seen), strict=True)
        ]
        assert marks[0] == marks[1]
    np.testing.assert_allclose(counts[0].first, counts[1].first, rtol=1e-6)
