from __future__ import annotations

import datetime
import os

import pytest

from anomscan.text import many, now, plain_path, printable


def test_printable_escapes_what_a_terminal_cannot_show() -> None:
    assert printable(os.fsdecode(b"a\xff\n\x1b[31m\xc3\xa9")) == "a\\xff\\n\\x1b[31mé"


@pytest.mark.parametrize("start", "=+-@\t\r\n")
def test_a_plain_path_is_no_formula(start: str) -> None:
    assert plain_path(f"{start}1.png") == f"./{start}1.png"
    assert plain_path(f"a{start}1.png") == f"a{start}1.png"
    assert plain_path("") == ""


def test_the_time_for_the_record_has_seconds_and_a_zone() -> None:
    time = datetime.datetime.fromisoformat(now())
    assert time.utcoffset() == datetime.timedelta(0)
    assert time.microsecond == 0
    assert abs(datetime.datetime.now(datetime.UTC) - time) < datetime.timedelta(minutes=1)


def test_one_is_one() -> None:
    assert [many(n, "file has", "files have") for n in (0, 1, 2)] == [
        "0 files have",
        "1 file has",
        "2 files have",
    ]
