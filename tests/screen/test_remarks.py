from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from anomscan.images.decode import Remarks
from anomscan.screen.remarks import FEWEST_ALIKE, RemarkCounts
from anomscan.screen.screener import Scored
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
            "2 images have over 1 % of their pixels outside the normals' range of grey levels",
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


def features(*vectors: list[float]) -> Scored:
    names = [str(i) for i in range(len(vectors))]
    return scored(names, [0.0] * len(vectors), features=np.array(vectors, np.float32))


def test_images_that_look_the_same_are_said_from_five_on() -> None:
    counts = RemarkCounts()
    counts.add(features(*[[1, 0, 0]] * (FEWEST_ALIKE - 1)))
    assert not counts.alike
    counts.add(features([1, 1e-4, 0]))
    assert counts.alike
    assert counts.messages()[0].startswith("all 5 images look the same")
    counts.add(features([1, 0.01, 0]))
    assert not counts.alike
    assert counts.messages() == []


def test_nothing_odd_is_not_mentioned() -> None:
    counts = RemarkCounts()
    assert not counts.alike
    counts.add(features([1, 0], [0, 1]))
    assert counts.messages() == []
