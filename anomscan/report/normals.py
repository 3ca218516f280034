"""The normals of a model on a page, those that are unlike the others first."""

from __future__ import annotations

from pathlib import Path

from anomscan.model.manifest import Manifest
from anomscan.model.suspects import Suspects
from anomscan.model.whereabouts import Whereabouts
from anomscan.report.page import Figure, Table, write_page
from anomscan.report.pictures import Pictures
from anomscan.text import printable
from anomscan.types import Progress

SIDE = 192
"""Largest side of a picture, in pixels."""


def write_normals_page(
    file: Path, manifest: Manifest, suspects: Suspects, normals: Whereabouts, progress: Progress
) -> str | None:
    """Write the most unlike normals beside those that are most like them to ``file``.

    ``normals`` finds their pictures. Returns why some are not shown, if so.
    """
    pictures = Pictures(manifest.preprocessing.reading)
    numbers = [
        tuple(_picture(path, normals, pictures) for path in (suspect.path, suspect.nearest))
        for suspect in suspects.ranked
    ]
    urls: dict[int | None, str | None] = {None: None, **dict(enumerate(pictures.drawn(progress)))}
    named = len(suspects.suspected)
    rows: list[list[str | Figure]] = [
        [
            str(rank),
            Figure(urls[own], printable(suspect.path)),
            Figure(urls[other], printable(suspect.nearest)),
            f"{suspect.oddness:.2f}",
            f"{suspect.p_value:.2g}" + (" suspect" if suspect.suspected else ""),
        ]
        for rank, (suspect, (own, other)) in enumerate(zip(suspects.ranked, numbers, strict=True), start=1)
    ]
    columns = ("rank", "normal", "most like it", "oddness", "tail p-value")
    marked = frozenset(i for i, suspect in enumerate(suspects.ranked) if suspect.suspected)
    title = f"{named} of {suspects.normals} normals are unlike the others"
    about = [
        f"Model {manifest.id}, made {manifest.created}. The first {len(rows)} of {suspects.normals}, each by "
        "the others, without itself and its copies.",
        "Nothing was taken out. Take out what is no normal with: anomscan index --remove PATH...",
    ]
    remark = normals.remark()
    write_page(file, title, [*about, *([remark] if remark else [])], [Table("", columns, rows, marked)])
    return remark


def _picture(path: str, normals: Whereabouts, pictures: Pictures) -> int | None:
    where = normals.of(path)
    return None if where is None else pictures.whole(where, SIDE)
