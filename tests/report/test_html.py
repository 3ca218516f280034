"""The page as a person uses it: in Chromium, without a window."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomscan.files.atomic import sha256
from anomscan.fit.rejects import reject
from anomscan.images.find import find
from anomscan.model.model import read_model
from anomscan.report.heatmaps import Scale
from anomscan.report.html import write_report
from anomscan.screen.run import Outcome, ScoreJob, run
from anomscan.stats.decision import UNDECIDED, Decision
from anomscan.types import PatchMaps
from tests.browser import BINARY, Browser
from tests.conftest import draw, draw_odd, silent
from tests.fakes import scored

HOSTILE = "<img src=x onerror=alert(1)>.png"
ENDING = "<"  # a folder of this name and a file "script>..." make a path with "</script>" in it
NAMES = [*(f"{i}.png" for i in range(8)), HOSTILE, "script><script>alert(2)<.png"]
FILTER = "const f = document.getElementById('filter');"
INPUT = "f.dispatchEvent(new Event('input'))"
CHANGE = "s.dispatchEvent(new Event('change'))"


def reported(folder: Path, images: Path, page: Path, decision: Decision, top: int = 50) -> None:
    job = ScoreJob(find([str(images)]), read_model(str(folder), 1), decision, keep=top)
    with run(job, silent) as outcome:
        write_report(page, outcome.evidence(top, outcome.summary()), silent)


@pytest.fixture(scope="module")
def incoming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("incoming")
    for seed, name in enumerate(NAMES):
        image = (draw_odd if name == HOSTILE else draw)(400 + seed)
        file = folder / (ENDING if name.startswith("script>") else "") / name
        file.parent.mkdir(exist_ok=True)
        image.save(file)
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


GRID = 6
UNMAPPED = "0.png"


def some_map(i: int) -> PatchMaps:
    """Hot in one cell of the diagonal, whose nearest patch is number i mod ``GRID``."""
    distances = np.full((1, GRID, GRID), 0.1, np.float32)
    distances[0, i % GRID, i % GRID] = 0.9
    return PatchMaps(distances, np.arange(GRID**2).reshape(1, GRID, GRID) // (GRID + 1))


@pytest.fixture(scope="module")
def spotted(calibrated_folder: Path, incoming: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with a map of every image but one; the normal that the third patch came from is gone."""
    file = tmp_path_factory.mktemp("spotted") / "report.html"
    model = read_model(str(calibrated_folder), 1)

    def source(position: int) -> tuple[str, int, int]:
        path = "/gone/n.png" if position == 2 else model.normals[0]
        return path, position // GRID, position % GRID

    with run(ScoreJob(find([str(incoming)]), model, Decision(fpr=0.1), keep=50), silent) as outcome:
        evidence = outcome.evidence(50, outcome.summary())
        maps = {row.path: some_map(i) for i, row in enumerate(evidence.rows)}
        del maps[next(path for path in maps if path.endswith(f"/{UNMAPPED}"))]
        write_report(file, replace(evidence, maps=maps, patch_source=source, scale=Scale(0.2, 0.8)), silent)
    return file


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


def test_a_page_without_maps_shows_no_spots(opened: Browser) -> None:
    assert opened.run("document.getElementById('spot-head').hidden")
    assert opened.run("document.querySelectorAll('.pair, .spot, .spotted').length") == 0
    assert opened.run("data.rows.every((row) => !('spot' in row))")


def test_a_map_is_shown_beside_its_image_and_the_hottest_spot_beside_a_normal_one(
    browser: Browser, spotted: Path
) -> None:
    browser.problems.clear()
    browser.open(spotted)
    mapped = len(NAMES) - 1
    assert not browser.run("document.getElementById('spot-head').hidden")
    assert browser.run("document.querySelectorAll('#rows td.image .pair img').length") == 2 * mapped
    assert browser.run("document.querySelectorAll('#rows td.spot').length") == len(NAMES)
    captions = browser.run("[...document.querySelectorAll('#rows figcaption')].map((c) => c.textContent)")
    assert captions == ["seen", "expected"] * mapped
    widths = browser.run(
        "Promise.all([...document.images].map((image) => image.decode().then(() => image.naturalWidth)))"
    )
    gone = browser.run("document.querySelectorAll('td.spot .gone').length")
    assert len(widths) == 4 * len(NAMES) + 3 * mapped - gone
    assert gone >= 1
    assert browser.run("document.querySelectorAll('.gone').length") == gone
    assert browser.problems == []


