from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from anomscan.report.page import Figure, Table, write_page


def test_names_are_text_and_pictures_stand_in_the_page(tmp_path: Path) -> None:
    rows = [["<b>1</b>", Figure("data:image/webp;base64,AA==", 'a"b<.png')], ["2", Figure(None, "gone")]]
    write_page(
        tmp_path / "p.html", "A & B", ["one < two"], [Table("first", ("x", "y"), rows, frozenset({1}))]
    )
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "<td>&lt;b&gt;1&lt;/b&gt;</td>" in text
    assert '<img src="data:image/webp;base64,AA==" alt="a&quot;b&lt;.png">' in text
    assert "not shown" in text
    assert (text.count('<tr class="marked">'), text.count("<script")) == (1, 0)
    assert "<h1>A &amp; B</h1>" in text
    assert "<p>one &lt; two</p>" in text


def test_the_policy_names_the_style(tmp_path: Path) -> None:
    write_page(tmp_path / "p.html", "t", [], [])
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in text
    assert "default-src 'none'" in text
