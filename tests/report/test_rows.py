from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest

from anomscan.errors import UsageError
from anomscan.files.streams import ENCODING
from anomscan.report.rows import COLUMNS, FORMATS, FURTHER, Row, further_columns, write_rows
from anomscan.text import plain_path
from tests.fakes import scored

NAMES = [
    b"plain.png",
    b"with space.png",
    b'comma,quote".png',
    b"apostrophe'.png",
    b"line\nfeed.png",
    b"carriage\rreturn.png",
    b"\xff\xfe not utf-8.png",
    "emoji 🔩 ü.png".encode(),
    b"=1+2.png",
    b"-dash.png",
    b"@at.png",
    b"+plus.png",
    b"\ttab.png",
]
ROWS = [
    Row(i, plain_path(os.fsdecode(name)), 1 / (i + 3), nearest_normal="n") for i, name in enumerate(NAMES)
]
ROWS.append(Row(None, "broken.jpg", None, error="image file is truncated"))


def written(tmp_path: Path, format_: str) -> Path:
    path = tmp_path / "rows"
    with open(path, "w", **ENCODING) as file:  # type: ignore[call-overload]
        FORMATS[format_](ROWS, file)
    return path


def test_names_and_values_survive_csv(tmp_path: Path) -> None:
    with open(written(tmp_path, "csv"), **ENCODING) as file:  # type: ignore[call-overload]
        header, *rows = csv.reader(file)
    assert tuple(header) == COLUMNS
    assert [os.path.normpath(os.fsencode(row[1])) for row in rows[:-1]] == NAMES
    assert [float(row[2]) for row in rows[:-1]] == [row.score for row in ROWS[:-1]]
    assert rows[-1] == ["", "broken.jpg", "", "", "", "", "image file is truncated"]


def test_names_and_values_survive_json_lines(tmp_path: Path) -> None:
    lines = written(tmp_path, "jsonl").read_bytes().decode("ascii").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [os.path.normpath(os.fsencode(row["path"])) for row in rows[:-1]] == NAMES
    assert [Row(**row) for row in rows] == ROWS
    assert all(tuple(row) == COLUMNS for row in rows)


def test_lines_end_with_a_line_feed(tmp_path: Path) -> None:
    assert b"\r\n" not in written(tmp_path, "csv").read_bytes()


@pytest.mark.parametrize("name", ["=cmd.png", "+a", "-a", "@a", "\ta", "\ra"])
def test_no_path_starts_a_formula_and_it_still_names_the_file(name: str) -> None:
    assert plain_path(name) == "./" + name
    assert plain_path("a" + name) == "a" + name


def test_csv_of_nothing_is_a_header() -> None:
    file = io.StringIO()
    FORMATS["csv"]([], file)
    assert file.getvalue() == ",".join(COLUMNS) + "\n"


BOXES = [(1, 2, 30, 40), (5, 6, 7, 8)]


def lines(tmp_path: Path, rows: list[Row], form: str, *further: str) -> list[str]:
    """What is written of rows."""
    path = tmp_path / "rows"
    with open(path, "w", **ENCODING) as file:  # type: ignore[call-overload]
        assert write_rows(rows, form, file, further)
    return path.read_text("utf-8").splitlines()


def test_rows_are_made_of_a_batch_with_all_that_is_known() -> None:
    aspects = {"patch_score": [3.1, 3.2], "image_score": [0.7, 0.8]}
    batch = scored(["a", "=b"], [0.1, 0.2], [0.5, 1.0], ["n", "m"], aspects=aspects)
    assert list(Row.of(batch, [BOXES, None])) == [
        Row(None, "a", 0.1, 0.5, None, "n", None, 0.7, 3.1, BOXES),
        Row(None, "./=b", 0.2, 1.0, None, "m", None, 0.8, 3.2, None),
    ]
    (plain,) = Row.of(scored(["a"], [0.1]), [None])
    assert (plain.image_score, plain.patch_score, plain.regions) == (None, None, None)


