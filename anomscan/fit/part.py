"""Which part of the images a model looks at: as asked for, in pixels of the size that most normals have."""

from __future__ import annotations

from anomscan.errors import InputError, UnreadableImage, UsageError
from anomscan.images.find import Found
from anomscan.images.masks import read_mask
from anomscan.images.overlay import typical_size
from anomscan.images.part import Mask, parse_box, part_of
from anomscan.text import printable
from anomscan.types import Part


def decide_part(
    sources: list[Found], region: str | None, mask: str | None, known: Part | None = None
) -> Part | None:
    """What of the images is looked at; None for the whole.

    Args:
        sources: the normals; those of another size than most of them will be unreadable.
        region: ``x,y,w,h`` as on the command line.
        mask: the file of a picture, of the size of the sources, that is white where to look.
        known: what an existing model looks at, which stays so where neither is asked for.

    Raises:
        UsageError: a region or a mask that makes no sense for images of that size, or ``known`` does not.
        InputError: the mask cannot be read.
    """
    if region is None and mask is None and known is None:
        return None
    box = None if region is None else parse_box(region)
    white = None if mask is None else _read(mask)
    size = typical_size(sources)
    if size is None:  # none can be read: that is said when they are embedded
        return known
    if box is not None or white is not None:
        return part_of(size, box, white)
    if known is not None and known.source != size:
        raise UsageError(
            f"the normals have {size[0]} x {size[1]} pixels, but the model looks at a region of "
            f"{known.source[0]} x {known.source[1]}; name another with --region or --mask"
        )
    return known


def _read(mask: str) -> Mask:
    try:
        return read_mask(mask)
    except UnreadableImage as error:
        raise InputError(f"--mask {printable(mask)}: {error}") from error