def test_the_viewer_says_what_should_be_there(browser: Browser, spotted: Path) -> None:
    browser.problems.clear()
    browser.open(spotted)
    place = {"with": "find((row) => row.spot)", "without": "find((row) => !row.spot)"}
    browser.run(f"{{ select(data.rows.{place['with']}); openViewer() }}")
    text = browser.run("document.getElementById('view').textContent")
    assert "The hottest spot, 0.9 from the nearest of a normal." in text
    assert "What should be here: " in text
    assert browser.run("document.querySelectorAll('#view img').length") == 7
    browser.run(f"{{ select(data.rows.{place['without']}); fillViewer() }}")
    assert browser.run("document.querySelectorAll('#view img').length") == 4
    assert not browser.run("document.getElementById('view').classList.contains('spotted')")
    assert browser.problems == []


@pytest.mark.parametrize("width", [1280, 400])
def test_spots_do_not_stick_out_either(browser: Browser, spotted: Path, width: int) -> None:
    browser.open(spotted, width=width)
    assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
    browser.run("{ select(data.rows.find((row) => row.spot)); openViewer() }")
    assert browser.run("at('viewer').scrollWidth <= at('viewer').clientWidth")


@pytest.fixture(scope="module")
def learnt(fake_patch_model: Path, incoming: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page by a model whose rejects are two of the incoming images, which may be opened."""
    folder = Path(shutil.copytree(fake_patch_model, tmp_path_factory.mktemp("learnt") / "m"))
    reject([str(incoming / HOSTILE), str(incoming / "3.png")], str(folder), silent)
    file = folder.parent / "report.html"
    job = ScoreJob(find([str(incoming)]), read_model(str(folder), 1), keep=50, normals=[str(incoming)])
    with run(job, silent) as outcome:
        write_report(file, outcome.evidence(50, outcome.summary()), silent)
    return file


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL
    )
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_what_was_missed_before_is_shown(learnt: Path, page: Path) -> None:
    data = data_of(learnt)
    assert ["rejects", "2 missed anomalies"] in data["provenance"]
    rows = {Path(row["path"]).name: row for row in data["rows"]}
    assert rows[HOSTILE]["reject"]["path"].endswith(HOSTILE)
    assert rows[HOSTILE]["reject"]["distance"] == pytest.approx(0, abs=1e-3)
    assert data["pictures"][rows[HOSTILE]["reject"]["picture"]] is not None
    spot = rows[HOSTILE]["spot"]["normal"]
    assert (spot["rejected"], Path(spot["path"]).name) == (True, HOSTILE)
    assert all("reject" not in row for row in data_of(page)["rows"]), "this model has none"


def test_the_page_calls_it_by_its_name(browser: Browser, learnt: Path) -> None:
    browser.problems.clear()
    browser.open(learnt)
    browser.run("{ select(data.rows.find((row) => row.spot?.normal?.rejected)); openViewer() }")
    text = browser.run("document.getElementById('view').textContent")
    assert f"The hottest spot, like one of the reject {HOSTILE}." in text
    assert f"Nearest reject: {HOSTILE} at " in text
    captions = browser.run("[...document.querySelectorAll('#rows figcaption')].map((c) => c.textContent)")
    assert {"missed before", "expected"} >= {*captions} - {"seen"} > set()
    names = browser.run("[...document.querySelectorAll('#rows td.name')].map((c) => c.textContent)")
    assert any(f"like the reject {HOSTILE}" in name for name in names)
    assert browser.problems == []


def test_without_calibration_and_with_gone_normals(
    model_folder: Path, browser: Browser, incoming: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "m"))
    normals = next(folder.glob("gallery-*"))
    names = normals.read_text()
    normals.write_text(names.replace("/normal", "/gone"))
    manifest = (folder / "model.json").read_text()
    old = re.search(r'"name": "gallery-[0-9a-f]+\.json",\s*"sha256": "([0-9a-f]+)"', manifest)
    assert old is not None
    (folder / "model.json").write_text(manifest.replace(old[1], sha256(normals)))
    reported(folder, incoming, tmp_path / "r.html", UNDECIDED, top=3)
    browser.problems.clear()
    browser.open(tmp_path / "r.html")
    assert browser.problems == []
    assert len(column(browser, "rank")) == 3
    assert browser.run("document.querySelectorAll('.gone').length") == 9
    assert browser.run("document.getElementById('p-head').hidden")


def test_a_thousand_rows(calibrated_folder: Path, browser: Browser, tmp_path: Path) -> None:
    model = read_model(str(calibrated_folder), 1)
    draw(0).save(tmp_path / "x.png")
    names, values = [f"{tmp_path}/x.png?{i}" for i in range(1200)], [float(i) for i in range(1200)]
    features = np.random.default_rng(0).normal(size=(1200, model.gallery.dim)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    images = scored(names, values, [0.5] * 1200, [model.normals[0]] * 1200, features)
    with Outcome(ScoreJob((), model, keep=1000)) as outcome:
        outcome.ranking.add(images)
        outcome.sample.add(images)
        outcome.calibration, outcome.seconds = model.calibration, 1.0
        write_report(tmp_path / "r.html", outcome.evidence(1000, outcome.summary()), silent)
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
