"""The values that every floor passes on: arrays with named shapes, progress, preprocessing.

A place that a user names (an image, a folder, a model, an output) is a ``str`` on every floor, as it may be a
URL. A ``pathlib.Path`` is a local scratch file, or one of the model folder that a library reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from typing import Self

Pixels = NDArray[np.uint8]
Features = NDArray[np.float32]
Arrays = dict[str, Features]

Metric = Literal["cosine", "euclidean"]

Progress = Callable[[str, int, int | None, str], None]
"""Called as work advances: what is being done, how much is done, of how much if known, a remark."""


Rows = NDArray[np.int64]
"""Positions in a gallery."""

Box = tuple[int, int, int, int]
"""A part of a picture: x and y of its upper left corner, width and height, in pixels."""


@dataclass(frozen=True)
class PatchMaps:
    """How far each patch of n images is from the nearest patch of a normal.

    ``distances`` is (n, rows, columns) float32, >= 0; ``nearest`` (n, rows, columns) int64, the position of
    that patch in the gallery of patches, or -1 where they are compared with no single one. ``scores``, (n,),
    is what the images come to where that is told as they are compared.
    """

    distances: Features
    nearest: Rows
    scores: Features | None = None

    def __len__(self) -> int:
        return len(self.distances)

    def __getitem__(self, place: slice) -> PatchMaps:
        return self._each(lambda a: a[place])

    def copy(self) -> PatchMaps:
        """The same in memory of its own."""
        return self._each(lambda a: a.copy())

    def _each(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> PatchMaps:
        scores = None if self.scores is None else change(self.scores)
        return PatchMaps(change(self.distances), change(self.nearest), scores)

    @classmethod
    def joined(cls, parts: Sequence[PatchMaps]) -> PatchMaps:
        """The images of all ``parts``, one behind the other."""
        scores = [part.scores for part in parts if part.scores is not None]
        return cls(
            np.concatenate([part.distances for part in parts]),
            np.concatenate([part.nearest for part in parts]),
            np.concatenate(scores) if scores else None,
        )


@dataclass(frozen=True)
class Outputs:
    """What a graph gives for n images, by the names of its outputs.

    ``image`` is (n, D) float32, one feature vector an image; of the frozen trunk of a backbone its
    activations, (n, ...). ``patches`` is (n, rows, columns, C) float32, one vector a place, or None where the
    graph has none; ``maps`` takes its place once it was compared with the normals' patches.

    Of an image that is looked at in T tiles they are those of the tiles, side by side: ``image`` is (n, T D),
    ``patches`` (n, T rows, columns, C), and ``maps`` likewise.
    """

    image: Features
    patches: Features | None = None

    maps: PatchMaps | None = None

    def __len__(self) -> int:
        return len(self.image)

    def folded(self, tiles: int) -> Outputs:
        """Of every ``tiles`` tiles in a row those of their image; with 1 the same."""
        if tiles == 1:
            return self
        return self._each(lambda a: a.reshape(len(a) // tiles, tiles * a.shape[1], *a.shape[2:]))

    def unfolded(self, tiles: int) -> Outputs:
        """Those of each of the ``tiles`` tiles of every image, in a row of its own; with 1 the same."""
        if tiles == 1:
            return self
        return self._each(lambda a: a.reshape(tiles * len(a), a.shape[1] // tiles, *a.shape[2:]))

    def at(self, rows: slice) -> Outputs:
        """Those of some of the images."""
        return self._each(lambda a: a[rows])

    def _each(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Outputs:
        """The same with every array changed."""
        maps = self.maps
        return Outputs(
            change(self.image),
            None if self.patches is None else change(self.patches),
            None if maps is None else PatchMaps(change(maps.distances), change(maps.nearest)),
        )

    @classmethod
    def joined(cls, parts: Sequence[Outputs]) -> Self:
        """The images of all ``parts``, one behind the other; at least one part."""
        patches = [part.patches for part in parts if part.patches is not None]
        maps = [part.maps for part in parts if part.maps is not None]
        return cls(
            np.concatenate([part.image for part in parts]),
            np.concatenate(patches) if patches else None,
            PatchMaps.joined(maps) if maps else None,
        )


@dataclass(frozen=True)
class Levels:
    """The values that become 0 and 255, of pixels with more than 8 bits; what lies outside is clipped."""

    low: float
    high: float


FULL_16_BITS = Levels(0.0, 65535.0)


MAX_PIXELS = 500_000_000


@dataclass(frozen=True)
class Part:
    """What of an image is looked at, where that is not the whole.

    ``source`` is the width and height of the upright image; one of another size is refused. ``box`` lies in
    it. ``mask`` says where in the source to look, as a text that ``images.part`` reads; empty for all of
    ``box``.
    """

    source: tuple[int, int]
    box: Box
    mask: str = ""


@dataclass(frozen=True)
class Reading:
    """How a file becomes an image of 8 bits; decided once, from the normals.

    ``levels`` is the range of pixels with more than 8 bits, None where all normals had 8; the default is what
    versions before 0.2 did, who knew none of signed pixels, of 32 bits and of floats: it is theirs too only
    ``beyond_16_bits``. ``constant_tail`` says that the last rows of a normal may be all of one value, so
    that such rows do not show a file that is cut off. Images of more than ``max_pixels`` are refused. Of an
    image ``part`` is looked at, or the whole.
    """

    levels: Levels | None = FULL_16_BITS
    beyond_16_bits: bool = False
    constant_tail: bool = True
    max_pixels: int = MAX_PIXELS
    part: Part | None = None


@dataclass(frozen=True)
class Tiles:
    """The grid of tiles in which an image is looked at, each as if it were an image.

    Two that are side by side share ``overlap`` of a tile. ``source`` is the width and height, in pixels, of
    what was looked at in most normals; ``defect`` the size of the defects that the grid was chosen by, or 0
    where it was asked for.
    """

    rows: int
    columns: int
    overlap: float
    source: tuple[int, int]
    defect: int = 0

    @property
    def count(self) -> int:
        """How many there are."""
        return self.rows * self.columns


@dataclass(frozen=True)
class Preprocessing:
    """How a decoded image becomes the graph's input; recorded, never guessed from data.

    The whole image, or its part that ``reading`` names, is squashed to ``height`` x ``width`` pixels with
    Pillow's ``resample`` filter.
    ``mean`` and ``std`` (of RGB in [0, 1]) are applied inside the graph and stand here for the record.
    With ``tiles`` each of these is squashed instead.
    """

    height: int
    width: int
    resample: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    reading: Reading = field(default_factory=Reading)
    tiles: Tiles | None = None

    @property
    def tile_count(self) -> int:
        """How many tiles an image is looked at in; 1 where it is looked at as a whole."""
        return self.tiles.count if self.tiles is not None else 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the pixels of an image: (height, width, 3), or of its tiles, (tiles, height, width, 3)."""
        own = (self.height, self.width, 3)
        return own if self.tiles is None else (self.tiles.count, *own)
