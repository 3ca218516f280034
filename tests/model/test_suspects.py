from __future__ import annotations

import json
from pathlib import Path

import pytest

from anomscan.errors import ModelDamaged
from anomscan.model import suspects as module
from anomscan.model.suspects import SUSPECTS, Suspect, Suspects

FOUND = Suspects(
    [Suspect("/a\udcff.png", 9.0, 0.001, True, "/b.png"), Suspect("/b.png", 0.5, 0.3, False, "/c.png")], 40
)


def test_they_come_back_from_their_file(tmp_path: Path) -> None:
    files = FOUND.save(tmp_path)
    assert files == {SUSPECTS: tmp_path / "suspects.json"}
    assert Suspects.load(files[SUSPECTS]) == FOUND
    assert [suspect.path for suspect in FOUND.suspected] == ["/a\udcff.png"]
    assert FOUND.without({"/a\udcff.png"}).ranked == FOUND.ranked[1:]


def test_only_the_first_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_KEPT", 1)
    read = Suspects.load(FOUND.save(tmp_path)[SUSPECTS])
    assert (len(read.ranked), read.normals) == (1, 40)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "1", '{"normals": 1}', '{"normals": "x", "ranked": []}', '{"normals": 1, "ranked": [[1]]}'],
)
def test_what_is_no_list_is_a_damaged_model(tmp_path: Path, text: str) -> None:
    file = tmp_path / "suspects.json"
    file.write_text(text)
    with pytest.raises(ModelDamaged, match=r"suspects\.json does not list normals"):
        Suspects.load(file)
    assert json.loads(FOUND.save(tmp_path)[SUSPECTS].read_text())["normals"] == 40
