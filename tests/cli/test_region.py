"""A region and a mask, from the command line to the rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from anomscan.model.folder import read_manifest
from anomscan.types import Part
from tests.cli.rows import rows
from tests.conftest import Run, draw

SIZE = (192, 128)
BOX = (64, 24, 96, 96)
REGION = ",".join(map(str, BOX))


def line(seed: int, *, clutter: int | None = None, stain: bool = False) -> Image.Image:
    """A part on a belt; beside it stands something, each time elsewhere."""
    generator = np.random.default_rng(1000 + (seed if clutter is None else clutter))
    belt = generator.integers(0, 255, (SIZE[1] // 8, SIZE[0] // 8, 3), np.uint8)
    image = Image.fromarray(belt).resize(SIZE, Image.Resampling.NEAREST)
    image.paste(draw(seed), BOX[:2])
    if stain:
        image.paste((255, 0, 0), (BOX[0] + 48, BOX[1] + 36, BOX[0] + 60, BOX[1] + 48))
    return image


def saved(folder: Path, images: dict[str, Image.Image]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, image in images.items():
        image.save(folder / name)
    return folder


def disc(path: Path) -> Path:
    """White where the part is."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    near = (x - BOX[0] - 48) ** 2 + (y - BOX[1] - 48) ** 2 < 44**2
    Image.fromarray((255 * near).astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def normals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("n") / "line", {f"{seed:02}.png": line(seed) for seed in range(20)})


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A good part and a stained one, each twice, with other things beside them."""
    return saved(
        tmp_path / "pair",
        {
            "good1.png": line(400),
            "good2.png": line(400, clutter=1),
            "odd1.png": line(401, stain=True),
            "odd2.png": line(401, clutter=2, stain=True),
        },
    )


Index = Callable[..., str]


@pytest.fixture
def index(run: Run, fake_patch_model: Path, normals: Path, tmp_path: Path) -> Index:
    """Index the line with the fake network."""
    shutil.copytree(fake_patch_model, tmp_path / "m")

    def call(*options: str | Path, folder: Path = normals, code: int = 0) -> str:
        done = run("index", folder, "--model", "m", "--holdout", "0.4", *options)
        assert done.returncode == code, done.stderr.decode()
        return done.stderr.decode()

    return call


def scores(run: Run, folder: Path) -> dict[str, str]:
    done = run("score", folder, "--model", "m")
    assert done.returncode == 0, done.stderr.decode()
    return {Path(row["path"]).name: row["score"] for row in rows(done.stdout)}


@pytest.mark.parametrize("what", ["region", "mask", "both"])
def test_what_moves_outside_does_not_change_a_bit(
    run: Run, index: Index, pair: Path, tmp_path: Path, what: str
) -> None:
    mask = disc(tmp_path / "mask.png")
    index(*(("--region", REGION) if what != "mask" else ()), *(("--mask", mask) if what != "region" else ()))
    found = scores(run, pair)
    assert found["good1.png"] == found["good2.png"]
    assert found["odd1.png"] == found["odd2.png"]
    assert float(found["odd1.png"]) > float(found["good1.png"])


def test_without_it_does(run: Run, index: Index, pair: Path) -> None:
    index()
    found = scores(run, pair)
    assert found["good1.png"] != found["good2.png"]
    assert read_manifest(str(pair.parent / "m")).preprocessing.reading.part is None


def test_boxes_and_heat_are_of_the_whole_image(run: Run, index: Index, pair: Path, tmp_path: Path) -> None:
    index("--region", REGION)
    done = run("score", pair, "--model", "m", "--format", "jsonl", "--heatmaps", "heat", "--report", "r.html")
    assert done.returncode == 0, done.stderr.decode()
    found = {Path(row["path"]).name: row for row in map(json.loads, done.stdout.splitlines())}
    assert found["odd1.png"]["regions"] == [[BOX[0] + 48, BOX[1] + 36, 12, 12]]
    number = found["odd1.png"]["rank"]
    heated = np.asarray(Image.open(tmp_path / "heat" / f"{number:04}_odd1.jpg").convert("RGB")).astype(int)
    before = np.asarray(Image.open(pair / "odd1.png")).astype(int)
    assert heated.shape == before.shape
    apart = np.abs(heated - before).mean(axis=2)
    outside = np.ones(apart.shape, np.bool_)
    outside[BOX[1] - 8 : BOX[1] + 104, BOX[0] - 8 : BOX[0] + 104] = False
    assert apart[outside].mean() < 20  # what a JPEG costs, of noise
    assert apart[BOX[1] + 36 : BOX[1] + 48, BOX[0] + 48 : BOX[0] + 60].mean() > 40
    page = (tmp_path / "r.html").read_text()
    assert page.count('"spot":{') == 4


def test_it_is_told_and_kept(run: Run, index: Index, pair: Path, normals: Path, tmp_path: Path) -> None:
    mask = disc(tmp_path / "mask.png")
    index("--region", REGION, "--mask", mask)
    mask.unlink()
    part = read_manifest(str(tmp_path / "m")).preprocessing.reading.part
    assert part is not None
    assert (part.source, part.box) == (SIZE, BOX)
    shown = " ".join(run("info", "--model", "m").stdout.decode().split())
    assert f"64 x 64 pixels, region {REGION} of 192 x 128 pixels, 66 % of it by a mask, bicubic" in shown
    before = scores(run, pair)
    others = saved(tmp_path / "others", {f"{seed}.png": line(seed) for seed in range(600, 612)})
    assert run("calibrate", others, "--model", "m").returncode == 0
    assert run("index", "--add", pair / "odd1.png", "--model", "m").returncode == 0
    after = scores(run, pair)
    assert (float(after["odd2.png"]), after["odd2.png"]) == (float(after["odd1.png"]), after["odd1.png"])
    assert float(after["odd2.png"]) < float(before["odd2.png"])
    assert read_manifest(str(tmp_path / "m")).preprocessing.reading.part == part
    index()  # and so does an index that is built anew with the same network
    assert read_manifest(str(tmp_path / "m")).preprocessing.reading.part == part
    index("--region", "0,0,192,128")
    assert read_manifest(str(tmp_path / "m")).preprocessing.reading.part == Part(SIZE, (0, 0, *SIZE))


def test_an_image_of_another_size_is_a_row_with_the_reason(run: Run, index: Index, pair: Path) -> None:
    index("--region", REGION)
    line(1).resize((96, 64)).save(pair / "small.png")
    done = run("score", pair, "--model", "m")
    assert done.returncode == 3
    last = rows(done.stdout)[-1]
    assert (Path(last["path"]).name, last["rank"], last["error"]) == (
        "small.png",
        "",
        "96 x 64 pixels, but the model looks at a region of 192 x 128",
    )


def test_of_mixed_normals_the_most_common_size_counts(index: Index, normals: Path, tmp_path: Path) -> None:
    mixed = Path(shutil.copytree(normals, tmp_path / "mixed"))
    for seed in range(3):
        line(seed).crop((0, 0, 128, 128)).save(mixed / f"0{seed}-small.png")
    told = index("--region", REGION, folder=mixed, code=3).splitlines()
    assert [line.partition(": ")[2] for line in told[:3]] == [
        "128 x 128 pixels, but the model looks at a region of 192 x 128"
    ] * 3
    assert sum(line.startswith("skipped ") for line in told) == 3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--region", "100,0,100,50"], "sticks out of the normals, which have 192 x 128 pixels"),
        (["--region", "1,2,0,4"], "--region takes x,y,w,h"),
        (["--mask", "small.png"], "--mask has 20 x 10 pixels, but the normals have 192 x 128"),
        (["--mask", "black.png"], "--mask is black"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(
    index: Index, tmp_path: Path, options: list[str], sentence: str
) -> None:
    Image.new("L", (20, 10), 255).save(tmp_path / "small.png")
    Image.new("L", SIZE, 0).save(tmp_path / "black.png")
    before = read_manifest(str(tmp_path / "m"))
    told = index(*options, code=2)
    assert sentence in told
    assert told.count("\n") == 1
    assert read_manifest(str(tmp_path / "m")) == before


def test_normals_of_another_camera_are_refused_in_one_sentence(
    run: Run, index: Index, tmp_path: Path, normal_folder: Path
) -> None:
    index("--region", REGION)
    told = index(folder=normal_folder, code=2)
    assert "the normals have 96 x 96 pixels, but the model looks at a region of 192 x 128" in told
    done = run("calibrate", normal_folder, "--model", "m")
    assert done.returncode == 1
    assert b"can be read: 96 x 96 pixels, but the model looks at a region of 192 x 128" in done.stderr


def test_adapt_learns_from_the_region(run: Run, small: object, normals: Path, pair: Path) -> None:
    """With a real network: trained, read out and indexed on the region alone."""
    network = ("--backbone", small.name, "--weights", str(small.weights), "--size", str(small.size))  # type: ignore[attr-defined]
    training = ("--method", "panda-es", "--steps", "2", "--holdout", "0.4", "--focus", "both")
    done = run("adapt", normals, "--model", "m", *training, *network, "--region", REGION)
    assert done.returncode == 0, done.stderr.decode()
    found = scores(run, pair)
    assert found["good1.png"] == found["good2.png"]
    assert found["odd1.png"] == found["odd2.png"]
    (graph,) = (pair.parent / "m").glob("extractor-*.onnx")
    told = {entry.key: entry.value for entry in onnx.load(graph).metadata_props}
    assert told["resize"].startswith(f"region {REGION} of 192 x 128 pixels squashed with Pillow, ")


def test_maps_are_measured_where_the_model_looks(run: Run, index: Index, tmp_path: Path) -> None:
    """The second defect lies outside of the region, where no map can point at it."""
    index("--region", REGION)
    good = saved(tmp_path / "good", {f"{i}.png": line(500 + i) for i in range(2)})
    bad = saved(tmp_path / "bad", {f"odd{i}.png": line(510 + i, stain=True) for i in range(2)})
    defect = Image.new("L", SIZE, 0)
    defect.paste(255, (BOX[0] + 48, BOX[1] + 36, BOX[0] + 60, BOX[1] + 48))
    defect.paste(255, (0, 0, 60, 20))
    masks = saved(tmp_path / "masks", {f"odd{i}.png": defect for i in range(2)})
    done = run("evaluate", good, bad, "--model", "m", "--masks", masks, "--json")
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)["localised"]
    assert (found["hits"], found["images"]) == (1.0, 2)
    assert found["pixel_auroc"] > 0.99
