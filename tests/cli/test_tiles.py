"""Tiles, from the command line to the rows."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from anomscan.model.folder import read_manifest
from anomscan.types import Tiles
from tests.cli.rows import rows
from tests.conftest import Run

SIZE = (320, 240)
SPOT = (200, 60, 6, 6)


def part(seed: int, *, spot: bool = False, size: tuple[int, int] = SIZE) -> Image.Image:
    """A striped plate, a little aside and a little noisy; on some a small dark spot."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    stripes = 120 + 60 * np.sin((x + generator.uniform(-2, 2)) / 12) + y / 6
    pixels = stripes[..., None] + generator.normal(0, 3, (*stripes.shape, 3))
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if spot:
        image.paste((20, 20, 20), (SPOT[0], SPOT[1], SPOT[0] + SPOT[2], SPOT[1] + SPOT[3]))
    return image.resize(size)


def saved(folder: Path, images: dict[str, Image.Image]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, image in images.items():
        image.save(folder / name)
    return folder


@pytest.fixture(scope="module")
def normals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("n") / "parts", {f"{seed:02}.png": part(seed) for seed in range(20)})


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    images = {f"good{i}.png": part(400 + i) for i in range(4)}
    odd = {f"odd{i}.png": part(500 + i, spot=True) for i in range(4)}
    return saved(tmp_path / "pair", {**images, **odd})


Index = Callable[..., str]


@pytest.fixture
def index(run: Run, fake_patch_model: Path, normals: Path, tmp_path: Path) -> Index:
    """Index the parts with the fake network."""
    shutil.copytree(fake_patch_model, tmp_path / "m")

    def call(*options: str | Path, folder: Path = normals, code: int = 0) -> str:
        done = run("index", folder, "--model", "m", "--holdout", "0.4", *options)
        assert done.returncode == code, done.stderr.decode()
        return done.stderr.decode()

    return call


def scored(run: Run, folder: Path, *options: str | Path) -> dict[str, dict[str, str]]:
    done = run("score", folder, "--model", "m", *options)
    assert done.returncode == 0, done.stderr.decode()
    return {Path(row["path"]).name: row for row in rows(done.stdout)}


def test_a_small_spot_that_the_whole_hides_comes_first(run: Run, index: Index, pair: Path) -> None:
    index()
    whole = list(scored(run, pair))
    index("--tiles", "3x4")
    tiles = scored(run, pair)
    assert {name[:3] for name in list(tiles)[:4]} == {"odd"}
    assert {name[:3] for name in whole[:4]} != {"odd"}
    assert {row["p_value"] for name, row in tiles.items() if name.startswith("odd")} == {str(1 / 9)}
    nearest = {Path(row["nearest_normal"]).parent for row in tiles.values()}
    assert nearest == {Path(json.loads(run("info", "--model", "m", "--json").stdout)["data"]["root"])}


def test_a_model_without_tiles_is_the_same_after_a_model_with_tiles(
    run: Run, index: Index, pair: Path
) -> None:
    index()
    before = run("score", pair, "--model", "m").stdout
    index("--tiles", "2x2")
    assert run("score", pair, "--model", "m").stdout != before
    index("--tiles", "1x1")
    assert run("score", pair, "--model", "m").stdout == before
    assert read_manifest(str(pair.parent / "m")).preprocessing.tiles is None


def test_by_the_size_of_the_defects(run: Run, index: Index, tmp_path: Path) -> None:
    """Of an input of 64 px: at least 8 of them a defect, and no tile with less than 64."""
    told = index("--defect", "12px")
    tiles = read_manifest(str(tmp_path / "m")).preprocessing.tiles
    assert tiles is not None
    assert (tiles.rows, tiles.columns, tiles.source, tiles.defect) == (3, 4, SIZE, 12)
    sentence = "3 x 4 tiles, 90 x 88 px each in most normals: a defect of 12 px covers 9 px of the input"
    assert f"looks at {sentence}" in told
    assert "adapt again" in told
    shown = " ".join(run("info", "--model", "m").stdout.decode().split())
    assert f"tiles {sentence}" in shown
    index()  # and so does an index that is built anew with the same network
    assert read_manifest(str(tmp_path / "m")).preprocessing.tiles == tiles


