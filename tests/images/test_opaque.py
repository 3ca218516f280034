from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import anomscan.images.opaque as module
from anomscan.images.opaque import opaque, over
from tests.conftest import draw

MODES = ["1", "P", "LA", "PA", "RGBA", "CMYK", "YCbCr"]


def see_through(side: int = 96) -> Image.Image:
    image = draw(0, side=side).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def at_once(image: Image.Image) -> Image.Image:
    """As it was done for all images before there were large ones."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


@pytest.mark.parametrize("mode", MODES)
def test_in_bands_it_is_the_same_as_at_once(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = see_through().convert(mode)
    monkeypatch.setattr(module, "_BAND", 1)
    np.testing.assert_array_equal(opaque(image, image.size), at_once(image))
    monkeypatch.undo()
    np.testing.assert_array_equal(opaque(image, image.size), at_once(image))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_grey_and_rgb_stay_what_they_are(mode: str) -> None:
    image = draw(0).convert(mode)
    assert opaque(image, (1, 1)) is image


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_large_one_is_reduced_and_then_composited_to_the_same(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = see_through(170) if mode != "P" else draw(0, side=170).quantize(16)
    image = image.convert(mode)
    monkeypatch.setattr(module, "_BAND", 2000)
    monkeypatch.setattr(module, "LARGE", 1000)
    for least, scale in (((86, 86), 1), ((85, 85), 2), ((30, 40), 4), ((1, 1), 8), ((1, 100), 1)):
        small = opaque(image, least)
        assert small.size == (-(-170 // scale),) * 2
        expected = at_once(image).reduce(scale) if scale > 1 else at_once(image)
        assert np.abs(np.asarray(small, int) - np.asarray(expected, int)).max() <= 2


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_that_is_zero_everywhere_means_nothing(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = draw(0).convert(mode)
    image.putalpha(0)
    monkeypatch.setattr(module, "_BAND", 500)
    np.testing.assert_array_equal(opaque(image, image.size), draw(0).convert(mode).convert("RGB"))


def test_over_another_ground() -> None:
    image = Image.new("RGBA", (4, 4), (255, 255, 255, 0))
    assert over(image, "black").getpixel((0, 0)) == (0, 0, 0)
    assert over(image, "white").getpixel((0, 0)) == (255, 255, 255)
    assert over(image, None).getpixel((0, 0)) == (255, 255, 255)
