"""The page as a person uses it: in Chromium, without a window."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from anomscan.bundle import read_model
from anomscan.html_report import write_report
from anomscan.images import find
from anomscan.options import Decision
from anomscan.screening import FeatureSample, Ranking, decide, score
from anomscan.summary import summarise
from tests.browser import BINARY, Browser
from tests.conftest import draw, silent

HOSTILE = "<img src=x onerror=alert(1)>.png"
ENDING = "<"  # a folder of this name and a file "script>..." make a path with "</script>" in it
NAMES = [*(f"{i}.png" for i in range(8)), HOSTILE, "script><script>alert(2)<.png"]
FILTER = "const f = document.getElementById('filter');"
INPUT = "f.dispatchEvent(new Event('input'))"
CHANGE = "s.dispatchEvent(new Event('change'))"


def reported(folder: Path, images: Path, page: Path, decision: Decision, top: int = 50) -> None:
    model = read_model(folder, 1)
    with Ranking() as ranking:
        sample = FeatureSample(top)
        score(find([str(images)]), model, ranking, k=None, threads=1, progress=silent, sample=sample)
        calibration = model.calibrated(2)
        limit = decide(decision, ranking, calibration)
        summary = summarise(ranking, model, calibration, sample, decision, limit, 1.0)
        write_report(page, ranking, top, summary, model, calibration, sample, silent)


@pytest.fixture(scope="module")
def incoming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("incoming")
    for seed, name in enumerate(NAMES):
        image = draw(400 + seed)
        file = folder / (ENDING if name.startswith("script>") else "") / name
        file.parent.mkdir(exist_ok=True)
        (image.rotate(45).resize((96, 30)) if name == HOSTILE else image).save(file)
    (folder / "broken & <b>bold.jpg").write_bytes(b"broken")
    return folder


@pytest.fixture(scope="module")
def page(calibrated_folder: Path, incoming: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("report") / "report.html"
    reported(calibrated_folder, incoming, file, Decision(fpr=0.1))
    return file


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if BINARY is None:
        pytest.skip("no chromium on PATH: apt-get install chromium")
    with Browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def opened(browser: Browser, page: Path) -> Iterator[Browser]:
    browser.open(page)
    browser.problems.clear()
    yield browser
    assert browser.problems == []


def column(browser: Browser, name: str) -> list[str]:
    found: list[str] = browser.run(
        f"[...document.querySelectorAll('#rows td.{name}')].map((cell) => cell.firstChild.textContent)"
    )
    return found


def test_no_error_and_no_request(browser: Browser, page: Path) -> None:
    browser.problems.clear()
    browser.requests.clear()
    browser.open(page)
    browser.run("new Promise((done) => setTimeout(done, 300))")
    assert browser.problems == []
    assert [url for url in browser.requests if not url.startswith("data:image/webp")] == [page.as_uri()]


def test_the_policy_allows_nothing_from_elsewhere(browser: Browser, page: Path) -> None:
    browser.open(page)
    tried = "fetch('https://example.org').then(() => 'loaded', () => 'refused')"
    assert browser.run(tried) == "refused"
    browser.run(
        "{ const s = document.createElement('script'); s.textContent = 'window.bad = 1';"
        " document.body.append(s) }"
    )
    assert browser.run("window.bad === undefined")


def test_names_stay_text(opened: Browser) -> None:
    names = column(opened, "name")
    assert names[0] == HOSTILE
    assert sorted(names) == sorted(NAMES)
    assert opened.run("document.querySelectorAll('img:not([src^=data])').length") == 0
    unreadable = opened.run("document.getElementById('unreadable').textContent")
    assert "broken & <b>bold.jpg" in unreadable
    assert "not an image" in unreadable


def test_every_thumbnail_loads(opened: Browser) -> None:
    widths = opened.run(
        "Promise.all([...document.images].map((image) => image.decode().then(() => image.naturalWidth)))"
    )
    assert len(widths) == 4 * len(NAMES)
    assert min(widths) > 0


def test_the_table_sorts(opened: Browser) -> None:
    assert column(opened, "rank") == [str(i + 1) for i in range(len(NAMES))]
    for key, name in (("path", "name"), ("score", "score"), ("p", "p-value")):
        opened.run(f"document.querySelector('th[data-key={key}] button').click()")
        first = column(opened, name)
        opened.run(f"document.querySelector('th[data-key={key}] button').click()")
        assert column(opened, name) == (first[::-1] if key != "p" else sorted(first, key=float)[::-1])
        assert opened.run(f"document.querySelector('th[data-key={key}]').getAttribute('aria-sort')")
    opened.run(f"{{ const s = document.getElementById('order'); s.value = 'rank'; {CHANGE} }}")
    assert column(opened, "rank")[0] == "1"


def test_the_table_filters(opened: Browser) -> None:
    opened.run(f"{{ {FILTER} f.value = 'ONERROR'; {INPUT} }}")
    assert column(opened, "name") == [HOSTILE]
    assert opened.run("document.getElementById('count').textContent") == f"1 of {len(NAMES)}"
    opened.run(f"{{ {FILTER} f.value = ''; {INPUT} }}")
    opened.run(f"{{ const s = document.getElementById('kind'); s.value = 'anomalous'; {CHANGE} }}")
    assert HOSTILE in column(opened, "name")
    assert len(column(opened, "name")) < len(NAMES)


def test_the_keyboard_goes_through_the_images(opened: Browser) -> None:
    for key in ("j", "ArrowDown", "ArrowUp", "j", "Enter"):
        opened.press(key)
    assert opened.run("document.getElementById('viewer').open")
    assert opened.run("document.getElementById('viewer-place').textContent") == "rank 2"
    opened.press("ArrowRight")
    assert opened.run("document.getElementById('viewer-place').textContent") == "rank 3"
    opened.run("document.getElementById('close').click()")
    assert not opened.run("document.getElementById('viewer').open")


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_sticks_out_on_the_side(browser: Browser, page: Path, width: int, tmp_path: Path) -> None:
    browser.open(page, width=width)
    assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
    browser.screenshot(tmp_path / f"{width}.png")


def test_on_paper_only_what_can_be_read(opened: Browser) -> None:
    opened.call("Emulation.setEmulatedMedia", media="print")
    assert opened.run("getComputedStyle(document.querySelector('.bar')).display") == "none"
    assert opened.run("document.querySelectorAll('#rows tr').length") == len(NAMES)
    opened.call("Emulation.setEmulatedMedia", media="")


def test_without_calibration_and_with_gone_normals(
    model_folder: Path, browser: Browser, incoming: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "m"))
    normals = next(folder.glob("gallery-*"))
    names = normals.read_text()
    from anomscan.atomic import sha256

    normals.write_text(names.replace("/normal", "/gone"))
    manifest = (folder / "model.json").read_text()
    old = re.search(r'"name": "gallery-[0-9a-f]+\.json",\s*"sha256": "([0-9a-f]+)"', manifest)
    assert old is not None
    (folder / "model.json").write_text(manifest.replace(old[1], sha256(normals)))
    reported(folder, incoming, tmp_path / "r.html", Decision(), top=3)
    browser.problems.clear()
    browser.open(tmp_path / "r.html")
    assert browser.problems == []
    assert len(column(browser, "rank")) == 3
    assert browser.run("document.querySelectorAll('.gone').length") == 9
    assert browser.run("document.getElementById('p-head').hidden")


def test_a_thousand_rows(calibrated_folder: Path, browser: Browser, tmp_path: Path) -> None:
    model = read_model(calibrated_folder, 1)
    draw(0).save(tmp_path / "x.png")
    generator = np.random.default_rng(0)
    with Ranking() as ranking:
        sample = FeatureSample(1000)
        for i in range(1200):
            feature = generator.normal(size=model.gallery.dim).astype(np.float32)
            ranking.add(f"{tmp_path}/x.png?{i}", float(i), model.normals[0], 0.5)
            sample.add(f"{tmp_path}/x.png?{i}", float(i), feature / np.linalg.norm(feature), False)
        summary = summarise(ranking, model, model.calibration, sample, Decision(), None, 1.0)
        write_report(tmp_path / "r.html", ranking, 1000, summary, model, model.calibration, sample, silent)
    browser.problems.clear()
    browser.open(tmp_path / "r.html")
    assert browser.problems == []
    assert len(column(browser, "rank")) == 1000
    typed = f"{FILTER} f.value = 'png?119'; {INPUT}"
    took = browser.run(
        f"(() => {{ const began = performance.now(); {typed}; return performance.now() - began }})()"
    )
    assert took < 1000
    assert len(column(browser, "rank")) == 10
