"""The images that a method learns from: normals, and those of further folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from anomscan.adapt.options import AdaptOptions
from anomscan.adapt.presets import Preset
from anomscan.errors import UnreadableImage, UsageError
from anomscan.images.decode import LOOK_AHEAD, Decoded, decode_all, look_at
from anomscan.images.find import Found, Unreadable, find_images
from anomscan.images.overlay import source_size
from anomscan.images.tiles import every_tile, one_tile_each
from anomscan.pipeline import available_cores, in_order
from anomscan.text import printable
from anomscan.types import Part, Preprocessing


@dataclass(frozen=True)
class Folder:
    """Images to be decoded, what they are, how many at most, and their classes where there are classes."""

    images: Iterable[Decoded | Unreadable]
    count: int
    what: str
    classes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Material:
    """What a method learns from; ``others`` are further folders by the option that names them."""

    normals: Folder
    others: Mapping[str, Folder] = field(default_factory=dict)


def decoded(sources: Iterable[Found], preprocessing: Preprocessing) -> Iterator[Decoded | Unreadable]:
    """The images, or every tile of them, decoded side by side, in order."""
    return every_tile(decode_all(sources, preprocessing, available_cores()))


def decoded_once(
    sources: Iterable[Found], preprocessing: Preprocessing, number: int | None = None
) -> Iterator[Decoded | Unreadable]:
    """The images, or one tile of each, see ``one_tile_each``."""
    return one_tile_each(decode_all(sources, preprocessing, available_cores()), number)


def decoded_others(sources: Iterable[Found], preprocessing: Preprocessing) -> Iterator[Decoded | Unreadable]:
    """The same of a further folder: what is of the normals' size is cropped as they are, the rest is not.

    None is looked at in tiles: of an image with a small defect most tiles are normal.
    """
    reading = preprocessing.reading
    preprocessing = replace(preprocessing, tiles=None)
    whole = replace(preprocessing, reading=replace(reading, part=None))

    def one(source: Found) -> Decoded | Unreadable:
        return look_at(source, preprocessing if _is_of_size(source, reading.part) else whole)

    return in_order(one, sources, available_cores(), LOOK_AHEAD * available_cores())


def _is_of_size(source: Found, part: Part | None) -> bool:
    if part is None or isinstance(source, Unreadable):
        return False
    try:
        return source_size(source.name) == part.source
    except UnreadableImage:
        return False


def find_others(preset: Preset, options: AdaptOptions) -> dict[str, list[Found]]:
    """The images that the preset learns from beside the normals, by the option that names their folder.

    Raises:
        UsageError: a folder is missing, not used, or without class folders.
        InputError: it does not exist or holds no image.
    """
    needs = {option: [need for need in preset.needs if need.option == option] for option in options.further}
    for option, given in options.further.items():
        if given is None and any(need.required for need in needs[option]):
            raise UsageError(
                f"{options.method} learns from a further folder of images: name it with --{option} DIR"
            )
        if given is not None and not needs[option]:
            raise UsageError(f"{options.method} does not use --{option}; leave it out")
    others = {}
    for option, given in options.further.items():
        if given is None:
            continue
        others[option] = find_images(given)
        classes = set(classes_of(given, others[option]).values())
        if any(need.classes for need in needs[option]) and len(classes) < 2:
            raise UsageError(
                f"{printable(given)} needs a subfolder of reference images for each of two classes or more"
            )
    return others


def classes_of(root: str, sources: Sequence[Found]) -> dict[str, int]:
    """The class of each image: the number of its top folder below ``root``, in order of the names."""
    folders = {source.path: os.path.relpath(source.path, root).partition(os.sep) for source in sources}
    inside = {path: name for path, (name, separator, _) in folders.items() if separator}
    numbers = {name: i for i, name in enumerate(sorted(set(inside.values())))}
    return {path: numbers[name] for path, name in inside.items()}
