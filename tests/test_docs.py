"""What README and docs say to run, runs; what they point to is there; the reference is the command line's."""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY, draw
from tests.conftest import draw_odd as odd

DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", *sorted(DOCS.glob("*.md"))]
SCRIPT = DOCS / "make_reference.py"
LOOP = "while sleep"
"""A block with this never ends; ``test_the_loop_moves_anomalous_files_and_survives_a_broken_one`` runs it."""
INSTALLS = re.compile(
    r"python3 -m venv \.?\w+"
    r"|\.?\w+/bin/pip install "
    r"(?P<packages>(?:--no-deps )?(?:[\w.-]+|'[\w.\[\]<>=-]+'|-r docs/line/requirements.txt))"
    r"|\.venv/bin/python -m pytest"
)
"""The commands that no test runs: they install, or run the tests themselves."""


def name(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def blocks(page: Path, language: str = "sh") -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def commands(block: str) -> Iterator[str]:
    """What a block runs, without what installs: command by command, or all of it where it branches."""
    if re.search(r"^(case|for|if|while) ", block, re.MULTILINE):
        yield block
        return
    for part in parts(block):
        if not INSTALLS.fullmatch(part):
            yield part.replace(".venv/bin/anomscan ", "anomscan ")


def parts(block: str) -> list[str]:
    return [part.strip() for line in block.splitlines() for part in line.split(" && ")]


def expected_exit(command: str) -> int:
    """10 where anomalies are a failure; 3 with the sample data, of which one file is cut off.

    A block that branches looks at the exit code itself, and ends with 0.
    """
    if "\n" in command:
        return 0
    if "--fail-on-anomaly" in command:
        return 10
    return 3 if re.search(r"sample_data/(incoming|labels\.csv)", command) else 0


def environment(folder: Path, *adapt: str) -> dict[str, str]:
    """One in which ``anomscan`` is this one; ``adapt`` are the options that its ``adapt`` starts with."""
    (folder / "bin").mkdir()
    command, start = folder / "bin" / "anomscan", f"exec {shlex.quote(sys.executable)} -m anomscan"
    command.write_text(
        f'#!/bin/sh\n[ "$1" != adapt ] || {{ shift; set -- adapt {shlex.join(adapt)} "$@"; }}\n{start} "$@"\n'
    )
    command.chmod(0o755)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("ANOMSCAN")}
    return {
        **inherited,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
    }


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, calibrated_folder: Path) -> Path:
    """A reader's folder: images as the docs name them, and a model with p-values from 1/21 up."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(calibrated_folder, folder / "anomscan-model")
    (folder / "sample_data").symlink_to(REPOSITORY / "sample_data")
    seeds = itertools.count(1000)
    for part, images, image in (
        ("normal", 60, draw),
        ("monday", 20, draw),
        ("tuesday", 20, draw),
        ("incoming", 4, draw),
        ("good", 4, draw),
        ("defects", 4, odd),
    ):
        (folder / part).mkdir()
        for seed in itertools.islice(seeds, images):
            image(seed).save(folder / part / f"{seed}.png")
    odd(600).save(folder / "incoming" / "odd.png")
    draw(601).save(folder / "false_alarm.png")
    odd(602).save(folder / "missed.png")
    subprocess.run(
        [sys.executable, "-m", "anomscan", "calibrate", "monday"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "ANOMSCAN_MODEL": "anomscan-model"},
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture
def reader(prepared: Path, tmp_path: Path) -> Path:
    """A copy of that folder, to be changed."""
    return Path(shutil.copytree(prepared, tmp_path / "reader", symlinks=True))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name)
def test_every_command_of_a_page_runs(page: Path, reader: Path, tmp_path: Path, small: Any) -> None:
    """In order, in one folder, each once; ``adapt`` with a small network and nothing trained.

    The default ``adapt`` on ``sample_data`` is run by ``test_the_default_adapt_finds_the_anomalies``.
    """
    quick = ("--method", "none", "--backbone", small.name, "--weights", str(small.weights))
    variables = environment(tmp_path, *quick, "--size", str(small.size))
    printed: dict[str, str] = {}
    for command in (command for block in blocks(page) if LOOP not in block for command in commands(block)):
        if command not in printed:
            assert "anomscan " in command
            done = subprocess.run(
                ["sh", "-c", command], cwd=reader, env=variables, capture_output=True, check=False
            )
            printed[command] = done.stderr.decode()
            assert done.returncode == expected_exit(command), (command, printed[command])
    if page.name == "README.md":
        check_shown_output(printed)


def check_shown_output(printed: dict[str, str]) -> None:
    """The last message under a command of the README is the one that it prints; no score is in it."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```sh\n([^\n]*)\n```\n\n```text\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(shown) == 3
    for command, output in shown:
        assert printed[command].splitlines()[-1] == output.splitlines()[-1]