def test_boxes_heat_and_report_are_of_the_whole_image(
    run: Run, index: Index, pair: Path, tmp_path: Path
) -> None:
    index("--tiles", "3x4")
    done = run("score", pair, "--model", "m", "--format", "jsonl", "--heatmaps", "heat", "--report", "r.html")
    assert done.returncode == 0, done.stderr.decode()
    rows_of = {Path(row["path"]).name: row for row in map(json.loads, done.stdout.splitlines())}
    for i in range(4):
        x, y, width, height = rows_of[f"odd{i}.png"]["regions"][0]
        assert x < SPOT[0] + SPOT[2]
        assert SPOT[0] < x + width
        assert y < SPOT[1] + SPOT[3]
        assert SPOT[1] < y + height
        assert width * height <= 40 * 40
        number = rows_of[f"odd{i}.png"]["rank"]
        with Image.open(tmp_path / "heat" / f"{number:04}_odd{i}.jpg") as heated:
            assert heated.size == SIZE
    page = (tmp_path / "r.html").read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    for row in json.loads(found[1])["rows"]:
        assert row["spot"]["normal"]["picture"] is not None
        assert len({normal["path"] for normal in row["nearest"]}) == 3, "each normal once, whatever its tiles"


def test_maps_are_measured_over_the_whole_image(run: Run, index: Index, pair: Path, tmp_path: Path) -> None:
    index("--tiles", "3x4")
    defect = Image.new("L", SIZE, 0)
    defect.paste(255, (SPOT[0], SPOT[1], SPOT[0] + SPOT[2], SPOT[1] + SPOT[3]))
    masks = saved(tmp_path / "masks", {f"odd{i}.png": defect for i in range(4)})
    good, bad = tmp_path / "good", tmp_path / "bad"
    for folder in (good, bad):
        folder.mkdir()
    for path in pair.iterdir():
        shutil.copy(path, good if path.name.startswith("good") else bad)
    done = run("evaluate", good, bad, "--model", "m", "--masks", masks, "--json")
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert found["auroc"]["value"] == 1
    assert (found["localised"]["hits"], found["localised"]["images"]) == (1.0, 4)
    assert found["localised"]["pixel_auroc"] > 0.99


def test_an_image_of_another_size_is_looked_at_in_as_many_tiles(
    run: Run, index: Index, tmp_path: Path
) -> None:
    index("--tiles", "3x4")
    twice = saved(
        tmp_path / "twice",
        {
            "good.png": part(600, size=(640, 480)),
            "odd.png": part(601, spot=True, size=(640, 480)),
            "tiny.png": part(602, size=(20, 15)),
        },
    )
    found = scored(run, twice)
    assert float(found["odd.png"]["score"]) > float(found["good.png"]["score"])
    assert found["tiny.png"]["score"]


def test_a_normal_has_a_p_value_of_one_and_an_added_one_too(
    run: Run, index: Index, normals: Path, pair: Path, tmp_path: Path
) -> None:
    index("--tiles", "3x4")
    assert {row["p_value"] for row in scored(run, normals).values()} == {"1.0"}
    before = scored(run, pair)
    done = run("index", "--add", pair / "odd0.png", "--model", "m")
    assert done.returncode == 0, done.stderr.decode()
    manifest = read_manifest(str(tmp_path / "m"))
    assert manifest.data.images == 13
    after = scored(run, pair)
    assert after["odd0.png"]["p_value"] == "1.0"
    assert float(after["odd1.png"]["score"]) < float(before["odd1.png"]["score"])
    done = run("index", "--remove", pair / "odd0.png", "--model", "m")
    assert done.returncode == 0, done.stderr.decode()
    assert read_manifest(str(tmp_path / "m")).data.images == 12
    again = scored(run, pair)
    assert {name: row["score"] for name, row in again.items()} == {
        name: row["score"] for name, row in before.items()
    }


def test_half_a_normal_is_none(run: Run, index: Index, normals: Path, tmp_path: Path) -> None:
    """All tiles of an image must be those of a normal; one that was only half replaced is judged."""
    index("--tiles", "1x2")
    with Image.open(normals / "03.png") as normal:
        image = normal.copy()
    image.paste(part(5, spot=True).crop((160, 0, *SIZE)), (160, 0))
    found = scored(run, saved(tmp_path / "half", {"half.png": image}))
    assert float(found["half.png"]["p_value"]) < 1


