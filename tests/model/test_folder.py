from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from anomscan.errors import ModelBusy, ModelDamaged, ModelError, ModelNotFound, OutputError
from anomscan.model.folder import MANIFEST, ModelDraft, linked, read_manifest, verified
from anomscan.model.manifest import Manifest
from anomscan.model.model import NORMALS, read_model
from anomscan.network.network import EXTRACTOR, WEIGHTS
from anomscan.scoring.base import INDEX
from tests.conftest import REPOSITORY
from tests.model.models import put_normals, replace_model

DAY = 24 * 3600


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def of(manifest: Manifest) -> set[str]:
    """What a folder with this model holds."""
    return {file.name for file in manifest.files.values()} | {MANIFEST, ".lock"}


@pytest.fixture
def _no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_the_folder_holds_what_the_manifest_says_and_nothing_else(folder: Path) -> None:
    manifest = replace_model(folder, 5)
    assert read_manifest(str(folder)) == manifest
    assert names(folder) == of(manifest)
    model = read_model(str(folder), threads=1)
    assert len(model.gallery) == len(model.normals) == 5


def test_everybody_may_read_what_was_written(folder: Path) -> None:
    for name in of(replace_model(folder, 5)) - {".lock"}:
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o644


def test_no_model(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "none", tmp_path, tmp_path / "file"):
        with pytest.raises(ModelNotFound, match="anomscan adapt"):
            read_manifest(str(folder))


def test_a_manifest_that_cannot_be_read_is_a_model_error(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(ModelError, match="is not a regular file"):
        read_manifest(str(tmp_path))


@pytest.mark.parametrize("role", [EXTRACTOR, INDEX, NORMALS])
def test_a_tampered_or_missing_file(folder: Path, role: str) -> None:
    manifest = read_manifest(str(folder))
    path = folder / manifest.files[role].name
    assert verified(str(folder), manifest, role) == path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for read in (lambda: verified(str(folder), manifest, role), lambda: read_model(str(folder), threads=1)):
        with pytest.raises(ModelDamaged, match="checksum differs"):
            read()
    path.unlink()
    with pytest.raises(ModelDamaged, match="lacks"):
        read_model(str(folder), threads=1)


def test_a_manifest_without_a_file_it_needs(folder: Path) -> None:
    data = json.loads((folder / MANIFEST).read_text())
    del data["files"]["scorer"]
    (folder / MANIFEST).write_text(json.dumps(data))
    with pytest.raises(ModelDamaged, match="names no scorer file"):
        read_model(str(folder), threads=1)


def test_a_tampered_calibration(calibrated_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(calibrated_folder, tmp_path / "m"))
    with open(next(folder.glob("calibration-*")), "ab") as file:
        file.write(b"!")
    with pytest.raises(ModelDamaged, match="checksum differs"):
        read_model(str(folder), threads=1)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match="cannot write the model folder"),
        ModelDraft.begin(str(tmp_path / "file" / "model")),
    ):
        pytest.fail("the block must not run")


