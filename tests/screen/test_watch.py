"""The loop: what is taken, what is left, and that every file is reported once whenever the process dies."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anomscan.errors import CalibrationTooSmall, InputError, OutputError
from anomscan.files import delivery
from anomscan.files.append import AppendedFile, AppendedStream
from anomscan.files.ledger import Ledger
from anomscan.images.find import Unreadable
from anomscan.report.rows import COLUMNS
from anomscan.screen import watch as watch_module
from anomscan.screen.arrivals import arrivals
from anomscan.screen.command import Command
from anomscan.screen.watch import Watch, WatchJob
from anomscan.stats.decision import Decision
from tests.conftest import draw, draw_odd, fake_model

SETTLE = 0.25


@pytest.fixture
def job(tmp_path: Path, calibrated_folder: Path) -> WatchJob:
    """A watch of an empty folder ``in``, whose anomalous images go to ``in/aside``."""
    (tmp_path / "in").mkdir()
    return WatchJob(
        folder=str(tmp_path / "in"),
        model=str(shutil.copytree(calibrated_folder, tmp_path / "m")),
        decision=Decision(fpr=0.1),
        form="jsonl",
        threads=1,
        settle=SETTLE,
        move_to=str(tmp_path / "in" / "aside"),
        not_images=[str(tmp_path / "in" / "log.png"), str(tmp_path / "state")],
    )


class Session:
    """A watch, and all that it said."""

    def __init__(self, job: WatchJob, ledger: Ledger, place: Path) -> None:
        self.said: list[str] = []
        self.watch = Watch(job, ledger, AppendedFile(str(place / "in" / "log.png")), self.said.append)


@contextmanager
def session(job: WatchJob) -> Iterator[Session]:
    place = Path(job.folder).parent
    with Ledger.open(str(place / "state"), job.folder) as ledger:
        yield Session(job, ledger, place)


def once(job: WatchJob) -> Session:
    with session(job) as running:
        running.watch.once()
        return running


@contextmanager
def running(job: WatchJob) -> Iterator[Session]:
    """A watch that goes on in a thread of its own, and is stopped at the end of the block."""
    begun = threading.Event()
    held: list[Session] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with session(job) as running:
                held.append(running)
                begun.set()
                running.watch.run()
        except BaseException as error:
            failed.append(error)
            begun.set()

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    try:
        yield held[0]
    finally:
        held[0].watch.stop()
        thread.join()
    assert not failed


def rows(job: WatchJob) -> list[dict[str, object]]:
    log = Path(job.folder, "log.png")
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def paths(job: WatchJob) -> list[str]:
    return sorted(os.path.relpath(str(row["path"]), job.folder) for row in rows(job))


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def put(job: WatchJob, name: str, seed: int = 400, *, odd: bool = False) -> Path:
    path = Path(job.folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    (draw_odd if odd else draw)(seed).save(path, "PNG")
    return path


def test_a_row_has_the_columns_of_score_and_no_rank(job: WatchJob) -> None:
    put(job, "a.png")
    put(job, "sub/odd.png", odd=True)
    Path(job.folder, "broken.png").write_bytes(b"broken")
    done = once(job)
    found = {os.path.relpath(str(row["path"]), job.folder): row for row in rows(job)}
    assert sorted(found) == ["a.png", "broken.png", "sub/odd.png"]
    assert all(tuple(row) == COLUMNS and row["rank"] is None for row in found.values())
    assert (found["a.png"]["anomalous"], found["sub/odd.png"]["anomalous"]) == (False, True)
    assert str(found["broken.png"]["error"]).startswith("not an image")
    assert os.listdir(job.move_to or "") == ["odd.png"]
    assert (done.watch.counts.rows, done.watch.counts.anomalous, done.watch.counts.unreadable) == (3, 1, 1)
    assert done.watch.counts.messages(decided=True) == [
        "1 of 2 images are anomalous",
        "1 of 3 files could not be read",
    ]
    assert once(job).watch.counts.messages(decided=True) == []


def test_nothing_comes_twice_and_what_was_rewritten_is_new(job: WatchJob) -> None:
    first = put(job, "a.png")
    once(job)
    once(job)
    assert paths(job) == ["a.png"]
    first.chmod(0o600)
    os.link(first, Path(job.folder).parent / "second name")
    once(job)
    assert paths(job) == ["a.png"]
    put(job, "a.png", 401)
    once(job)
    assert paths(job) == ["a.png", "a.png"]
    put(job, "b.tmp", 402).replace(first)
    once(job)
    assert paths(job) == ["a.png"] * 3


def test_links_to_a_folder_do_not_make_its_files_others(job: WatchJob) -> None:
    """The order of a listing decides which name is met first; it is one file all the same."""
    put(job, "real/a.png")
    once(job)
    (Path(job.folder) / "real").rename(Path(job.folder) / "moved")
    (Path(job.folder) / "real").symlink_to("moved")
    once(job)
    once(replace(job, folder=os.path.join(job.folder, ".")))
    assert len(paths(job)) == 2  # of the two folders that it lay in


def test_what_is_never_an_image(job: WatchJob) -> None:
    for name in (".hidden.png", "x.txt", "sub/out.png", "aside/moved before.png"):
        put(job, name)
    put(job, "a.png")
    once(replace(job, exclude=["out*"]))
    assert paths(job) == ["a.png"]
    once(replace(job, exclude=["out*"]))
    assert paths(job) == ["a.png"]


def test_a_half_written_file_waits_and_one_that_goes_is_no_row(job: WatchJob) -> None:
    whole = put(job, "whole.png")
    content = whole.read_bytes()
    with running(replace(job, settle=2.0)) as watching:
        wait_for(lambda: paths(job) == ["whole.png"])
        half, closed, gone = (Path(job.folder, f"{name}.png") for name in ("half", "closed", "gone"))
        with open(half, "wb", buffering=0) as file, open(gone, "wb", buffering=0) as other:
            other.write(content[:1000])
            file.write(content[:1000])
            closed.write_bytes(content[:1000])  # closed and half: it cannot be read, and waits
            time.sleep(0.4)
            gone.unlink()
            with open(closed, "ab") as more:
                more.write(content[1000:])
            file.write(content[1000:])
        put(job, ".in.png").rename(Path(job.folder) / "in.png")
        wait_for(lambda: len(paths(job)) == 4)
        time.sleep(0.5)
    assert paths(job) == ["closed.png", "half.png", "in.png", "whole.png"]
    assert not [row for row in rows(job) if row["error"]]
    assert watching.said == [f"watching {job.folder}, told by the system of new files"]


@pytest.mark.parametrize("poll", [None, 0.2])
def test_bursts_are_told_or_found(job: WatchJob, poll: float | None) -> None:
    with running(replace(job, poll=poll)):
        for burst in range(3):
            for i in range(20):
                put(job, f"day{burst}/sub/{i}.png", 1000 + 20 * burst + i)
            time.sleep(0.1)
        (Path(job.folder) / os.fsdecode(b"caf\xe9\n.png")).write_bytes(
            Path(job.folder, "day0/sub/0.png").read_bytes()
        )
        wait_for(lambda: len(paths(job)) == 61)
    assert max(Counter(paths(job)).values()) == 1


def test_what_nobody_told_of_is_found_by_looking(job: WatchJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def deaf(folder: str, poll: float | None, stop: threading.Event) -> object:
        told, how = arrivals(folder, 60, stop)
        told.every = 0.3
        return told, how

    monkeypatch.setattr(watch_module, "arrivals", deaf)
    with running(job):
        put(job, "a.png")
        wait_for(lambda: paths(job) == ["a.png"])


def test_a_folder_that_goes_for_a_while(job: WatchJob) -> None:
    place = Path(job.folder)
    with session(job) as watching:
        put(job, "a.png")
        watching.watch.once()
        place.rename(place.parent / "unmounted")
        watching.watch.once()
        watching.watch.once()
        assert watching.said == [f"{place} cannot be looked through now: {place}: No such file or directory"]
        (place.parent / "unmounted").rename(place)
        put(job, "b.png")
        watching.watch.once()
    assert paths(job) == ["a.png", "b.png"]


def test_a_folder_that_cannot_be_listed_is_one_row(job: WatchJob, monkeypatch: pytest.MonkeyPatch) -> None:
    put(job, "locked/a.png")
    put(job, "b.png")
    scandir = os.scandir

    def refuse(path: bytes) -> object:
        if os.path.basename(path) == b"locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    once(job)
    once(job)
    assert {str(row["path"]): row["error"] for row in rows(job)} == {
        f"{job.folder}/locked": "Permission denied",
        f"{job.folder}/b.png": None,
    }
    assert len(rows(job)) == 2
    (Path(job.folder) / "locked").rename(Path(job.folder).parent / "elsewhere")
    with session(job) as watching:  # it went between the listing of its parent and its own
        watching.watch._report_folder(Unreadable(f"{job.folder}/gone", "No such file or directory"))
    assert len(rows(job)) == 2


# Dying


class Killed(BaseException):
    """Stands for SIGKILL: nothing is cleaned up on its way."""


def points(monkeypatch: pytest.MonkeyPatch, die_at: int) -> list[str]:
    """Die at the n-th of the steps that a batch goes through; the list fills with those that were passed."""
    passed: list[str] = []

    def step(name: str) -> None:
        passed.append(name)
        if len(passed) == die_at:
            raise Killed(name)

    def around(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def wrapped(*arguments: object, **options: object) -> object:
            step(f"before {name}")
            result = real(*arguments, **options)
            step(f"after {name}")
            return result

        monkeypatch.setattr(owner, name, wrapped)

    def half(self: AppendedFile, text: bytes) -> None:
        with open(str(self.name), "ab") as file:
            file.write(text[: len(text) // 2])
            file.flush()
            step("half of append")
            file.write(text[len(text) // 2 :])

    for name in ("commit", "appended", "called", "done"):
        around(Ledger, name)
    monkeypatch.setattr(AppendedFile, "append", half)
    around(Command, "call")
    around(delivery, "_deliver_one")
    around(delivery.os, "unlink")
    return passed


def test_whenever_it_dies_every_file_has_one_row_and_is_moved_once(
    job: WatchJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at each step in turn, then let go on; rows are never repeated, a command may be."""
    log = tmp_path / "calls"
    script = f"import sys; open({str(log)!r}, 'a').write(sys.argv[1] + chr(10))"
    (tmp_path / "call.py").write_text(script)
    job = replace(job, command=Command.parse(f"{sys.executable} {tmp_path / 'call.py'} {{path}}", 30))
    for die_at in range(1, 100):
        for name in ("in", "state", "state-wal", "state-shm", "state.lock", "calls"):
            if (tmp_path / name).is_dir():
                shutil.rmtree(tmp_path / name)
            else:
                (tmp_path / name).unlink(missing_ok=True)
        put(job, "a.png")
        put(job, "odd.png", odd=True)
        put(job, "odd2.png", 401, odd=True)
        with monkeypatch.context() as patch:
            passed = points(patch, die_at)
            try:
                once(job)
            except Killed:
                died = True
            else:
                died = False
        put(job, "late.png")
        once(job)
        assert paths(job) == ["a.png", "late.png", "odd.png", "odd2.png"], passed
        assert sorted(os.listdir(job.move_to or "")) == ["odd.png", "odd2.png"], passed
        assert sorted(name for name in os.listdir(job.folder) if "odd" in name) == [], passed
        calls = Counter(log.read_text().splitlines())
        assert len(calls) == 2, passed
        assert sum(calls.values()) == 2 + (passed[-1] in ("after call", "before called")), passed
        if not died:
            break
    assert die_at > 20