def test_other_normals_calibrate_and_a_reduced_gallery_scores(
    run: Run, index: Index, pair: Path, normals: Path, tmp_path: Path
) -> None:
    index("--tiles", "3x4", "--reduce", "coreset:40")
    assert read_manifest(str(tmp_path / "m")).gallery.vectors == 40
    others = saved(tmp_path / "others", {f"{seed}.png": part(seed) for seed in range(600, 612)})
    done = run("calibrate", others, "--model", "m")
    assert done.returncode == 0, done.stderr.decode()
    found = scored(run, pair, "--fpr", "0.1")
    assert {row["anomalous"] for name, row in found.items() if name.startswith("odd")} == {"True"}
    index("--tiles", "2x3")
    done = run("calibrate", normals, "--model", "m")
    assert done.returncode == 1
    assert b"are among the normals" in done.stderr


def test_images_and_patches_alone_too(run: Run, index: Index, pair: Path) -> None:
    for looks in ("patch", "image"):
        index("--tiles", "3x4", "--focus", looks)
        found = scored(run, pair)
        assert {name[:3] for name in list(found)[:2]} == {"odd"}
        scored(run, pair, *(["--k", "1"] if looks == "image" else []))


def test_the_export_and_the_doctor_know_them(run: Run, index: Index, tmp_path: Path) -> None:
    index("--tiles", "2x2")
    done = run("export", "out.onnx", "--model", "m")
    assert done.returncode == 0, done.stderr.decode()
    assert [d.dim_value for d in onnx.load(tmp_path / "out.onnx").graph.input[0].type.tensor_type.shape.dim][
        1:
    ] == [64, 64, 3]
    done = run("doctor", "--model", "m")
    assert b"two drawn images score" in done.stdout + done.stderr


def test_a_batch_that_has_shifted_is_seen(run: Run, index: Index, tmp_path: Path) -> None:
    index("--tiles", "2x2")
    same = {f"{seed}.png": part(seed) for seed in range(700, 760)}
    lit = {name: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) for name, image in same.items()}
    for name, images, shifted in (("same", same, False), ("lit from below", lit, True)):
        done = run("score", saved(tmp_path / name, images), "--model", "m", "--summary", f"{name}.json")
        assert done.returncode == 0, done.stderr.decode()
        assert json.loads((tmp_path / f"{name}.json").read_text())["drift"]["shifted"] is shifted


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--tiles", "0x3"], "--tiles takes RxC"),
        (["--defect", "small"], "--defect takes a size in pixels"),
        (["--tiles", "2x2", "--defect", "12px"], "leave --tiles or --defect out"),
        (["--tiles", "2x2", "--add"], "leave each other and all else out"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(
    index: Index, tmp_path: Path, options: list[str], sentence: str
) -> None:
    before = read_manifest(str(tmp_path / "m"))
    shutil.rmtree(tmp_path / "none", ignore_errors=True)
    told = index(*options, code=2)
    assert sentence in told
    assert told.count("\n") == 1
    assert read_manifest(str(tmp_path / "m")) == before


def test_adapt_learns_from_the_tiles(run: Run, small: object, normals: Path, pair: Path) -> None:
    """With a real network: trained, read out, focused and indexed on tiles."""
    network = ("--backbone", small.name, "--weights", str(small.weights), "--size", str(small.size))  # type: ignore[attr-defined]
    training = ("--method", "panda-es", "--steps", "2", "--holdout", "0.4", "--focus", "both")
    done = run("adapt", normals, "--model", "m", *training, *network, "--tiles", "2x3")
    assert done.returncode == 0, done.stderr.decode()
    assert scored(run, pair)
    manifest = read_manifest(str(pair.parent / "m"))
    assert manifest.preprocessing.tiles == Tiles(2, 3, 1 / 7, SIZE)
    assert (manifest.gallery.vectors, manifest.data.images) == (72, 12)
    (graph,) = (pair.parent / "m").glob("extractor-*.onnx")
    told = {entry.key: entry.value for entry in onnx.load(graph).metadata_props}
    assert told["resize"].startswith("each tile of whole image squashed with Pillow, ")
    assert told["tiles"].startswith("2 x 3, neighbours share 0.142857 of a tile")
    done = run("index", normals, "--model", "m", "--int8", "--force", "--holdout", "0.4")
    assert done.returncode == 0, done.stderr.decode()
    assert scored(run, pair)
