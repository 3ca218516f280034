"""Score the files of a folder as they arrive, each once, for months.

A batch goes through these steps, of which each begins when the one before is on the disk:

1. The files are scored. Nothing is written: killed here, they are scored again.
2. One transaction of the ledger says that these files are known, which rows they have, where in the output
   those will stand, and which files are anomalous. From here on they are reported, and never a second time.
3. The rows are appended. Killed here, the next start completes them: it knows where they begin.
4. For each anomalous file the command is called, then the file is copied, then moved, and then its duty is
   struck off. Killed here, the next start does what is left: a command that was running is called again.

What stands on standard output cannot be looked at: there, rows of a batch killed in step 3 come again.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from anomscan.errors import AnomscanError, InputError, OutputError
from anomscan.files.append import AppendedFile, Output, Place
from anomscan.files.delivery import deliver
from anomscan.files.ledger import Appending, Batch, Duty, Ledger
from anomscan.files.storage import Identity
from anomscan.images.decode import Decoded, decode_all
from anomscan.images.find import Search, Source, Unreadable
from anomscan.model.folder import MANIFEST
from anomscan.model.model import Model, read_model
from anomscan.pipeline import available_cores
from anomscan.report.rows import COLUMNS, FORMATS, REGIONS, Row
from anomscan.screen.arrivals import arrivals
from anomscan.screen.command import Command
from anomscan.screen.decide import called, check
from anomscan.screen.run import ScoreJob, regions_of
from anomscan.screen.screener import Screener
from anomscan.screen.settling import MOST_WAITING, Arrived, Settling, state_of
from anomscan.stats.decision import UNDECIDED, Decision
from anomscan.stats.martingale import DriftTest, Ranks
from anomscan.text import now, printable

if TYPE_CHECKING:
    from anomscan.images.isolate import Decoders

BATCH = 64
"""Files a batch: with more, the first row is late and the disk is seldom waited for."""
_DRIFT, _REFERENCE, _ALARM, _MODEL = "drift", "reference", "alarm", "model"
_OFTEN_ENOUGH = 1.0
"""Seconds between two looks through the folder, however often something is said to happen there."""


@dataclass(frozen=True)
class WatchJob:
    """What to watch, by which model, and what to do with anomalous images.

    ``settle`` is how many seconds a file must not have changed, ``poll`` how many pass between two looks
    through the folder (None where the system tells of new files), ``drift`` the probability of a false alarm
    of drift, ever, or 0 for none. With ``isolate`` images are decoded in processes of their own, each in at
    most so many seconds. ``not_images`` are files, wherever they lie, that are never taken. Raises InputError
    where the folder is none.
    """

    folder: str
    model: str
    decision: Decision = UNDECIDED
    k: int | None = None
    threads: int = field(default_factory=available_cores)
    device: str = "cpu"
    form: str = "csv"
    further: tuple[str, ...] = ()
    exclude: Sequence[str] = ()
    max_pixels: int | None = None
    isolate: float | None = None
    settle: float = 2.0
    poll: float | None = None
    copy_to: str | None = None
    move_to: str | None = None
    command: Command | None = None
    drift: float = 0.01
    not_images: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not os.path.isdir(self.folder):
            raise InputError(f"{printable(self.folder)} is not a folder")


@dataclass
class Counts:
    """Rows of one run of the program, and those among them that are anomalous, or errors."""

    rows: int = 0
    anomalous: int = 0
    unreadable: int = 0

    def messages(self, *, decided: bool) -> list[str]:
        """What to tell the person at the keyboard, if there was anything to score."""
        lines = []
        if decided and self.rows:
            lines.append(f"{self.anomalous} of {self.rows - self.unreadable} images are anomalous")
        if self.unreadable:
            lines.append(f"{self.unreadable} of {self.rows} files could not be read")
        return lines


@dataclass
class _Judged:
    """What became of one file of a batch; ``score`` for the test of drift, where it takes part."""

    row: Row
    identity: Identity | None
    score: np.float32 | None = None


class Watch:
    """Scores what arrives; see ``run`` and ``once``, and ``close`` it.

    Args:
        job: what to watch.
        ledger: remembers.
        output: takes the rows.
        say: takes sentences for a person.

    Raises:
        ModelError, CalibrationTooSmall: the model cannot be used, or not for the decision.
    """

    def __init__(self, job: WatchJob, ledger: Ledger, output: Output, say: Callable[[str], None]) -> None:
        self._job, self._ledger, self._output, self._say = job, ledger, output, say
        self.counts = Counts()
        self._stop = Event()
        self._settling = Settling(job.settle, self._is_news)
        self._root = os.path.realpath(job.folder)
        self._never = {os.path.realpath(path) for path in job.not_images}
        self._said: dict[str, str] = {}
        self._decoders: Decoders | None = None
        self._model_state = state_of(os.path.join(job.model, MANIFEST))
        self._take(read_model(job.model, job.threads, job.device))

    def stop(self) -> None:
        """Finish the batch and end; may be called at any time, by a signal too."""
        self._stop.set()

    def close(self) -> None:
        """End the processes of ``isolate``."""
        if self._decoders is not None:
            self._decoders.close()

    def once(self) -> None:
        """Score all that has settled, or does within the time of settling, and return."""
        self._begin()
        while not self._stop.is_set():
            self._look()
            self._score_settled()
            if self._settling:
                self._stop.wait(self._job.settle)
                self._score_settled()
            if not self._settling.missed:
                return

    def run(self) -> None:
        """Score what settles until ``stop`` is called."""
        told, how = arrivals(self._job.folder, self._job.poll, self._stop)
        self._say(f"watching {printable(self._job.folder)}, {how}")
        self._begin()
        latest = earliest = monotonic()
        hurry = False
        while not self._stop.is_set():
            began = monotonic()
            if began >= latest or (hurry and began >= earliest):
                self._look()
                self._fulfil(again=True)
                done, hurry = monotonic(), self._settling.missed
                earliest = done + max(_OFTEN_ENOUGH, 2 * (done - began))
                latest = done + max(told.every, 2 * (done - began))
            self._score_settled()
            self._renew_model()
            paths = told.wait()
            hurry = hurry or paths is None
            if paths:
                self._meet(paths)

    # Files

    def _look(self) -> None:
        """Meet every file of the folder."""
        self._settling.missed = False
        folder, parent, place = self._job.folder, None, ""
        try:
            for found in self._search().find([folder]):
                if self._stop.is_set():
                    return
                if isinstance(found, Unreadable):
                    self._report_folder(found)
                    continue
                if os.path.dirname(found.path) != parent:
                    parent = os.path.dirname(found.path)
                    place = os.path.realpath(parent)
                self._settling.meet(self._key(place, found.path), found.path)
                if len(self._settling) >= MOST_WAITING:
                    self._score_settled()
        except (InputError, OSError) as error:
            self._say_once("folder", f"{printable(folder)} cannot be looked through now: {error}")
        else:
            self._said.pop("folder", None)

    def _meet(self, paths: list[str]) -> None:
        search = self._search()
        for path in paths:
            if search.comes_to(self._job.folder, path):
                self._settling.meet(self._key(os.path.realpath(os.path.dirname(path)), path), path)

    def _search(self) -> Search:
        job = self._job
        never = [folder for folder in (job.copy_to, job.move_to) if folder]
        return Search(job.exclude, never, in_order=False)

    def _key(self, place: str, path: str) -> str:
        """One name for a file, whatever links lead to its folder and wherever that is mounted."""
        return os.path.relpath(os.path.join(place, os.path.basename(path)), self._root)

    def _is_news(self, key: str, identity: Identity) -> bool:
        return os.path.join(self._root, key) not in self._never and not self._ledger.knows(key, identity)

    def _report_folder(self, folder: Unreadable) -> None:
        """A folder that cannot be listed, and has not gone since, is a row, once."""
        key = self._key(os.path.realpath(os.path.dirname(folder.path)), folder.path)
        if state_of(folder.path) is not None and not self._ledger.knows(key, None):
            self._report([(key, _Judged(Row.of_unreadable(folder), None))])

    # Batches

    def _score_settled(self) -> None:
        while not self._stop.is_set() and (batch := self._settling.settled(BATCH)):
            self._renew_model()
            self._report([*self._judged(batch)])

    def _judged(self, batch: list[Arrived]) -> Iterator[tuple[str, _Judged]]:
        """The files of a batch in their order, less those that have gone, or were not settled after all."""
        found: dict[str, _Judged] = {}
        sources = (Source(file.path) for file in batch)
        for scored in self._screener.stream(self._decoded(sources)):
            if isinstance(scored, Unreadable):
                found[scored.path] = _Judged(Row.of_unreadable(scored), None)
                continue
            model = self._scoring.model
            boxes = regions_of(scored, model) or [None] * len(scored.images)
            decided = called(self._job.decision, scored)
            for i, row in enumerate(Row.of(scored, boxes)):
                anomalous = None if decided is None else bool(decided[i])
                score = None if scored.known[i] else scored.scores[i]
                image = scored.images[i]
                found[image.file] = _Judged(replace(row, anomalous=anomalous), image.identity, score)
        for file in batch:
            judged, state = found[file.path], state_of(file.path)
            if state is None:
                continue
            if state != file.identity or (judged.identity or state) != file.identity:
                self._settling.meet(file.key, file.path)
            elif file.early and judged.row.error is not None:
                self._settling.wait_longer(file)
            else:
                yield file.key, replace(judged, identity=file.identity)

    def _decoded(self, sources: Iterable[Source]) -> Iterator[Decoded | Unreadable]:
        if self._decoders is not None:
            return self._decoders.decode_all(sources)
        return decode_all(sources, self._scoring.preprocessing, self._job.threads)

    def _report(self, files: list[tuple[str, _Judged]]) -> None:
        """Steps 2 to 4, see above."""
        if not files:
            return
        place = self._output.end()
        rows = [judged.row for _, judged in files]
        batch = Batch([(key, judged.identity) for key, judged in files])
        batch.appending = Appending(
            self._output.name,
            place,
            self._written(rows, place),
            len(rows),
            sum(row.anomalous is True for row in rows),
            sum(row.error is not None for row in rows),
        )
        if self._has_duties:
            batch.duties = [
                Duty(os.path.join(self._root, key), judged.identity, judged.row.score, judged.row.p_value)
                for key, judged in files
                if judged.row.anomalous and judged.identity is not None
            ]
        alarm = self._bet([judged.score for _, judged in files if judged.score is not None], batch)
        self._ledger.commit(batch)
        try:
            self._output.append(batch.appending.text)
            self._ledger.appended()
            self._count(batch.appending)
            if alarm:
                self._say(alarm)
            self._fulfil()
        except BaseException as stop:
            stop.add_note("the rest of the batch is done at the next start")
            raise

    def _written(self, rows: list[Row], place: Place) -> bytes:
        """The rows as they stand in the output; with the names of the columns where it is a new file."""
        text = io.StringIO()
        FORMATS[self._job.form](rows, text, self._columns)
        written = text.getvalue()
        if self._job.form == "csv" and (place.size or self._output.name is None):
            written = written.removeprefix(self._header)
        return written.encode("utf-8", "surrogateescape")

    def _count(self, rows: Appending) -> None:
        self.counts.rows += rows.rows
        self.counts.anomalous += rows.anomalous
        self.counts.unreadable += rows.unreadable

    @property
    def _header(self) -> str:
        return ",".join(self._columns) + "\n"

    def _begin(self) -> None:
        """Look at what is in the output, and do what a killed run has left: rows, then duties."""
        begins, csv = self._output.beginning(), self._job.form == "csv"
        rows = self._ledger.appending()
        if begins and rows is None and not begins.startswith(self._header.encode() if csv else b"{"):
            raise OutputError(
                f"{printable(str(self._output.name))} has other columns than the rows to append; name another"
            )
        if self._output.name is None and csv and not self._output.end().size:
            self._output.append(self._header.encode())
        if rows is not None:
            output = self._output if rows.output is None else AppendedFile(rows.output)
            output.complete(rows.text, rows.place)
            self._ledger.appended()
            self._count(rows)
        self._fulfil(again=True)

    # Anomalous files

    @property
    def _has_duties(self) -> bool:
        job = self._job
        return bool(job.command or job.copy_to or job.move_to)

    def _fulfil(self, *, again: bool = False) -> None:
        """Call the command for every file that it is due for, then copy and move it.

        What cannot be copied or moved stays due, and is tried again when the folder is looked through.
        """
        if self._job.command:
            for duties in self._ledger.duties(uncalled=True):
                for duty in duties:
                    if complaint := self._job.command.call(duty.path, duty.score, duty.p_value):
                        self._say(complaint)
                    self._ledger.called(duty)
        again = again or "delivery" in self._said
        for duties in self._ledger.duties():
            there = [(duty.path, duty.identity) for duty in duties if os.path.lexists(duty.path)]
            try:
                for folder, move in ((self._job.copy_to, False), (self._job.move_to, True)):
                    if folder and there:
                        for reason in deliver(there, folder, move=move, again=again).left:
                            self._say(reason)
            except OutputError as error:
                self._say_once("delivery", str(error))
                return
            self._said.pop("delivery", None)
            self._ledger.done(duties)

    # The model

    def _take(self, model: Model) -> None:
        """Score by ``model`` from now on; raises where the decision cannot be made by it."""
        check(self._job.decision, model.calibration)
        self._screener = Screener(model, self._job.k)
        self._scoring = ScoreJob((), model, max_pixels=self._job.max_pixels)
        if self._job.isolate is not None:
            from anomscan.images.isolate import Decoders

            self.close()
            self._decoders = Decoders(self._scoring.preprocessing, self._job.threads, self._job.isolate)
        further = self._job.further
        if self._job.form == "jsonl" and model.patches:
            further = tuple(dict.fromkeys((*further, REGIONS)))
        self._columns = (*COLUMNS, *further)
        self._begin_test(model)

    def _renew_model(self) -> None:
        """Take a model that was committed meanwhile; the old one goes on where the new one is broken."""
        state = state_of(os.path.join(self._job.model, MANIFEST))
        if state is None or state == self._model_state:
            return
        self._model_state = state
        try:
            self._take(read_model(self._job.model, self._job.threads, self._job.device))
        except AnomscanError as error:
            self._say(f"the new model cannot be used, the old one goes on: {error}")
            return
        self._say(f"a new model: {self._scoring.model.manifest.id}")

    def _say_once(self, what: str, sentence: str) -> None:
        if self._said.get(what) != sentence:
            self._said[what] = sentence
            self._say(sentence)

    # Drift

    def _begin_test(self, model: Model) -> None:
        """Go on with the test of drift for this model, or begin one."""
        self._test: DriftTest | None = None
        calibration = self._screener.calibration
        if not self._job.drift or calibration is None:
            return
        if calibration.groups < len(calibration.paths):
            self._say("no alarm of drift: it takes normals that calibrate one by one, not in groups")
            return
        ledger, name = self._ledger, f"{model.manifest.id} {self._screener.k}"
        if ledger.note(_MODEL) != name:
            first = dict(enumerate(calibration.scores.astype(np.float64).tolist()))
            anew = Batch(numbers={_REFERENCE: first}, notes={_MODEL: name})
            ledger.begin_anew((_DRIFT, _REFERENCE, _ALARM), anew)
        alarm = ledger.note(_ALARM)
        if alarm is not None:
            self._say(alarm)
            return
        reference = np.array(ledger.numbers(_REFERENCE))
        self._test = DriftTest(Ranks(reference, np.random.default_rng()), ledger.numbers(_DRIFT))

    def _bet(self, scores: list[np.float32], batch: Batch) -> str | None:
        """Test the next scores, which becomes part of the batch; an alarm, where there is one now."""
        test = self._test
        if test is None or not scores:
            return None
        raised = test.add(np.array(scores, np.float32), self._job.drift)
        batch.numbers = {_DRIFT: test.state, _REFERENCE: dict(test.ranks.changed)}
        test.ranks.changed.clear()
        if not raised:
            return None
        alarm = (
            f"drift since or before {now()}: the images no longer score like the normals "
            f"(a false alarm of this kind has a probability of {self._job.drift:g}, ever); "
            "lamp, lens, or a new product? recalibrate"
        )
        batch.notes[_ALARM] = alarm
        self._test = None
        return alarm
