"""The programs of docs/deploy.md score as ``score`` does, without anomscan."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
from PIL import Image

from anomscan.fit.export_scored import ScoredOptions, export_scored
from anomscan.images.decode import decode
from anomscan.model.model import read_model
from anomscan.screen.screener import Scored, Screener
from tests.conftest import REPOSITORY, draw, draw_odd, silent
from tests.test_docs import DOCS, blocks

SOURCE = DOCS / "examples" / "score.cpp"
COMPILER = shutil.which("c++")
PLACES = [Path(os.environ.get("ONNXRUNTIME_DIR", "/nowhere")), Path("/usr"), Path("/usr/local")]
HEADERS = [
    header.parent
    for place in PLACES
    for header in sorted((place / "include").glob("**/onnxruntime_cxx_api.h"))[:1]
]
LIBRARIES = [
    library
    for folder in (*(place / "lib" for place in PLACES), Path(onnxruntime.__file__).parent / "capi")
    for library in sorted(folder.glob("**/libonnxruntime.so*"))
    if library.is_file()  # headers come with a link to a library that may not have come
]
MISSING = (
    "no onnxruntime_cxx_api.h below /usr/include, /usr/local/include or $ONNXRUNTIME_DIR/include: it comes "
    "with libonnxruntime-dev (Debian 13 and later) or with an archive of onnxruntime's release"
)


@pytest.fixture
def exported(calibrated_folder: Path, tmp_path: Path) -> Path:
    export_scored(str(calibrated_folder), str(tmp_path / "model.onnx"), ScoredOptions(), silent)
    return tmp_path / "model.onnx"


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """A PNG, a greyscale one, a large JPEG, one that lies on its side, and an odd image."""
    paths = [tmp_path / name for name in ("a.png", "grey.png", "large.jpg", "turned.jpg", "odd.png")]
    draw(400).save(paths[0])
    draw(401).convert("L").save(paths[1])
    draw(402).resize((1600, 1200)).save(paths[2], quality=90)
    turned = Image.Exif()
    turned[0x0112] = 6
    draw(403).save(paths[3], exif=turned)
    draw_odd(404).save(paths[4])
    return paths


def scored(folder: Path, images: list[Path]) -> Scored:
    model = read_model(str(folder), threads=1)
    return Screener(model).batch([decode(str(path), model.manifest.preprocessing) for path in images])


def test_python(exported: Path, calibrated_folder: Path, images: list[Path], tmp_path: Path) -> None:
    (block,) = blocks(DOCS / "deploy.md", "python")
    assert "anomscan" not in block
    done = subprocess.run(
        [sys.executable, "-c", block, exported, *images],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.rsplit(",", 2) for line in done.stdout.splitlines()]
    expected = scored(calibrated_folder, images)
    assert [row[0] for row in rows] == [str(path) for path in images]
    assert [float(row[1]) for row in rows] == pytest.approx(expected.scores.tolist(), rel=2e-4, abs=2e-6)
    assert expected.p_values is not None
    assert [float(row[2]) for row in rows] == pytest.approx(expected.p_values.tolist(), rel=1e-6)


@pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")
@pytest.mark.skipif(not HEADERS, reason=MISSING)
@pytest.mark.skipif(not LIBRARIES, reason="there is no libonnxruntime.so")
def test_cpp(exported: Path, calibrated_folder: Path, images: list[Path], tmp_path: Path) -> None:
    program = tmp_path / "score"
    library = LIBRARIES[0]
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):  # the Python package has it by its whole number
        (tmp_path / name).symlink_to(library)
    subprocess.run(
        [
            *(str(COMPILER), "-std=c++17", "-Wall", "-Wextra", "-Werror", f"-isystem{HEADERS[0]}"),
            *(str(SOURCE), f"-L{tmp_path}", "-lonnxruntime", f"-Wl,-rpath,{tmp_path}:{library.parent}"),
            *("-o", str(program)),
        ],
        cwd=REPOSITORY,
        check=True,
    )
    expected = scored(calibrated_folder, images)
    assert expected.p_values is not None
    for i, image in enumerate(expected.images):
        (tmp_path / "pixels").write_bytes(image.pixels.tobytes())
        done = subprocess.run(
            [program, exported, tmp_path / "pixels"], capture_output=True, text=True, check=True
        )
        found = dict(line.split() for line in done.stdout.splitlines())
        assert float(found["score"]) == pytest.approx(expected.scores[i], rel=2e-4, abs=2e-6)
        assert float(found["p_value"]) == pytest.approx(expected.p_values[i], rel=1e-6)
