from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from anomscan.errors import OutputError
from anomscan.files.streams import stdin_paths, text_output


@pytest.mark.parametrize(
    ("sent", "null", "paths"),
    [
        (b"a.png\nb c.png\n", False, ["a.png", "b c.png"]),
        (b"a\nb.png\0\xff.png", True, ["a\nb.png", "\udcff.png"]),
        (b"\n\nlast", False, ["last"]),
        (b"", True, []),
    ],
)
def test_paths_come_from_standard_input_whatever_their_bytes(
    monkeypatch: pytest.MonkeyPatch, sent: bytes, null: bool, paths: list[str]
) -> None:
    read, write = os.pipe()
    os.write(write, sent)
    os.close(write)
    with os.fdopen(read) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert list(stdin_paths(null=null)) == paths


def test_a_path_is_there_as_soon_as_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    with os.fdopen(read) as stdin, os.fdopen(write, "wb", buffering=0) as sender:
        monkeypatch.setattr("sys.stdin", stdin)
        paths = stdin_paths(null=False)
        sender.write(b"first\nsec")
        assert next(paths) == "first"
        sender.write(b"ond\n")
        assert next(paths) == "second"


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with text_output(str(tmp_path / "out")) as file:
        file.write("\udcff\n")
    assert (tmp_path / "out").read_bytes() == b"\xff\n"
    with pytest.raises(ValueError, match="stop"), text_output(str(tmp_path / "none")):
        raise ValueError("stop")
    assert not (tmp_path / "none").exists()
    with pytest.raises(OutputError), text_output(str(tmp_path / "no" / "folder")):
        pytest.fail("the block must not run")


def test_standard_output_keeps_the_bytes_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with text_output(None) as file:
        file.write("\udcff🔩\r\n")
        file.flush()
    assert raw.getvalue() == b"\xff" + "🔩\r\n".encode()