def test_where_nothing_more_is_asked_for_rows_are_as_they_were(tmp_path: Path) -> None:
    rows = [
        Row(1, "a.png", 0.25, 0.1, True, "n.png"),
        Row(2, "b,c.png", 0.125),
        Row(None, "d.png", error="broken"),
    ]
    known = [
        Row(1, "a.png", 0.25, 0.1, True, "n.png", None, 0.3, 0.4, BOXES),
        Row(2, "b,c.png", 0.125, image_score=0.1, regions=[]),
        Row(None, "d.png", error="broken"),
    ]
    for given in (rows, known):
        assert lines(tmp_path, given, "csv") == [
            "rank,path,score,p_value,anomalous,nearest_normal,error",
            "1,a.png,0.25,0.1,True,n.png,",
            '2,"b,c.png",0.125,,,,',
            ",d.png,,,,,broken",
        ]
        assert lines(tmp_path, given, "jsonl")[0] == (
            '{"rank": 1, "path": "a.png", "score": 0.25, "p_value": 0.1, "anomalous": true, '
            '"nearest_normal": "n.png", "error": null}'
        )


def test_further_columns_stand_behind_the_usual_ones_in_the_order_asked_for(tmp_path: Path) -> None:
    rows = [Row(1, "a", 0.5, image_score=0.7, patch_score=3.1), Row(None, "b", error="broken")]
    assert lines(tmp_path, rows, "csv", "patch_score", "image_score") == [
        "rank,path,score,p_value,anomalous,nearest_normal,error,patch_score,image_score",
        "1,a,0.5,,,,,3.1,0.7",
        ",b,,,,,broken,,",
    ]
    first, second = map(json.loads, lines(tmp_path, rows, "jsonl", "image_score"))
    assert list(first) == [*COLUMNS, "image_score"]
    assert (first["image_score"], second["image_score"]) == (0.7, None)


def test_json_lines_have_regions_as_lists(tmp_path: Path) -> None:
    rows = [Row(1, "a", 2.0, regions=BOXES), Row(2, "b", 1.0, regions=[]), Row(None, "c", error="broken")]
    written = lines(tmp_path, rows, "jsonl", "regions")
    assert written[0].endswith('"regions": [[1, 2, 30, 40], [5, 6, 7, 8]]}')
    assert [json.loads(line)["regions"] for line in written] == [[[1, 2, 30, 40], [5, 6, 7, 8]], [], None]


def test_csv_has_the_same_regions(tmp_path: Path) -> None:
    rows = [Row(1, "a", 2.0, regions=BOXES), Row(2, "b", 1.0, regions=[]), Row(None, "c", error="broken")]
    cells = [row["regions"] for row in csv.DictReader(lines(tmp_path, rows, "csv", "regions"))]
    assert cells[1:] == ["[]", ""]
    assert json.loads(cells[0]) == [list(box) for box in BOXES]


def test_numbers_are_the_shortest_that_are_those_of_32_bits() -> None:
    (row,) = Row.of(scored(["a"], [0.1], aspects={"image_score": [1 / 3]}), [None])
    assert (row.score, row.image_score) == (0.1, 0.33333334)


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        (None, ()),
        ("", ()),
        ("regions", ("regions",)),
        (" patch_score , image_score,", ("patch_score", "image_score")),
    ],
)
def test_further_columns_are_named_with_commas(text: str | None, columns: tuple[str, ...]) -> None:
    assert further_columns(text) == columns


@pytest.mark.parametrize("text", ["score", "rank", "patch_score,scores", "Regions", "regions;rank"])
def test_no_other_column_can_be_asked_for(text: str) -> None:
    with pytest.raises(UsageError, match=f"choose from {', '.join(FURTHER)}"):
        further_columns(text)


def test_a_column_is_written_once() -> None:
    assert further_columns("regions,image_score,regions") == ("regions", "image_score")
