from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from anomscan.errors import InputError, OutputError
from anomscan.streams import sources, text_output
from tests.conftest import draw


def test_paths_come_from_the_command_line_and_from_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(0).save(tmp_path / "a.png")
    read, write = os.pipe()
    os.write(write, b"gone.png\0" + os.fsencode(tmp_path / "a.png"))
    os.close(write)
    with os.fdopen(read) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        found = list(sources([str(tmp_path), "-"], null=True))
    assert [source.path for source in found] == [str(tmp_path / "a.png"), "gone.png", str(tmp_path / "a.png")]
    assert [source.error for source in found] == [None, "No such file or directory", None]
    with pytest.raises(InputError, match=r"gone\.png"):
        list(sources(["gone.png"], null=False))


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with text_output(tmp_path / "out") as file:
        file.write("\udcff\n")
    assert (tmp_path / "out").read_bytes() == b"\xff\n"
    with pytest.raises(ValueError, match="stop"), text_output(tmp_path / "none"):
        raise ValueError("stop")
    assert not (tmp_path / "none").exists()
    with pytest.raises(OutputError), text_output(tmp_path / "no" / "folder"):
        pytest.fail("the block must not run")


def test_standard_output_keeps_the_bytes_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with text_output(None) as file:
        file.write("\udcff🔩\r\n")
        file.flush()
    assert raw.getvalue() == b"\xff" + "🔩\r\n".encode()
