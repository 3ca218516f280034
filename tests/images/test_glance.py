from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from anomscan.images.find import Source, Unreadable
from anomscan.images.glance import detail_of, glance_at, span_of
from anomscan.types import Reading
from tests.conftest import draw
from tests.images.test_decode import grey_16


def test_a_glance_is_small_and_counts_the_grey_levels(tmp_path: Path) -> None:
    draw(0).save(tmp_path / "a.png")
    glance = glance_at(Source(str(tmp_path / "a.png")), Reading())
    assert glance is not None
    assert (glance.size, glance.picture.shape, glance.pages) == ((96, 96), (16, 16), 0)
    assert glance.levels > 50
    assert not glance.constant_tail
    assert glance_at(Source(str(tmp_path / "gone.png")), Reading()) is None


def test_detail_is_where_there_are_edges(tmp_path: Path) -> None:
    Image.new("L", (64, 64), 9).save(tmp_path / "flat.png")
    draw(0).save(tmp_path / "disc.png")
    flat, disc = (detail_of(str(tmp_path / f"{name}.png"), Reading(), None) for name in ("flat", "disc"))
    assert flat.shape == (62 * 62,)
    assert not flat.any()
    assert np.abs(disc).mean() > 1
    assert detail_of(str(tmp_path / "disc.png"), Reading(), (20, 20)).shape == (18 * 18,)
    assert detail_of(str(tmp_path / "gone.png"), Reading(), None).size == 0


def test_the_range_of_deep_pixels_is_what_nearly_all_of_them_use(tmp_path: Path) -> None:
    path = grey_16(tmp_path / "a.png", 1000, 2000)
    found = span_of(Source(path), Reading())
    assert found is not None
    assert 1000 <= found.used.low < 1050 < 1950 < found.used.high <= 2000
    assert (found.declared, found.container) == (None, 65535.0)
    draw(0).save(tmp_path / "b.png")
    for source in (Source(str(tmp_path / "b.png")), Source("gone.png"), Unreadable("c", "gone")):
        assert span_of(source, Reading()) is None
