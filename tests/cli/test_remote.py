"""Normals, images, model and output in a remote storage: the rows are those of the same files here."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anomscan.errors import ModelBusy
from anomscan.files import remote
from anomscan.files.cache import cache_folder
from anomscan.model.folder import ModelDraft, read_manifest
from tests.cli.rows import rows
from tests.conftest import REPOSITORY, Run, draw, draw_odd, fake_model

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
PLACES = ("normal", "incoming", "model")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(remote.REMOTE, "_away", False)


@pytest.fixture
def memory() -> Iterator[Any]:
    """A storage in the memory of this process, empty at first and at the end."""
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, normal_folder: Path) -> Path:
    """A folder with normals, incoming images, one of them broken, and a model of the normals."""
    folder = tmp_path_factory.mktemp("line")
    (folder / "normal").symlink_to(normal_folder)
    (folder / "incoming" / "sub").mkdir(parents=True)
    for seed in range(6):
        draw(seed + 50).save(folder / "incoming" / "sub" / f"{seed} ü.png")
    draw_odd(90).save(folder / "incoming" / "odd.png")
    draw(0).save(folder / "incoming" / "copy.png")
    (folder / "incoming" / "broken.png").write_bytes(b"broken")
    (folder / "incoming" / "notes.txt").write_bytes(b"no image")
    fake_model(folder / "normal", folder / "model", 0.5)
    return folder


def upload(system: Any, folder: Path, url: str) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            system.pipe_file(f"{url}/{path.relative_to(folder).as_posix()}", path.read_bytes())


@pytest.fixture
def there(memory: Any, line: Path) -> str:
    """The same, remote."""
    for name in PLACES:
        upload(memory, line / name, f"memory://line/{name}")
    return "memory://line"


def as_local(text: bytes, there: str, here: Path) -> list[dict[str, str]]:
    return rows(text.replace(there.encode(), os.fsencode(here)))


def test_all_four_roles_give_the_rows_of_local_files(
    run: Run, memory: Any, line: Path, there: str, tmp_path: Path
) -> None:
    local = run("score", line / "incoming", "--model", line / "model", "--fpr", "0.1")
    fake_model(f"{there}/normal", f"{there}/own", 0.5)  # type: ignore[arg-type]
    done = run(
        *("score", f"{there}/incoming", "--model", f"{there}/own", "--fpr", "0.1", "-o", f"{there}/out.csv"),
        *("--report", f"{there}/report.html", "--summary", f"{there}/summary.json"),
        *("--normals", f"{there}/normal"),
    )
    assert (done.returncode, local.returncode) == (3, 3)
    assert done.stderr == local.stderr
    written = as_local(memory.cat_file("memory://line/out.csv"), there, line)
    expected = rows(local.stdout)
    assert written == expected
    assert (written[0]["anomalous"], written[0]["path"]) == ("True", str(line / "incoming" / "odd.png"))
    assert written[-1]["error"]
    assert memory.cat_file("memory://line/report.html").startswith(b"<!")
    ours, theirs = read_manifest(f"{there}/own"), read_manifest(str(line / "model"))
    assert ours.data.fingerprint == theirs.data.fingerprint
    assert ours.data.root == f"{there}/normal"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"]


@pytest.mark.parametrize("role", ["incoming", "model", "output"])
def test_each_role_can_be_remote_by_itself(
    run: Run, memory: Any, line: Path, there: str, tmp_path: Path, role: str
) -> None:
    local = run("score", line / "incoming", "--model", line / "model")
    incoming = f"{there}/incoming" if role == "incoming" else line / "incoming"
    model = f"{there}/model" if role == "model" else line / "model"
    output = f"{there}/rows.csv" if role == "output" else tmp_path / "rows.csv"
    assert run("score", incoming, "--model", model, "-o", output).returncode == 3
    text = memory.cat_file(output) if role == "output" else (tmp_path / "rows.csv").read_bytes()
    assert as_local(text, there, line) == rows(local.stdout)
    assert (cache_folder().exists(), role) == (role == "model", role)


def test_paths_on_stdin_may_be_urls(run: Run, line: Path, there: str) -> None:
    names = f"{there}/incoming/odd.png\n{there}/incoming/gone.png\n{line}/incoming/copy.png\n"
    done = run("score", "-", "--model", line / "model", stdin=names.encode())
    assert done.returncode == 3
    found = {row["path"]: row["error"] for row in rows(done.stdout)}
    assert found == {
        f"{there}/incoming/odd.png": "",
        f"{line}/incoming/copy.png": "",
        f"{there}/incoming/gone.png": "No such file or directory",
    }


def test_a_remote_model_is_kept_by_its_checksums_and_verified(
    run: Run, memory: Any, line: Path, there: str
) -> None:
    command = ("score", line / "incoming", "--model", f"{there}/model")
    first = run(*command)
    kept = sorted(cache_folder().iterdir())
    digests = {file.sha256 for file in read_manifest(str(line / "model")).files.values()}
    assert {path.stem for path in kept} <= digests
    for name in memory.ls("memory://line/model", detail=False):
        if not name.endswith(".json") or "-" in name:
            memory.rm_file(name)
    assert run(*command).stdout == first.stdout
    kept[0].write_bytes(b"altered")
    done = run(*command)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert b"lacks" in done.stderr


def test_a_remote_model_of_another_content_is_refused(run: Run, memory: Any, line: Path, there: str) -> None:
    for name in memory.ls("memory://line/model", detail=False):
        if "extractor" in name:
            memory.pipe_file(name, b"another")
    done = run("score", line / "incoming", "--model", f"{there}/model")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert b"its checksum differs" in done.stderr
    assert not [path for path in cache_folder().iterdir() if path.read_bytes() == b"another"]


def test_normals_of_a_remote_model_are_shown_where_they_are_named(run: Run, line: Path, there: str) -> None:
    fake_model(f"{there}/normal", f"{there}/own", 0.5)  # type: ignore[arg-type]
    command = ("score", line / "incoming" / "odd.png", "--model", f"{there}/own", "--report", "r.html")
    assert b"--normals DIR" in run(*command).stderr
    assert run(*command, "--normals", f"{there}/normal").stderr == b""
    assert run(*command, "--normals", f"{there}/nowhere").returncode == 1


def test_normals_are_added_and_removed_and_the_old_files_go(
    run: Run, memory: Any, line: Path, there: str
) -> None:
    fake_model(f"{there}/normal", f"{there}/own", 0.5)  # type: ignore[arg-type]
    before = read_manifest(f"{there}/own")
    assert run("index", "--add", f"{there}/incoming/odd.png", "--model", f"{there}/own").returncode == 0
    after = read_manifest(f"{there}/own")
    assert after.data.images == before.data.images + 1
    names = {name.rpartition("/")[2] for name in memory.ls("memory://line/own", detail=False)}
    assert names == {"model.json", *(file.name for file in after.files.values())}
    assert run("index", "--remove", f"{there}/incoming/odd.png", "--model", f"{there}/own").returncode == 0
    assert read_manifest(f"{there}/own").data.images == before.data.images
    assert run("info", "--model", f"{there}/own").returncode == 0
    assert run("calibrate", f"{there}/incoming/sub", "--model", f"{there}/own").returncode == 0


def test_the_second_of_two_writers_gives_up(memory: Any, there: str) -> None:
    folder = f"{there}/model"
    with ModelDraft.begin(folder) as draft:
        manifest = read_manifest(folder)
        memory.pipe_file(f"{folder}/model.json", memory.cat_file(f"{folder}/model.json") + b"\n")
        draft.keep(manifest, manifest.files)
        with pytest.raises(ModelBusy, match="meanwhile"):
            draft.commit(manifest)
    assert memory.cat_file(f"{folder}/model.json").endswith(b"\n")


class Dropped:
    """Lets a storage fail: the first ``times`` calls of each of some functions, or all."""

    def __init__(self, patch: pytest.MonkeyPatch, memory: Any, names: tuple[str, ...], times: float) -> None:
        self.calls = 0
        for name in names:
            patch.setattr(type(memory), name, self._failing(getattr(type(memory), name), times))

    def _failing(self, own: Any, times: float) -> Any:
        def call(system: Any, *given: Any, **named: Any) -> Any:
            self.calls += 1
            if self.calls <= times:
                raise ConnectionResetError("the line was cut\nand more")
            return own(system, *given, **named)

        return call


FUNCTIONS = ("info", "ls", "cat_file", "get_file", "put_file")


def test_a_connection_that_drops_is_tried_again(
    run: Run, memory: Any, line: Path, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("score", f"{there}/incoming", "--model", f"{there}/model", "-o", f"{there}/out.csv")
    assert run(*command).returncode == 3
    expected = memory.cat_file(f"{there}/out.csv")
    dropped = Dropped(monkeypatch, memory, FUNCTIONS, 2)
    assert run(*command).returncode == 3
    assert memory.cat_file(f"{there}/out.csv") == expected
    assert dropped.calls > 10


def test_an_image_that_cannot_be_reached_is_a_row(
    run: Run, memory: Any, line: Path, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Dropped(monkeypatch, memory, ("cat_file",), float("inf"))
    done = run("score", f"{there}/incoming", "--model", line / "model")
    found = rows(done.stdout)
    assert (done.returncode, len(found)) == (3, 9)
    assert {row["error"] for row in found} == {"the storage cannot be reached (the line was cut)"}


@pytest.mark.parametrize(
    ("functions", "command", "said"),
    [
        (("info",), ("--model", "{there}/model"), "cannot read {there}/model/model.json: the storage cannot"),
        (("get_file",), ("--model", "{there}/model"), "cannot read {there}/model/extractor-"),
        (("info",), ("-o", "{there}/out.csv"), "cannot write {there}/out.csv: the storage cannot be reached"),
        (("put_file",), ("-o", "{there}/out.csv"), "what was to be written there is in {kept}"),
        (("info",), ("{there}/incoming",), "{there}/incoming: the storage cannot be reached"),
    ],
)
def test_a_model_or_an_output_that_cannot_be_reached_is_one_sentence(
    run: Run,
    memory: Any,
    line: Path,
    there: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    functions: tuple[str, ...],
    command: tuple[str, ...],
    said: str,
) -> None:
    Dropped(monkeypatch, memory, functions, float("inf"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = () if "--model" in command else ("--model", line / "model")
    done = run("score", line / "incoming", *(part.format(there=there) for part in command), *model)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    kept = str(tmp_path / "anomscan-")
    assert said.format(there=there, kept=kept) in done.stderr.decode()
    assert not memory.exists("memory://line/out.csv")
    files = [path for path in tmp_path.iterdir() if path.name.endswith("out.csv")]
    assert len(files) == ("put_file" in functions)
    assert all(len(list(csv.DictReader(io.StringIO(file.read_text())))) == 9 for file in files)


@pytest.mark.parametrize(
    "command",
    [
        ("watch", "{there}/incoming"),
        ("watch", "incoming", "--model", "{there}/model"),
        ("watch", "incoming", "-o", "{there}/log.csv"),
        ("evaluate", "{there}/incoming", "incoming"),
        ("score", "{there}/incoming", "--threshold", "1", "--move-anomalous", "aside"),
        ("score", "incoming", "--threshold", "1", "--copy-anomalous", "{there}/aside"),
        ("score", "incoming", "--heatmaps", "{there}/heat"),
        ("score", "incoming", "-o", "{there}/out.csv", "--resume"),
    ],
)
def test_what_works_on_this_machine_only_says_so(
    run: Run, line: Path, there: str, command: tuple[str, ...]
) -> None:
    done = run(*(part.format(there=there) for part in command), cwd=line)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert b"works with files of this machine only, not with memory://line/" in done.stderr
    assert sorted(path.name for path in line.iterdir()) == ["incoming", "model", "normal"]


def test_a_remote_image_named_on_stdin_stays_where_it_is(
    run: Run, line: Path, there: str, tmp_path: Path
) -> None:
    command = ("score", "-", "--model", line / "model", "--fpr", "0.1", "--move-anomalous", "aside")
    done = run(*command, stdin=f"{there}/incoming/odd.png\n".encode())
    assert f"{there}/incoming/odd.png is not on this machine, and stays" in done.stderr.decode()
    assert list((tmp_path / "aside").iterdir()) == []


def test_missing_packages_and_unknown_storages_are_one_sentence(
    run: Run, line: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("score", "--model", line / "model")
    done = run(*command, "nowhere://x")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    done = run(*command, "gs://x/y")
    assert (done.returncode, done.stderr.splitlines()[1:]) == (1, [])
    assert done.stderr.endswith(b"pip install 'anomscan[gs]'\n")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    done = run(*command, "s3://x/y")
    assert (done.returncode, done.stderr.splitlines()[1:]) == (1, [])
    assert done.stderr.endswith(b"pip install 'anomscan[s3]'\n")


def test_local_files_are_scored_without_any_of_it(line: Path, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom anomscan.__main__ import main\n"
        f"sys.argv = ['anomscan', 'score', {str(line / 'incoming')!r}, '--model', {str(line / 'model')!r}]\n"
        "try:\n    main()\nfinally:\n"
        "    names = ('fsspec', 'asyncio', *(f'anomscan.{each}' for each in\n"
        "        ('files.remote', 'files.cache', 'cluster', 'report.parquet')))\n"
        "    print(sorted(set(names) & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.stderr.splitlines()[-1] == "[]"


def test_other_commands_take_urls(run: Run, memory: Any, line: Path, there: str, small: Any) -> None:
    network = ("--backbone", small.name, "--weights", small.weights, "--size", str(small.size))
    model = ("--model", f"{there}/adapted")
    steps = ("--method", "panda-es", "--steps", "1", "--focus", "image", "--holdout", "0.5")
    done = run("adapt", f"{there}/normal", *model, *network, *steps)
    assert done.returncode == 0, done.stderr
    assert read_manifest(f"{there}/adapted").method.steps == 1
    done = run("export", f"{there}/out.onnx", *model, "--images", f"{there}/incoming/sub")
    assert done.returncode == 0, done.stderr
    assert memory.size(f"{there}/out.onnx") > 1000
    assert run("doctor", line, *model).stdout.count(b"every checksum is right") == 1
