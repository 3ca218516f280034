"""Scores images by their tiles: an image is as anomalous as its most anomalous tile.

Tiles are compared with those of all normals, wherever these lie: at the same place, beside it where a part
lies a little aside, or elsewhere where that shows the same. Their maps become one, of the whole image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anomscan.errors import UsageError
from anomscan.images.tiles import spans, stretch
from anomscan.scoring.base import Apart, Indexed, Judged, Scorer
from anomscan.scoring.reduction import Reduction
from anomscan.types import Features, Outputs, PatchMaps, Rows, Tiles

if TYPE_CHECKING:
    from anomscan.network.graph import Graph, GraphOutputs, Value


def tiled(scorer: Scorer, tiles: Tiles | None) -> Scorer:
    """The scorer as it is, or, where images are looked at in tiles, over their tiles."""
    return scorer if tiles is None else Tiled(scorer, tiles)


class Tiled(Scorer):
    """The largest of the scores of an image's tiles, by a scorer of single tiles.

    Its outputs are those of images, see ``Outputs``; those of the other scorer are of tiles.

    Args:
        tile: scores tiles; its galleries are of tiles.
        tiles: the grid.
    """

    name = "tiled"

    def __init__(self, tile: Scorer, tiles: Tiles) -> None:
        super().__init__(tile.info, tile.arrays)
        self.tile, self.tiles = tile, tiles
        self.uses_neighbours, self.patches = tile.uses_neighbours, tile.patches
        if hasattr(tile, "gallery"):
            self.gallery = tile.gallery

    @property
    def whole(self) -> Scorer:
        """The part that scores tiles without their patches."""
        return self.tile.whole

    def fit(self, normals: Outputs, seed: int, reduction: Reduction | None = None) -> Indexed:
        """As every scorer, on the tiles of the normals; the rows are those of the normals."""
        indexed = self.tile.fit(normals.unfolded(self.tiles.count), seed, reduction)
        self.info, self.arrays, self.gallery = self.tile.info, self.tile.arrays, self.tile.gallery
        return Indexed(indexed.rows // self.tiles.count, indexed.gallery)

    def learn(self, features: Features, seed: int) -> None:
        """What the scorer of tiles learns."""
        self.tile.learn(features, seed)

    def compared(self, outputs: Outputs) -> Outputs:
        """As the scorer of tiles; those of one tile or of several below each other."""
        return self.tile.compared(outputs)

    def score(self, outputs: Outputs, k: int) -> Features:
        """The largest score of a tile of each image."""
        scores = self.tile.score(outputs.unfolded(self.tiles.count), k)
        largest: Features = scores.reshape(-1, self.tiles.count).max(axis=1)
        return largest

    @property
    def compares_apart(self) -> bool:
        """Where the scorer of tiles does."""
        return self.tile.compares_apart

    def apart(self, outputs: Outputs, k: int, apart: Apart) -> Features:
        """See there; an image's tiles leave together."""
        count = self.tiles.count
        scores = self.tile.apart(outputs.unfolded(count), k, apart.each(count))
        largest: Features = scores.reshape(-1, count).max(axis=1)
        return largest

    def why_no_rejects(self) -> str | None:
        """Nobody says which tile shows what was missed."""
        return (
            "the model looks at images in tiles, and cannot tell which of them shows what was missed; index "
            "or adapt again without tiles"
        )

    def score_and_nearest(self, outputs: Outputs, k: int) -> tuple[Features, Rows]:
        """The same, and the normal tile that is nearest to the most anomalous tile of each image."""
        judged = self.judge(outputs, k)
        return judged.scores, judged.nearest

    def aspects(self, outputs: Outputs, k: int) -> dict[str, Features]:
        """Those of the most anomalous tile of each image."""
        return self.judge(outputs, k).aspects

    def judge(self, outputs: Outputs, k: int) -> Judged:
        """What the scorer of tiles says of the most anomalous tile of each image.

        An image is one of the normals where all of its tiles are; it has the map of all of them.
        """
        count = self.tiles.count
        judged = self.tile.judge(outputs.unfolded(count), k)
        farthest = judged.scores.reshape(-1, count).argmax(axis=1)
        rows = count * np.arange(len(farthest)) + farthest
        return Judged(
            judged.scores[rows],
            judged.nearest[rows],
            np.logical_and.reduce(judged.known.reshape(-1, count), axis=1),
            {name: values[rows] for name, values in judged.aspects.items()},
            Outputs(judged.outputs.image[rows], maps=outputs.maps and self.pictured(outputs.maps)),
        )

    def known(self, features: Features) -> NDArray[np.bool_]:
        """Which images are normals of the gallery: all of their tiles are."""
        count = self.tiles.count
        known = self.tile.known(Outputs(features).unfolded(count).image).reshape(-1, count)
        all_of_them: NDArray[np.bool_] = np.logical_and.reduce(known, axis=1)
        return all_of_them

    def mean(self, features: Features) -> Features:
        """The mean over the tiles, (n, D): what a feature of the whole image would be."""
        mean: Features = features.reshape(len(features), self.tiles.count, -1).mean(axis=1)
        return mean

    def pictured(self, maps: PatchMaps) -> PatchMaps:
        """The maps of n images, (n, T rows, columns), on one grid each; the largest where tiles overlap."""
        down, across = self._axes((maps.distances.shape[1], maps.distances.shape[2]))
        cells = down.inside[:, None] * across.cells + across.inside
        places = down.whole[:, None] * across.number + across.whole
        distances, nearest = (
            self._laid_out(values)[:, cells.ravel()] for values in (maps.distances, maps.nearest)
        )
        shape = (len(distances), down.number, across.number)
        whole = PatchMaps(np.empty(shape, np.float32), np.empty(shape, np.int64))
        for i, order in enumerate(distances.argsort(axis=1, kind="stable")):  # the last of a place stays
            whole.distances[i].ravel()[places.ravel()[order]] = distances[i, order]
            whole.nearest[i].ravel()[places.ravel()[order]] = nearest[i, order]
        return whole

    def _laid_out(self, values: NDArray[Any]) -> NDArray[Any]:
        """(n, T rows, columns), tile below tile, to (n, cells): tiles beside and below each other."""
        count, columns = len(values), values.shape[2]
        tiles = values.reshape(count, self.tiles.rows, self.tiles.columns, -1, columns)
        return tiles.swapaxes(2, 3).reshape(count, -1)

    def origin(self, position: int) -> tuple[str, int, int]:
        """The normal that a patch came from, and its row and column on the grid of the whole image."""
        path, row, column = self.tile.origin(position)
        assert self.patches is not None  # noqa: S101 - it came from there
        rows, columns = self.patches.grid
        down, across = self._axes((rows, columns))
        tile, row = divmod(row, rows // self.tiles.count)
        high, wide = divmod(tile, self.tiles.columns)
        return (
            path,
            down.place(high * (rows // self.tiles.count) + row),
            across.place(wide * columns + column),
        )

    def _axes(self, grid: tuple[int, int]) -> tuple[_Axis, _Axis]:
        """Of a ``grid`` of patches in the tiles of an image below each other."""
        tiles = self.tiles
        return (
            _axis(tiles.rows, grid[0] // tiles.count, tiles.overlap),
            _axis(tiles.columns, grid[1], tiles.overlap),
        )

    def graph(self, graph: Graph, outputs: GraphOutputs) -> Value:
        """None: the file would have to cut the image into tiles as it is decoded. Raises UsageError."""
        raise UsageError(
            "a model that looks at tiles cannot be written with its scorer; leave --with-scorer out"
        )

    def save(self, folder: Path) -> dict[str, Path]:
        """The files of the scorer of tiles; the tiles themselves stand in the manifest."""
        return self.tile.save(folder)


@dataclass(frozen=True)
class _Axis:
    """How the patches of tiles in a row lie on one grid of ``number`` cells over all of them.

    There are ``cells`` patches in all tiles. Number ``inside[i]`` of them lies on cell ``whole[i]``, both
    (P,): the middle of one is in the other. No patch and no cell is missing.
    """

    number: int
    cells: int
    inside: Rows
    whole: Rows

    def place(self, patch: int) -> int:
        """A cell that a patch lies on."""
        return int(self.whole[self.inside == patch][0])


@lru_cache(8)
def _axis(count: int, cells: int, overlap: float) -> _Axis:
    """Of ``count`` tiles of so many ``cells``."""
    number = round(cells * stretch(count, overlap))
    pairs: set[tuple[int, int]] = set()
    for tile, (start, end) in enumerate(spans(count, overlap)):
        middles = start + (np.arange(cells) + 0.5) / cells * (end - start)
        places = (middles * number).astype(int).clip(0, number - 1)
        pairs.update(zip(range(tile * cells, (tile + 1) * cells), places.tolist(), strict=True))
        wholes = np.arange(number)
        where = ((wholes + 0.5) / number - start) / (end - start)
        here = (where >= 0) & (where < 1)
        own = tile * cells + (where[here] * cells).astype(int)
        pairs.update(zip(own.tolist(), wholes[here].tolist(), strict=True))
    inside, whole = np.array(sorted(pairs), np.int64).T
    return _Axis(number, count * cells, inside, whole)
