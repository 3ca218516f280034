"""The small pictures of a report: asked for one by one, drawn together, each once."""

from __future__ import annotations

import base64
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from anomscan.errors import UnreadableImage
from anomscan.images.decode import thumbnail
from anomscan.images.overlay import crop, overlay_thumbnail, source_size
from anomscan.images.part import covered
from anomscan.pipeline import available_cores
from anomscan.report.heatmaps import patch_box
from anomscan.types import Features, Progress, Reading


@dataclass
class Pictures:
    """Pictures by the order in which they were first asked for; paths are what rows are called."""

    _reading: Reading
    _numbers: dict[Hashable, int] = field(default_factory=dict)
    _drawing: list[Callable[[], bytes]] = field(default_factory=list)

    def whole(self, path: str, side: int) -> int:
        """The number of a picture of the whole image, at most ``side`` pixels wide and high."""
        return self._number((path, side), lambda: thumbnail(path, side, self._reading))

    def heated(self, path: str, heat: Features, side: int) -> int:
        """The same with heat laid over it, (rows, columns) in [0, 1]."""
        return self._number((path, side, "heat"), lambda: overlay_thumbnail(path, heat, side, self._reading))

    def around(self, path: str, cell: tuple[int, int], shape: tuple[int, ...], side: int) -> int:
        """The number of a picture of the part of an image around a cell of a grid over it.

        Args:
            path: of the image.
            cell: row and column.
            shape: rows and columns of the grid.
            side: of the picture, in pixels.
        """

        def drawn() -> bytes:
            box = patch_box(*cell, shape, covered(self._reading, source_size(path)))
            return crop(path, box, side, self._reading)

        return self._number((path, side, cell), drawn)

    def _number(self, key: Hashable, draw: Callable[[], bytes]) -> int:
        if key not in self._numbers:
            self._numbers[key] = len(self._drawing)
            self._drawing.append(draw)
        return self._numbers[key]

    def drawn(self, progress: Progress) -> list[str | None]:
        """The pictures as data URLs, in the order of their numbers; None for those that cannot be read."""
        with ThreadPoolExecutor(available_cores()) as pool:
            urls = []
            for url in pool.map(_url, self._drawing):
                urls.append(url)
                progress("drawing the report", len(urls), len(self._drawing), "")
        return urls


def _url(draw: Callable[[], bytes]) -> str | None:
    try:
        picture = draw()
    except UnreadableImage:
        return None
    return "data:image/webp;base64," + base64.b64encode(picture).decode("ascii")
