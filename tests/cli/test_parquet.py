"""``score --format parquet``: the same rows as CSV, whole or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.rows import rows
from tests.conftest import REPOSITORY, Run, draw, draw_odd


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    folder = tmp_path / "incoming"
    folder.mkdir()
    for seed in range(6):
        draw(seed + 50).save(folder / f"{seed}.png")
    draw_odd(90).save(folder / "odd.png")
    (folder / "broken.png").write_bytes(b"broken")
    return folder


@pytest.mark.parametrize("columns", [(), ("--columns", "image_score,regions")])
def test_rows_are_those_of_csv(
    run: Run, calibrated_folder: Path, incoming: Path, tmp_path: Path, columns: tuple[str, ...]
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    command = ("score", incoming, "--model", calibrated_folder, "--fpr", "0.1", *columns)
    told = run(*command)
    assert run(*command, "-o", "rows.parquet", "--format", "parquet").returncode == told.returncode == 3
    written = parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    assert [
        {name: "" if cell is None else str(cell) for name, cell in row.items()} for row in written
    ] == rows(told.stdout)
    assert (written[0]["anomalous"], written[-1]["score"]) == (True, None)
    piped = run(*command, "--format", "parquet").stdout
    assert piped == (tmp_path / "rows.parquet").read_bytes()


def test_without_pyarrow_nothing_is_done_and_the_extra_is_named(
    run: Run, model_folder: Path, incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    before = sorted(tmp_path.iterdir())
    done = run("score", incoming, "--model", model_folder, "--format", "parquet", "-o", "rows.parquet")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert done.stderr.endswith(b"pip install 'anomscan[parquet]'\n")
    assert sorted(tmp_path.iterdir()) == before


def test_a_run_that_fails_leaves_the_old_file(
    run: Run, model_folder: Path, tmp_path: Path, incoming: Path
) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    (tmp_path / "rows.parquet").write_bytes(b"old")
    for path in incoming.iterdir():
        path.unlink()
    done = run("score", incoming, "--model", model_folder, "--format", "parquet", "-o", "rows.parquet")
    assert done.returncode == 1
    assert (tmp_path / "rows.parquet").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["incoming", "rows.parquet"]


def test_a_watch_appends_lines_only(run: Run, model_folder: Path, incoming: Path) -> None:
    done = run("watch", incoming, "--once", "--model", model_folder, "--format", "parquet")
    assert done.returncode == 2


EXTRAS = ("pyarrow", "fsspec", "s3fs", "ray", "pandas")


def test_no_extra_is_imported_where_it_is_not_used(model_folder: Path, incoming: Path) -> None:
    script = (
        "import sys\nfrom anomscan.__main__ import main\n"
        f"sys.argv = ['anomscan', 'score', {str(incoming)!r}, '--model', {str(model_folder)!r}]\n"
        "try:\n    main()\nfinally:\n"
        f"    print(sorted(set({EXTRAS!r}) & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert json.loads(done.stderr.splitlines()[-1]) == []
