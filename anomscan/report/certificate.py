"""What a model catches, on a page: a table of made defects, a picture of each, the curves."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from anomscan.images.defects import picture_of
from anomscan.report.page import Figure, Table, write_page
from anomscan.stats.catch import Catch
from anomscan.types import Box, Pixels

SIDE = 224
"""Largest side of a picture, in pixels."""
NOT_REAL = (
    "made defects are not real ones: what is missed here will hardly be caught on the line, and what is "
    "caught here may still be missed there"
)


class Shown(Protocol):
    """A made defect to look at, see ``screen.certify.Example``."""

    @property
    def pixels(self) -> Pixels:
        """The image."""

    @property
    def box(self) -> Box:
        """Where the defect is."""

    @property
    def size(self) -> float:
        """As a share of the shorter side."""

    @property
    def contrast(self) -> float:
        """In grey levels."""


class Kind(Protocol):
    """How a kind of defect is caught, see ``screen.certify.Graded``."""

    @property
    def by_size(self) -> Catch:
        """By its size."""

    @property
    def by_contrast(self) -> Catch:
        """By its contrast."""

    @property
    def example(self) -> Shown:
        """What it looks like."""


def write_certificate(file: Path, title: str, about: Sequence[str], kinds: Mapping[str, Kind]) -> None:
    """Write a page of what is caught to ``file``."""
    rows: list[list[str | Figure]] = []
    for name, kind in kinds.items():
        x, y, width, height = kind.example.box
        pixels = kind.example.pixels
        grade = f"size {100 * kind.example.size:g} %, contrast {kind.example.contrast:g}"
        rows.append(
            [
                name,
                Figure(_url(pixels), grade),
                Figure(_url(pixels[y : y + height, x : x + width]), "the same, nearer"),
                f"{limit_text(kind.by_size, percent=True)}; caught {curve_text(kind.by_size, percent=True)}",
                f"{limit_text(kind.by_contrast)}; caught {curve_text(kind.by_contrast)}",
            ]
        )
    columns = ("made defect", "the smallest that was caught", "", "caught from size", "caught from contrast")
    write_page(file, title, [*about, NOT_REAL], [Table("", columns, rows)])


def limit_text(found: Catch, *, percent: bool = False) -> str:
    """From which size or contrast on nine of ten are caught, with its interval, in words."""
    limit, low, high = (_grade(value, found, percent) for value in (found.limit, found.low, found.high))
    return limit if low == high else f"{limit} ({low} to {high})"


def curve_text(found: Catch, *, percent: bool = False) -> str:
    """The share that was caught at each step."""
    times = 100 if percent else 1
    unit = " %" if percent else ""
    return ", ".join(
        f"{100 * rate:.0f} % at {times * step:g}{unit}"
        for step, rate in zip(found.steps, found.rates, strict=True)
    )


def _grade(value: float, found: Catch, percent: bool) -> str:
    times, unit = (100.0, " %") if percent else (1.0, "")
    if value == 0:
        return f"below {times * found.steps[0]:g}{unit}"
    if math.isinf(value):
        return f"above {times * found.steps[-1]:g}{unit}"
    return f"{float(f'{times * value:.2g}'):g}{unit}"


def _url(pixels: Pixels) -> str:
    return "data:image/webp;base64," + base64.b64encode(picture_of(pixels, SIDE)).decode("ascii")
