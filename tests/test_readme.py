"""What the README says to run, run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.conftest import REPOSITORY, draw


def wait_for(what: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_the_loop_moves_anomalous_files_and_survives_a_broken_one(
    calibrated_folder: Path, tmp_path: Path
) -> None:
    readme = (REPOSITORY / "README.md").read_text()
    (script,) = [block for block in re.findall(r"```sh\n(.*?)```", readme, re.DOTALL) if "while" in block]
    (tmp_path / "screen.sh").write_text(script)
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "anomscan"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m anomscan "$@"\n')
    command.chmod(0o755)
    incoming, aside, log = tmp_path / "incoming", tmp_path / "anomalous", tmp_path / "log.jsonl"
    incoming.mkdir()
    draw(0).save(incoming / "normal.png")
    draw(410).rotate(45).resize((96, 30)).save(incoming / "odd =1.png")
    (incoming / "broken.png").write_bytes(b"broken")
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "ANOMSCAN_MODEL": str(calibrated_folder),
        "EVERY": "0.2",
        "FPR": "0.1",
    }
    process = subprocess.Popen(
        ["sh", "screen.sh"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        wait_for(lambda: (aside / "odd =1.png").exists() and (tmp_path / "screened").stat().st_mtime > 0)
        draw(411).rotate(45).resize((96, 30)).save(tmp_path / "second.png")
        (tmp_path / "second.png").rename(incoming / "odd =1.png")
        os.utime(incoming / "odd =1.png")
        wait_for(lambda: (aside / "odd =1-1.png").exists())
        assert process.poll() is None
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate()
    assert sorted(path.name for path in incoming.iterdir()) == ["broken.png", "normal.png"]
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["anomalous"] for row in rows if row["path"] == "incoming/normal.png"] == [False]
    assert [row["path"] for row in rows if row["error"]] == ["incoming/broken.png"]