def test_the_table_of_the_readme_has_the_anomalies_of_the_samples_first() -> None:
    """Ten that are anomalous, then the file that is cut off."""
    with open(REPOSITORY / "sample_data" / "labels.csv", encoding="utf-8", newline="") as file:
        labelled = {row["path"] for row in csv.DictReader(file) if row["anomalous"] == "1"}
    (table,) = [text for text in blocks(REPOSITORY / "README.md", "text") if text.startswith("rank")]
    paths = re.findall(r"sample_data/(incoming/part_\d+\.jpg)", table)
    assert len(set(paths[:10]) & labelled) == 10
    assert paths[10:] == ["incoming/part_003.jpg"]


def test_only_installing_and_the_tests_are_not_run() -> None:
    """What is exempt is what stands here, and it installs what ``pyproject.toml`` names."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    known = {re.split(r"[<>=]", dependency)[0] for dependency in project["dependencies"]}
    known |= {".", *(f".[{extra}]" for extra in project["optional-dependencies"])}
    found = [INSTALLS.fullmatch(part) for page in PAGES for block in blocks(page) for part in parts(block)]
    exempt = [match for match in found if match]
    assert len(exempt) == 8
    for match in exempt:
        packages = (match["packages"] or "").removeprefix("--no-deps ")
        for package in [] if packages.startswith("-r ") else shlex.split(packages):
            assert re.split(r"[<>=]", package)[0] in known
    for other in (
        "line/bin/pip install . ; ls",
        "python3 -m venv a | sh",
        "x/bin/pip install `ls`",
        "wget x",
    ):
        assert not INSTALLS.fullmatch(other)
    fences = [line for page in PAGES for line in re.findall(r"^ *[`~]{3}.*", page.read_text(), re.MULTILINE)]
    assert set(fences) == {"```sh", "```text", "```python", "```"}


def wait_for(what: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_the_loop_moves_anomalous_files_and_survives_a_broken_one(
    calibrated_folder: Path, tmp_path: Path
) -> None:
    (script,) = [block for page in PAGES for block in blocks(page) if LOOP in block]
    (tmp_path / "screen.sh").write_text(script)
    incoming, aside, log = tmp_path / "incoming", tmp_path / "anomalous", tmp_path / "log.jsonl"
    incoming.mkdir()
    draw(0).save(incoming / "normal.png")
    odd(410).save(incoming / "odd =1.png")
    (incoming / "broken.png").write_bytes(b"broken")
    variables = {"ANOMSCAN_MODEL": str(calibrated_folder), "EVERY": "0.2", "FPR": "0.1"}
    process = subprocess.Popen(
        ["sh", "screen.sh"],
        cwd=tmp_path,
        env={**environment(tmp_path), **variables},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: (aside / "odd =1.png").exists())
        odd(411).save(tmp_path / "second.png")
        os.utime(tmp_path / "second.png", (1e9, 1e9))  # it is older than the last round
        shutil.copy2(tmp_path / "second.png", incoming / "copied.png")  # cp -p
        shutil.copy2(tmp_path / "second.png", incoming / ".synced.png.XYZ")  # rsync -t, or written aside
        (incoming / ".synced.png.XYZ").rename(incoming / "synced.png")
        (tmp_path / "second.png").rename(incoming / "odd =1.png")
        brought = ("copied.png", "synced.png", "odd =1-1.png")
        wait_for(lambda: all((aside / name).exists() for name in brought))
        assert process.poll() is None
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate()
    assert sorted(path.name for path in incoming.iterdir()) == ["broken.png", "normal.png"]
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["anomalous"] for row in rows if row["path"] == "incoming/normal.png"] == [False]
    assert [row["path"] for row in rows if row["error"]] == ["incoming/broken.png"]


def test_the_service_starts_what_its_unit_says_and_ends_well(reader: Path, tmp_path: Path) -> None:
    (unit,) = [block for page in PAGES for block in blocks(page, "text") if "[Service]" in block]
    (command,) = re.findall(r"^ExecStart=/line/bin/(anomscan .*)$", unit, re.MULTILINE)
    variables = {**environment(tmp_path), "ANOMSCAN_MODEL": "anomscan-model"}
    process = subprocess.Popen(["sh", "-c", f"exec {command}"], cwd=reader, env=variables)
    try:
        wait_for(lambda: (reader / "anomalous" / "odd.png").exists())
    finally:
        process.terminate()
    assert process.wait(60) == 0
    rows = [json.loads(line) for line in (reader / "log.jsonl").read_text().splitlines()]
    assert sorted(row["path"] for row in rows if row["anomalous"]) == ["incoming/odd.png"]
    assert len(rows) == 5


def check_reference(script: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script), "--check"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_reference_is_what_the_command_line_says(tmp_path: Path) -> None:
    assert runpy.run_path(str(SCRIPT))["reference"]() == (DOCS / "reference.md").read_text(encoding="utf-8")
    assert runpy.run_path(str(SCRIPT))["manual"]() == (DOCS / "anomscan.1").read_text(encoding="utf-8")
    done = check_reference(SCRIPT, COLUMNS="40")
    assert (done.returncode, done.stderr) == (0, "")
    stale = shutil.copy(SCRIPT, tmp_path)
    (tmp_path / "reference.md").write_text("# Reference\n")
    done = check_reference(Path(stale))
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


def test_the_manual_page_is_read_as_it_was_meant() -> None:
    roff = runpy.run_path(str(SCRIPT))["roff"]
    assert roff("'tis .5 of a\\b -x") == r"\&'tis .5 of a\eb \-x"
    if shutil.which("groff") is None:
        pytest.skip("no groff to read it with")
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", DOCS / "anomscan.1"], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    plain = re.sub(".\x08", "", done.stdout)
    assert re.search(r"^ +--fail-on-anomaly$", plain, re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_point_to_something(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        file = page.parent / target if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


def test_every_page_is_linked_from_the_readme() -> None:
    readme = PAGES[0].read_text(encoding="utf-8")
    assert not [name(page) for page in PAGES[1:] if f"({name(page)})" not in readme]
    assert len(readme.splitlines()) <= 120
    assert (DOCS / "report.png").stat().st_size < 300_000


def test_every_command_and_preset_is_in_the_docs() -> None:
    from typer.main import get_command

    from anomscan.adapt.presets import PRESETS
    from anomscan.cli import app

    pages = "".join(page.read_text(encoding="utf-8") for page in (PAGES[0], DOCS / "reference.md"))
    names = list(get_command(app).commands)
    assert len(names) >= 7
    assert not [command for command in names if f"anomscan {command}" not in pages]
    methods = (DOCS / "methods.md").read_text(encoding="utf-8")
    assert not [preset for preset in PRESETS if f"\n| `{preset}`" not in methods]
