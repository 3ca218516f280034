from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomscan.report.certificate import NOT_REAL, curve_text, limit_text, write_certificate
from anomscan.stats.catch import Catch
from anomscan.types import Box, Pixels

FOUND = Catch([0.01, 0.16], [1, 4], [4, 4], 0.0312, 0.0, math.inf)


@dataclass(frozen=True)
class Shown:
    pixels: Pixels
    box: Box
    size: float
    contrast: float


@dataclass(frozen=True)
class Kind:
    by_size: Catch
    by_contrast: Catch
    example: Shown


def test_limits_in_words() -> None:
    assert limit_text(FOUND, percent=True) == "3.1 % (below 1 % to above 16 %)"
    contrasts = Catch([10.0, 160.0], [0, 4], [4, 4], math.inf, 41.4, math.inf)
    assert limit_text(contrasts) == "above 160 (41 to above 160)"
    assert curve_text(FOUND, percent=True) == "25 % at 1 %, 100 % at 16 %"


def test_the_page_shows_a_picture_of_each(tmp_path: Path) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    kind = Kind(FOUND, FOUND, Shown(pixels, (5, 5, 20, 20), 0.04, 80.0))
    write_certificate(tmp_path / "c.html", "What", ["at --fpr 0.1"], {"hole": kind, "stain": kind})
    text = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert text.count('<img src="data:image/webp;base64,') == 4
    assert "size 4 %, contrast 80" in text
    assert NOT_REAL in text
    assert "<script" not in text