def test_a_failed_first_model_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), ModelDraft.begin(str(tmp_path / "new")) as draft:
        (draft.scratch / "half").write_text(str(1 // 0))
    with ModelDraft.begin(str(tmp_path / "new")) as draft:
        assert draft.base() is None
    assert names(tmp_path) == set()


def test_what_was_in_the_folder_stays_where_nothing_is_committed(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with ModelDraft.begin(str(tmp_path)):
        assert len(names(tmp_path)) == 3
    assert names(tmp_path) == {"mine.txt"}


def test_a_failed_change_leaves_the_old_model(folder: Path) -> None:
    before = replace_model(folder, 3)

    def fail() -> None:
        with ModelDraft.begin(str(folder)) as draft:
            assert draft.base() == before
            put_normals(draft, 4)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert read_manifest(str(folder)) == before
    assert names(folder) == of(before)


def test_a_full_disk_leaves_the_old_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, replace = replace_model(folder, 3), os.replace
    for fails in (1, 3, 6):
        left = iter(range(fails, -1, -1))

        def run_full(source: Path, target: str, left: Iterator[int] = left) -> None:
            if next(left, 0) <= 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            replace(source, target)

        monkeypatch.setattr(os, "replace", run_full)
        with pytest.raises(OutputError, match=r"cannot write the model folder .*: No space left on device"):
            replace_model(folder, 4)
        monkeypatch.undo()
        assert read_manifest(str(folder)) == before
        assert read_model(str(folder), threads=1).normals[0] == "/3/0.png"
    assert of(replace_model(folder, 5)) == names(folder)


def test_another_file_of_ours_in_the_folder_stays(folder: Path) -> None:
    others = {"notes.txt", "index-old.faiss", "extractor.onnx"}
    for name in others:
        (folder / name).touch()
    assert of(replace_model(folder, 3)) | others == names(folder)


def test_files_of_the_old_model_are_kept_by_links(folder: Path) -> None:
    before = read_manifest(str(folder))
    inode = (folder / before.files[EXTRACTOR].name).stat().st_ino
    after = replace_model(folder, 3)
    assert after.files[EXTRACTOR] == before.files[EXTRACTOR]
    assert (folder / after.files[EXTRACTOR].name).stat().st_ino == inode


def test_where_there_are_no_links_there_are_copies(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    manifest = read_manifest(str(folder))
    files = linked(str(folder), manifest, (EXTRACTOR, WEIGHTS), tmp_path)
    for role, path in files.items():
        assert path.read_bytes() == (folder / manifest.files[role].name).read_bytes()
    assert of(replace_model(folder, 3)) == names(folder)


def test_a_damaged_file_is_not_kept(folder: Path) -> None:
    manifest = read_manifest(str(folder))
    (folder / manifest.files[WEIGHTS].name).write_bytes(b"else")
    with pytest.raises(ModelDamaged, match="checksum differs"):
        replace_model(folder, 3)
    assert read_manifest(str(folder)) == manifest


def test_a_reader_never_sees_a_mixture(folder: Path) -> None:
    replace_model(folder, 3)
    stop = threading.Event()

    def write() -> None:
        for i in range(20):
            replace_model(folder, 3 + i % 4)
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    reads = 0
    while not stop.is_set() or reads == 0:
        model = read_model(str(folder), threads=1)
        assert model.normals[0] == f"/{len(model.gallery)}/0.png"
        reads += 1
    writer.join()


KILLER = """
import os, signal, sys
from pathlib import Path
calls, deaths = 0, int(sys.argv[2])
def deadly(function):
    def call(*arguments, **keywords):
        global calls
        calls += 1
        if calls == deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **keywords)
    return call
from tests.model.models import replace_model
from anomscan.model.folder import read_manifest
for name in ("replace", "fsync", "unlink", "chmod", "rmdir", "link", "truncate", "mkdir"):
    setattr(os, name, deadly(getattr(os, name)))
# every death in a process of its own, forked from this one, which has imported all
for deaths in range(1, 200):
    count = 3 + deaths % 2
    child = os.fork()
    if not child:
        calls = 0
        replace_model(Path(sys.argv[1]), count)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        print("survived", os.WEXITSTATUS(status), count, flush=True)
        break
    print("killed", os.WTERMSIG(status), count, flush=True)
    sys.stdin.readline()
"""


def test_a_writer_killed_at_any_call_leaves_a_whole_model_and_blocks_nobody(folder: Path) -> None:
    replace_model(folder, 3)
    command = [sys.executable, "-c", KILLER, str(folder), "0"]
    killed, possible = 0, {3}
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in process.stdout:
            end, number, count = line.split()
            possible.add(int(count))
            model = read_model(str(folder), threads=1)
            assert len(model.gallery) == len(model.normals)
            assert len(model.gallery) in possible
            assert model.normals[0] == f"/{len(model.gallery)}/0.png"
            possible = {len(model.gallery)}
            if end == "survived":
                assert (int(number), possible) == (0, {int(count)})
                break
            assert int(number) == signal.SIGKILL
            killed += 1
            process.stdin.write("on\n")
            process.stdin.flush()
    assert killed >= 10
    assert names(folder) == of(read_manifest(str(folder)))


WRITER = """
import sys, time
from anomscan.model.folder import ModelDraft
with ModelDraft.begin(sys.argv[1]) as draft:
    (draft.scratch / "half").touch()
    print("writing", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@contextmanager
def written_elsewhere(folder: Path, seconds: float = 60) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that writes the model."""
    command = [sys.executable, "-c", WRITER, str(folder), str(seconds)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_writer_is_refused_with_the_number_of_the_first(folder: Path) -> None:
    before = read_manifest(str(folder))
    with written_elsewhere(folder) as first:
        with pytest.raises(ModelBusy, match=f"^process {first.pid} is writing the model in .*--wait SECONDS"):
            replace_model(folder, 3)
        assert read_manifest(str(folder)) == before  # readers wait for nobody
        assert len(list(folder.glob(".staging-*"))) == 1


def test_a_second_writer_waits_if_it_may(folder: Path) -> None:
    with written_elsewhere(folder, 0.3) as first:
        with pytest.raises(ModelBusy):
            replace_model(folder, 3, wait=0.05)
        assert of(replace_model(folder, 3, wait=30)) == names(folder)
        assert first.wait() == 0


def test_a_killed_writer_blocks_nobody_and_what_it_left_goes(folder: Path) -> None:
    with written_elsewhere(folder) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert len(list(folder.glob(".staging-*"))) == 1
    with ModelDraft.begin(str(folder)) as draft:
        assert draft.alone
        assert list(folder.glob(".staging-*")) == [draft.scratch]
    assert names(folder) == of(read_manifest(str(folder)))


def test_two_first_writers_leave_no_trace_of_a_model_that_neither_made(tmp_path: Path) -> None:
    with written_elsewhere(tmp_path / "new", 0.2) as first:
        with ModelDraft.begin(str(tmp_path / "new"), wait=30) as draft:
            assert draft.alone
        assert first.wait() == 0
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("_no_locks")
def test_without_locks_nothing_younger_than_a_day_is_deleted(folder: Path) -> None:
    old, young = folder / ".staging-old", folder / ".staging-young"
    before = read_manifest(str(folder))
    for stage in (old, young):
        stage.mkdir()
    os.utime(old, (0, 0))
    with ModelDraft.begin(str(folder)) as draft:
        assert not draft.alone
        after = draft.commit(put_normals(draft, 3))
        assert not old.exists()
        assert young.exists()
    assert of(after) | of(before) <= names(folder)
    for name in of(before):
        os.utime(folder / name, (time.time() - DAY - 60,) * 2)
    last = replace_model(folder, 4)
    assert names(folder) == of(last) | of(after) | {young.name}


@pytest.mark.usefixtures("_no_locks")
def test_without_locks_a_first_model_that_failed_leaves_nothing_either(tmp_path: Path) -> None:
    with ModelDraft.begin(str(tmp_path / "new")) as draft:
        assert not draft.alone
    assert not (tmp_path / "new").exists()
