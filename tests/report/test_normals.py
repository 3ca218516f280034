from __future__ import annotations

from pathlib import Path

from anomscan.model.folder import read_manifest
from anomscan.model.suspects import Suspect, Suspects
from anomscan.report.normals import write_normals_page
from tests.conftest import silent


def test_suspects_stand_beside_their_nearest(model_folder: Path, normal_folder: Path, tmp_path: Path) -> None:
    names = sorted(str(path) for path in normal_folder.iterdir())
    ranked = [
        Suspect(names[0], 9.1, 0.0004, True, names[1]),
        Suspect("/gone.png", 0.5, 0.3, False, names[0]),
    ]
    page = tmp_path / "n.html"
    write_normals_page(page, read_manifest(str(model_folder)), Suspects(ranked, 20), silent)
    text = page.read_text(encoding="utf-8")
    assert "<h1>1 of 20 normals are unlike the others</h1>" in text
    assert text.count('<img src="data:image/webp;base64,') == 3
    assert "not on this disk" in text
    assert text.count('class="marked"') == 1
    assert "<td>0.0004 suspect</td>" in text
    assert "anomscan index --remove PATH" in text