def test_the_rows_of_a_stream_come_again_rather_than_never(
    job: WatchJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(job, "a.png")
    read, write = os.pipe()
    job = replace(job, form="csv")

    def session() -> None:
        with Ledger.open(str(tmp_path / "state"), job.folder) as ledger:
            Watch(job, ledger, AppendedStream(write), print).once()

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "appended", lambda self: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            session()
    first = os.read(read, 10000).decode().splitlines()
    session()
    again = os.read(read, 10000).decode().splitlines()
    assert (first, first[0]) == (again, ",".join(COLUMNS))
    assert len(first) == 2
    os.close(read)
    os.close(write)


def test_rows_go_on_in_a_file_of_the_same_columns_only(job: WatchJob) -> None:
    job, log = replace(job, form="csv"), Path(job.folder, "log.png")
    put(job, "a.png")
    once(job)
    put(job, "b.png")
    once(job)
    lines = log.read_text().splitlines()
    assert (len(lines), lines[0]) == (3, ",".join(COLUMNS))
    with pytest.raises(OutputError, match="has other columns"):
        once(replace(job, form="jsonl"))
    with pytest.raises(OutputError, match="has other columns"):
        once(replace(job, further=("image_score",)))
    log.rename(log.with_suffix(".1"))
    put(job, "c.png")
    once(job)
    assert log.read_text().splitlines()[0] == ",".join(COLUMNS)
    assert len(log.read_text().splitlines()) == 2


def test_a_disk_without_room_stops_it_and_the_rows_come_later(
    job: WatchJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(job, "odd.png", odd=True)
    with monkeypatch.context() as patch:

        def full(self: AppendedFile, text: bytes) -> None:
            raise OutputError("cannot write: No space left on device")

        patch.setattr(AppendedFile, "append", full)
        with pytest.raises(OutputError):
            once(job)
    assert Path(job.folder, "odd.png").exists()
    assert once(job).watch.counts.anomalous == 1
    assert (paths(job), os.listdir(job.move_to or "")) == (["odd.png"], ["odd.png"])


# Anomalous files


def test_a_place_that_cannot_be_written_is_said_once_and_tried_again(job: WatchJob) -> None:
    aside = Path(job.move_to or "")
    aside.write_text("no folder")
    called: list[str] = []

    class Recorded(Command):
        def call(self, path: str, score: float | None, p_value: float | None) -> str | None:
            called.append(os.path.basename(path))
            return "it failed"

    job = replace(job, command=Recorded(("x",), 1))
    with session(job) as watching:
        for i in range(3):
            put(job, f"odd{i}.png", 400 + i, odd=True)
            watching.watch.once()
        assert called == ["odd0.png", "odd1.png", "odd2.png"]
        assert len([said for said in watching.said if said.startswith("cannot move")]) <= 3
        assert watching.said.count("it failed") == 3
        aside.unlink()
        watching.watch.once()
    assert sorted(os.listdir(aside)) == ["odd0.png", "odd1.png", "odd2.png"]
    assert (len(rows(job)), len(called)) == (3, 3)


def test_a_file_that_the_command_changes_or_takes_stays_or_is_gone(job: WatchJob) -> None:
    class Harsh(Command):
        def call(self, path: str, score: float | None, p_value: float | None) -> str | None:
            if path.endswith("taken.png"):
                os.unlink(path)
            else:
                Path(path).write_bytes(b"changed")
            return None

    put(job, "taken.png", odd=True)
    put(job, "changed.png", 401, odd=True)
    done = once(replace(job, command=Harsh(("x",), 1), decision=Decision(threshold=0.1)))
    assert done.said == [f"{job.folder}/changed.png has changed since it was scored, and stays"]
    assert Path(job.folder, "changed.png").exists()


# The model


def test_a_new_model_is_taken_and_a_broken_one_is_said_once(
    job: WatchJob, tmp_path: Path, normal_folder: Path
) -> None:
    manifest = Path(job.model, "model.json")
    with running(job) as watching:
        put(job, "a.png")
        wait_for(lambda: len(rows(job)) == 1)
        good = manifest.read_bytes()
        (Path(job.model) / "new.json").write_bytes(b"{}")
        os.replace(Path(job.model) / "new.json", manifest)
        wait_for(lambda: len(watching.said) == 2)
        put(job, "b.png")
        wait_for(lambda: len(rows(job)) == 2)
        time.sleep(0.5)
        assert "the new model cannot be used, the old one goes on" in watching.said[1]
        assert len(watching.said) == 2
        shutil.rmtree(job.model)
        put(job, "c.png")
        wait_for(lambda: len(rows(job)) == 3)
        fake_model(normal_folder, Path(job.model), 0.6)
        wait_for(lambda: len(watching.said) == 3)
        assert watching.said[2].startswith("a new model: ")
        put(job, "odd.png", odd=True)
        wait_for(lambda: len(rows(job)) == 4)
    assert rows(job)[-1]["p_value"] == pytest.approx(1 / 13)
    assert good != manifest.read_bytes()


def test_a_model_that_cannot_decide_is_refused_at_first(job: WatchJob) -> None:
    with pytest.raises(CalibrationTooSmall):
        once(replace(job, decision=Decision(fpr=0.001)))
    with pytest.raises(InputError, match="is not a folder"):
        replace(job, folder=job.model + "/model.json")


# Drift


def test_a_shifted_stream_is_said_once_and_stands_until_there_is_a_new_model(
    job: WatchJob, normal_folder: Path
) -> None:
    job = replace(job, decision=Decision(threshold=9.0), move_to=None)
    (Path(job.folder).parent / "more").mkdir()
    for i in range(60):
        put(job, f"{i}.png", 2000 + i, odd=True)
        put(replace(job, folder=f"{job.folder}/../more"), f"{i}.png", 4000 + i)
    more = Path(job.folder).parent / "more"
    fake_model(more, Path(job.model), 0.5)
    first = once(job)
    (alarm,) = first.said
    assert alarm.startswith("drift since or before 20")
    assert "has a probability of 0.01, ever" in alarm
    assert once(job).said == [alarm]
    assert once(replace(job, drift=0.0)).said == []
    assert once(job).said == [alarm]
    fake_model(normal_folder, Path(job.model), 0.6)
    assert once(job).said == []


def test_images_like_the_normals_raise_none_and_the_test_goes_on_after_a_restart(
    job: WatchJob, tmp_path: Path, normal_folder: Path
) -> None:
    shutil.copy(normal_folder / "00.png", Path(job.folder) / "a normal.png")
    for part in range(2):
        for i in range(30):
            put(job, f"{part}/{i}.png", 3000 + 30 * part + i)
        assert once(job).said == []
        with Ledger.open(str(tmp_path / "state"), job.folder) as ledger:
            assert ledger.numbers("drift")[0] == 30 * (part + 1)  # a copy of a normal is no evidence
            assert len(ledger.numbers("reference")) == 10 + 30 * (part + 1)


def test_normals_in_groups_have_no_alarm(job: WatchJob, tmp_path: Path) -> None:
    for seed in range(20):
        (tmp_path / "days" / str(seed // 2)).mkdir(parents=True, exist_ok=True)
        draw(seed).save(tmp_path / "days" / str(seed // 2) / f"{seed}.png")
    fake_model(tmp_path / "days", tmp_path / "grouped", 0.5, group_by="folder")
    put(job, "a.png")
    done = once(replace(job, model=str(tmp_path / "grouped"), decision=Decision(threshold=9.0)))
    assert done.said == ["no alarm of drift: it takes normals that calibrate one by one, not in groups"]
    assert len(rows(job)) == 1


def test_many_are_scored_in_batches_and_a_stop_ends_after_one(
    job: WatchJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "BATCH", 4)
    for i in range(12):
        put(job, f"{i}.png", 500 + i)
    with session(job) as watching:
        bet = watching.watch._bet

        def stopping(scores: list[np.float32], batch: watch_module.Batch) -> str | None:
            watching.watch.stop()
            return bet(scores, batch)

        monkeypatch.setattr(watching.watch, "_bet", stopping)
        watching.watch.once()
    assert len(rows(job)) == 4
    once(job)
    assert len(paths(job)) == len(set(paths(job))) == 12
