"""Small runs of the benchmarks that attack: mutated images, images that want all memory, tampered models."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY, draw, draw_odd

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="they measure memory as Linux does")


def benchmark(name: str) -> dict[str, Any]:
    return runpy.run_path(str(REPOSITORY / "benchmarks" / f"{name}.py"))


APART = """
import json, runpy, sys
from pathlib import Path
script, function, places, options = json.loads(sys.argv[1])
found = runpy.run_path(script)[function](*map(Path, places), **options)
print(json.dumps(found))
"""


def apart(name: str, function: str, *places: Path, **options: Any) -> Any:
    """What a function of a benchmark gives in a small process: a child begins with the peak of its parent."""
    script = str(REPOSITORY / "benchmarks" / f"{name}.py")
    asked = json.dumps([script, function, [*map(str, places)], options])
    done = subprocess.run(
        [sys.executable, "-c", APART, asked],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_mutated_images_are_rows(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    fuzz = benchmark("fuzz_images")
    assert len(fuzz["seeds"]()) >= 40
    for files, done in ((150, 150), (150, 150), (300, 300)):  # it goes on where it stopped
        state = fuzz["run"](model_folder, tmp_path, files, 150, [])
        assert state.failures == []
        assert state.next == state.scored + state.unreadable == done
    assert min(state.scored, state.unreadable) > 50


def test_images_that_want_all_memory_are_rows_and_their_neighbours_are_scored(
    model_folder: Path, tmp_path: Path
) -> None:
    bench = benchmark("decode_memory")
    folder = tmp_path / "images"
    folder.mkdir()
    for name, make in bench["bombs"](40_000).items():
        if name in ("palette-1.png", "rgb.png", "header.jpg", "header-progressive.jpg"):
            content = make()
            for number in range(2):
                (folder / f"{number}-{name}").write_bytes(content)
    for seed in range(6):
        draw(seed).save(folder / f"ordinary-{seed}.png")
    code, rows, said, peak = apart(
        "decode_memory", "measured", folder, model_folder, further=["--threads", "8"]
    )
    errors = {Path(row["path"]).name: row["error"] for row in rows}
    assert code == 3
    assert len(rows) == 14
    assert sum(not error for error in errors.values()) == 6
    assert not any(error for name, error in errors.items() if name.startswith("ordinary"))
    assert "over the limit" in errors["0-palette-1.png"]
    assert "of memory, over the limit of 1.0 GB; --max-pixels " in errors["1-rgb.png"]
    assert "cannot hold the 40000 x 40000 pixels" in errors["1-header.jpg"]
    assert said.splitlines() == ["8 of 14 files could not be read"]
    assert peak < 1_500_000_000


@pytest.mark.parametrize("start", [0, 5])
def test_tampered_models_are_refused_or_harmless(fake_patch_model: Path, tmp_path: Path, start: int) -> None:
    (tmp_path / "images").mkdir()
    for seed in range(3):
        draw(500 + seed).save(tmp_path / "images" / f"{seed}.png")
    draw_odd(1).save(tmp_path / "images" / "odd.png")
    places = (fake_patch_model, tmp_path / "images", tmp_path / "work")
    found = apart("tamper", "run", *places, every=19, start=start)
    counts = Counter(what.partition(":")[0] for what in found.values())
    assert len(found) >= 10
    assert counts["FAILED"] == 0, found
    assert counts["refused"] > len(found) / 3
