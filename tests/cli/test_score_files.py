"""Which files ``score`` looks at, what it makes of their pages, and what it says of the others."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomscan.model.folder import ModelDraft, read_manifest
from anomscan.model.model import NORMALS, read_model, write_normals
from tests.cli.rows import rows
from tests.conftest import Run, draw, draw_odd, fake_model


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Three images and what lies about in folders."""
    folder = tmp_path / "files"
    for name in (
        "a.png",
        "b.pgm",
        "sub/c.jpg",
        ".hidden.png",
        ".Trash-1000/files/deleted.png",
        "@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg",
        "#recycle/old.png",
        "$RECYCLE.BIN/$R1.png",
        "sub/a_mask.png",
        "masks/a.png",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        draw(len(name)).convert("L").save(folder / name)
    for name in ("Thumbs.db", "x.jp2", "y.JP2", "readme", "sub/z.raw"):
        (folder / name).touch()
    return folder


def names(output: bytes, folder: Path) -> list[str]:
    return sorted(os.path.relpath(row["path"], folder) for row in rows(output))


def test_what_is_not_looked_at_is_counted_on_stderr_and_in_the_summary(
    run: Run, model_folder: Path, files: Path, tmp_path: Path
) -> None:
    done = run("score", files, "--model", model_folder, "--summary", "s.json", "--exclude", "*_mask.png")
    assert done.returncode == 0
    assert names(done.stdout, files) == ["a.png", "b.pgm", "masks/a.png", "sub/c.jpg"]
    said = done.stderr.decode().splitlines()
    assert said[0].startswith("5 files without an image suffix were not looked at (.jp2 2, ")
    assert said[1:] == ["5 hidden or system names were passed over", "1 name was excluded"]
    summary = json.loads((tmp_path / "s.json").read_text())
    assert summary["not_looked_at"] == {".jp2": 2, ".raw": 1, ".db": 1, "none": 1}
    assert summary["passed_over"] == {"hidden": 5, "excluded": 1}
    assert summary["notes"] == said
    again = run("score", files, "--model", model_folder, "--exclude", "masks", "--exclude", "sub/a_*")
    assert names(again.stdout, files) == ["a.png", "b.pgm", "sub/c.jpg"]


def test_what_is_named_outright_counts(run: Run, model_folder: Path, files: Path) -> None:
    (files / "frame.dat").write_bytes((files / "a.png").read_bytes())
    named = [files / ".hidden.png", files / ".Trash-1000", files / "frame.dat", files / "sub" / "a_mask.png"]
    done = run("score", *named, "--model", model_folder, "--exclude", "*_mask.png")
    assert names(done.stdout, files) == [
        ".Trash-1000/files/deleted.png",
        ".hidden.png",
        "frame.dat",
        "sub/a_mask.png",
    ]


def test_a_deleted_defect_does_not_become_a_normal(
    run: Run, calibrated_folder: Path, files: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(calibrated_folder, tmp_path / "m")
    done = run("index", files, "--model", model, "--exclude", "*_mask.png")
    assert done.returncode == 0
    assert "5 hidden or system names were passed over" in done.stderr.decode()
    normals = sorted(os.path.relpath(path, files) for path in read_model(str(model), 1).normals)
    assert normals == ["a.png", "b.pgm", "masks/a.png", "sub/c.jpg"]
    done = run("index", files, "--model", tmp_path / "new", "--exclude", "*")
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert "names were excluded" in done.stderr.decode()


def test_the_place_of_anomalous_images_is_never_walked(
    run: Run, calibrated_folder: Path, judged: Path
) -> None:
    """It lies inside of what is walked, under another name too; the second run has nothing to move twice."""
    decide = ("--model", calibrated_folder, "--fpr", "0.1")
    aside = judged / "aside"
    first = run("score", judged, *decide, "--move-anomalous", aside)
    moved = sorted(path.name for path in aside.iterdir())
    assert {"odd.png", "=odd.png"} <= set(moved)
    (judged / "again").symlink_to(aside)
    for option in ("--move-anomalous", "--copy-anomalous"):
        done = run("score", ".", *decide, option, "./aside/../aside", cwd=judged)
        assert not any("aside" in row["path"] or "again" in row["path"] for row in rows(done.stdout))
    assert sorted(path.name for path in aside.iterdir()) == moved
    assert len(rows(first.stdout)) == 8
    named = run("score", aside / "odd.png", *decide, "--move-anomalous", aside)
    assert f"{aside}/odd.png is in {aside} already" in named.stderr.decode()
    assert sorted(path.name for path in aside.iterdir()) == moved


def test_files_that_are_young_are_left_for_the_next_run(
    run: Run, model_folder: Path, incoming: Path, tmp_path: Path
) -> None:
    os.utime(incoming / "0.png", (0, 0))  # as ``cp -p`` leaves it
    done = run("score", incoming, "--model", model_folder, "--min-age", "600", "--summary", "s.json")
    assert (done.returncode, rows(done.stdout)) == (0, [])
    assert done.stderr.decode() == "6 files are too young and were left for the next run\n"
    assert json.loads((tmp_path / "s.json").read_text())["passed_over"] == {"young": 6}
    time.sleep(0.3)
    draw(0).save(incoming / "new.png")
    some = run("score", incoming, "--model", model_folder, "--min-age", "0.25")
    assert names(some.stdout, incoming) == [f"{i}.png" for i in range(6)]
    assert b"1 file is too young" in some.stderr
    nothing = run("score", ".", "--model", model_folder, "--exclude", "*")
    assert (nothing.returncode, nothing.stdout) == (1, b"")
    assert nothing.stderr.startswith(b"anomscan: no images to score: ")


def film(path: Path) -> None:
    draw(1).save(path, save_all=True, append_images=[draw_odd(2), draw(3)])


def test_pages_are_counted_or_looked_at_each(
    run: Run, calibrated_folder: Path, incoming: Path, tmp_path: Path
) -> None:
    film(incoming / "film.tif")
    film(incoming / "film.gif")
    decide = ("--model", calibrated_folder, "--fpr", "0.1", "--summary", "s.json")
    first = run("score", incoming, *decide)
    assert len(rows(first.stdout)) == 8
    note = "2 files have further pages or frames that were not looked at; see --pages all"
    assert note in first.stderr.decode()
    assert json.loads((tmp_path / "s.json").read_text())["remarks"]["further_pages"] == 2
    every = run("score", incoming, *decide, "--pages", "all", "--report", "r.html")
    found = {os.path.relpath(row["path"], incoming): row for row in rows(every.stdout)}
    assert len(found) == 12
    assert {name for name in found if "#" in name} == {
        f"film.{suffix}#{page}" for suffix in ("tif", "gif") for page in (1, 2, 3)
    }
    assert (found["film.tif#2"]["anomalous"], found["film.tif#3"]["anomalous"]) == ("True", "False")
    assert "further pages" not in every.stderr.decode()
    moved = run("score", incoming, *decide, "--pages", "all", "--move-anomalous", tmp_path / "aside")
    assert moved.returncode == 0
    assert not (incoming / "film.tif").exists()  # once, as a file
    assert {path.name for path in (tmp_path / "aside").iterdir()} >= {"film.tif", "film.gif"}


def test_a_file_may_end_like_a_page(run: Run, model_folder: Path, incoming: Path) -> None:
    (incoming / "0.png").rename(incoming / "0.png#2.png")
    assert "0.png#2.png" in names(run("score", incoming, "--model", model_folder).stdout, incoming)


def test_max_pixels(run: Run, model_folder: Path, incoming: Path) -> None:
    draw(0, side=200).save(incoming / "wide.png")
    done = run("score", incoming, "--model", model_folder, "--max-pixels", "20000")
    assert done.returncode == 3
    (refused,) = [row for row in rows(done.stdout) if row["error"]]
    assert (Path(refused["path"]).name, refused["error"]) == (
        "wide.png",
        "200 x 200 pixels are over the limit; see --max-pixels",
    )
    assert run("score", incoming, "--model", model_folder, "--max-pixels", "40000").returncode == 0


def test_images_of_another_range_or_of_one_colour_or_all_alike_are_said(run: Run, tmp_path: Path) -> None:
    for seed in range(20):
        deep = np.asarray(draw(seed).convert("L")).astype(np.uint16) * 16
        (tmp_path / "normal").mkdir(exist_ok=True)
        Image.fromarray(deep).save(tmp_path / "normal" / f"{seed}.png")
    fake_model(tmp_path / "normal", tmp_path / "m")
    (tmp_path / "new").mkdir()
    for seed in range(4):
        deep = np.asarray(draw(30 + seed).convert("L")).astype(np.uint16) * (16 if seed else 64)
        Image.fromarray(deep).save(tmp_path / "new" / f"{seed}.png")
    Image.new("L", (96, 96), 7).save(tmp_path / "new" / "flat.png")
    done = run("score", "new", "--model", "m", "--summary", "s.json")
    assert done.stderr.decode().splitlines() == [
        "1 image has over 1 % of pixels outside the normals' range of levels",
        "1 image is of one single colour",
    ]
    assert json.loads((tmp_path / "s.json").read_text())["remarks"] == {
        "clipped": 1,
        "flat": 1,
        "thumbnail": 0,
        "further_pages": 0,
    }
    (tmp_path / "stuck").mkdir()
    for i in range(6):
        Image.new("L", (96, 96), 40).save(tmp_path / "stuck" / f"{i}.png")
    said = run("score", "stuck", "--model", "m").stderr.decode().splitlines()
    assert said == [
        "all 6 images look the same: is the camera stuck, the lens capped, the range of grey levels another?",
        "6 images are of one single colour",
    ]


def test_an_alpha_channel_of_zeros_hides_no_defect(run: Run, calibrated_folder: Path, tmp_path: Path) -> None:
    """It became white before: all scores 0, all p-values 1."""
    for name, image in (("odd", draw_odd(1)), ("good", draw(2))):
        bgrx = image.convert("RGBA")
        bgrx.putalpha(0)
        bgrx.save(tmp_path / f"{name}.png")
    done = run("score", "odd.png", "good.png", "--model", calibrated_folder, "--fpr", "0.1")
    assert [(row["path"], row["anomalous"]) for row in rows(done.stdout)] == [
        ("odd.png", "True"),
        ("good.png", "False"),
    ]


def test_a_broken_exif_block_is_no_reason(run: Run, model_folder: Path, tmp_path: Path) -> None:
    draw(0).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12")
    done = run("score", "a.jpg", "--model", model_folder)
    assert (done.returncode, done.stderr) == (0, b"")  # no warning that names no file either


def test_a_list_with_the_line_ends_of_windows(run: Run, model_folder: Path, incoming: Path) -> None:
    listed = b"".join(os.fsencode(incoming / f"{i}.png") + b"\r\n" for i in range(3))
    done = run("score", "-", "--model", model_folder, stdin=listed)
    assert (done.returncode, names(done.stdout, incoming)) == (0, ["0.png", "1.png", "2.png"])
    (incoming / "0.png").rename(incoming / "0.png\r")
    done = run("score", "-", "--model", model_folder, stdin=os.fsencode(incoming / "0.png") + b"\r\n")
    assert (done.returncode, names(done.stdout, incoming)) == (0, ["0.png\r"])
    gone = run("score", "-", "--model", model_folder, stdin=b"gone.png\r\n")
    assert [row["path"] for row in rows(gone.stdout)] == ["gone.png"]


@pytest.mark.parametrize("verb", ["--move-anomalous", "--copy-anomalous"])
def test_of_a_link_the_file_is_delivered(
    run: Run, calibrated_folder: Path, tmp_path: Path, verb: str
) -> None:
    (tmp_path / "real").mkdir()
    draw_odd(1).save(tmp_path / "real" / "odd.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.png").symlink_to("../real/odd.png")
    run("score", "in", "--model", calibrated_folder, "--fpr", "0.1", verb, "deep/er/aside")
    delivered = tmp_path / "deep" / "er" / "aside" / "link.png"
    assert not delivered.is_symlink()
    assert delivered.read_bytes() == (tmp_path / "real" / "odd.png").read_bytes()
    assert (tmp_path / "in" / "link.png").is_symlink() == (verb == "--copy-anomalous")


def test_one_normal_is_a_model(run: Run, calibrated_folder: Path, incoming: Path, tmp_path: Path) -> None:
    """Its neighbours are as many as there are normals, and come back when there are more."""
    model = shutil.copytree(calibrated_folder, tmp_path / "m")
    (tmp_path / "one").mkdir()
    draw(0).save(tmp_path / "one" / "a.png")
    done = run("index", "one", "--model", model)
    assert (done.returncode, "--k" in done.stderr.decode()) == (0, False)
    assert "wrote" in done.stderr.decode()
    found = rows(run("score", incoming, "--model", model).stdout)
    assert len(found) == 6
    assert all(0 < float(row["score"]) <= 2 for row in found)
    refused = run("score", incoming, "--model", model, "--k", "2")
    assert (refused.returncode, "the largest possible --k is 1" in refused.stderr.decode()) == (1, True)
    assert run("index", incoming, "--model", model).returncode == 0
    scorer = json.loads((model / "model.json").read_text())["scorer"]
    assert scorer["k"] == 2


def test_normals_that_show_nothing_are_refused_in_a_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "capped").mkdir()
    for i in range(12):
        noise = np.random.default_rng(i).integers(0, 4, (96, 96), np.uint8)
        Image.fromarray(noise).save(tmp_path / "capped" / f"{i:02}.png")
    for verb in ("adapt", "index"):
        done = run(verb, "capped")
        assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
        assert "the 12 normal images are all but identical (capped/00.png, " in done.stderr.decode()
    assert not (tmp_path / "anomscan-model").exists()


def test_a_report_shows_no_picture_from_outside_of_the_normals_unless_it_may(
    run: Run, model_folder: Path, incoming: Path, tmp_path: Path
) -> None:
    private = tmp_path / "private"
    private.mkdir()
    draw_odd(1).save(private / "a.png")
    folder = Path(shutil.copytree(model_folder, tmp_path / "m"))
    manifest = read_manifest(str(folder))
    with ModelDraft.begin(str(folder)) as draft:
        draft.keep(manifest, manifest.files.keys() - {NORMALS})
        draft.put(write_normals(draft.scratch, [str(private / "a.png")] * 20)).commit(manifest)
    asked = ("score", incoming, "--model", folder, "--report", "r.html")
    done = run(*asked)
    assert done.returncode == 0
    assert b"1 normal is not opened, outside of " in done.stderr
    assert b"--normals DIR" in done.stderr
    shown = (tmp_path / "r.html").read_text().count("data:image/webp")
    assert shown == 6
    done = run(*asked, "--normals", private)
    assert b"--normals" not in done.stderr
    assert (tmp_path / "r.html").read_text().count("data:image/webp") == 7
    assert run("score", incoming, "--model", folder, "--normals", private).returncode == 2
