from __future__ import annotations

from pathlib import Path

from anomscan.model.folder import read_manifest
from anomscan.model.suspects import Suspect, Suspects
from anomscan.model.whereabouts import Whereabouts
from anomscan.report.normals import write_normals_page
from tests.conftest import draw_odd, silent


def test_suspects_stand_beside_their_nearest(model_folder: Path, normal_folder: Path, tmp_path: Path) -> None:
    names = sorted(str(path) for path in normal_folder.iterdir())
    ranked = [
        Suspect(names[0], 9.1, 0.0004, True, names[1]),
        Suspect("/gone.png", 0.5, 0.3, False, names[0]),
    ]
    page = tmp_path / "n.html"
    where = Whereabouts(str(normal_folder))
    remark = write_normals_page(page, read_manifest(str(model_folder)), Suspects(ranked, 20), where, silent)
    assert remark is not None
    assert remark.startswith("1 normal is not where the model has them")
    text = page.read_text(encoding="utf-8")
    assert "<h1>1 of 20 normals are unlike the others</h1>" in text
    assert text.count('<img src="data:image/webp;base64,') == 3
    assert "not shown" in text
    assert text.count('class="marked"') == 1
    assert "<td>0.0004 suspect</td>" in text
    assert "anomscan index --remove PATH" in text


def test_no_picture_from_elsewhere_is_shown(model_folder: Path, normal_folder: Path, tmp_path: Path) -> None:
    """A model folder may come from somebody else, who wrote its paths."""
    (tmp_path / "private").mkdir()
    draw_odd(7).save(tmp_path / "private" / "photo.png")
    own = sorted(str(path) for path in normal_folder.iterdir())
    ranked = [Suspect(str(tmp_path / "private" / "photo.png"), 9.1, 0.0004, True, own[1])]
    manifest, page = read_manifest(str(model_folder)), tmp_path / "n.html"
    for folders, pictures in (((), 1), ((str(tmp_path / "private"),), 2)):
        where = Whereabouts(str(normal_folder), folders)
        remark = write_normals_page(page, manifest, Suspects(ranked, 20), where, silent)
        text = page.read_text(encoding="utf-8")
        assert text.count("<img ") == pictures
        assert (remark is None) == (pictures == 2)
        assert remark is None or "--normals DIR" in text
