"""The database of a run of ``score``: beside its output, so that another can go on where it was killed.

It is hidden, ``.NAME.journal``, and gone when the run has ended well. What was committed outlives a killed
process. After a power cut the last of it may be lost, and is done again: SQLite keeps the file whole without
waiting for the disk at every commit (``synchronous=NORMAL`` with a write-ahead log).
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from anomscan.errors import OutputError, UsageError
from anomscan.files.urls import is_url
from anomscan.text import printable

Settings = Mapping[str, object]
"""What a run depends on, by how a person calls it; values as JSON has them."""

_LONGEST_NAME = 200
_SETTINGS, _WRITTEN = "settings", "written"
_BESIDE = ("", "-wal", "-shm", "-journal")
"""What SQLite adds to the name of a database for files of its own."""


class _Busy(Exception):
    """Another run keeps this journal."""


class Journal:
    """A database and what became of the run before: see ``temporary`` and ``beside``.

    A context manager that removes it when the block ends well. ``resumed`` says that there are images of a
    run before, ``written`` that it had written all its outputs, so that only images may have to be delivered
    yet; ``remark`` is what a person should know.
    """

    def __init__(
        self, db: sqlite3.Connection, name: str, place: Path | None = None, *, resumed: bool = False
    ) -> None:
        self.db = db
        self.resumed = resumed
        self.written = False
        self.remark = ""
        self._name = name
        self._place = place
        self._committed = False

    @classmethod
    def temporary(cls) -> Journal:
        """A private file in the temporary folder, gone with the process; nobody goes on with it."""
        return cls(sqlite3.connect(""), "the ranking in the temporary folder")

    @classmethod
    def beside(cls, output: str, settings: Settings, *, resume: bool) -> Journal:
        """The journal of ``output``, locked until it is closed or its process ends.

        Args:
            output: a file, there or not, in a folder that can be written.
            settings: what the run depends on.
            resume: whether to go on with a run that was killed, if there is one; else it is started over.

        Raises:
            UsageError: that run had other settings.
            OutputError: another run is writing ``output``, or there is no room.
        """
        place = journal_of(output)
        name, is_new = f"the journal of {printable(output)}", not place.exists()
        try:
            db = _opened(place)
        except sqlite3.OperationalError as error:
            if is_new:
                _remove(place)
            if resume or error.sqlite_errorname == "SQLITE_FULL":
                raise OutputError(f"cannot keep {name}: {error}") from error
            return cls._without(f"{name} cannot be kept ({error}): this run cannot be gone on with")
        except _Busy as busy:
            if resume:
                raise OutputError(f"another run is writing {printable(output)}") from busy
            return cls._without(f"another run is writing {printable(output)}; this one keeps no journal")
        journal = cls(db, name, place)
        try:
            with room_for(name):
                before = journal._get(_SETTINGS)
                if before is not None and resume:
                    _check(json.loads(before), settings, output)
                    journal.resumed = True
                    journal.written = journal.noted(_WRITTEN) is not None
                    return journal
                if before is not None:
                    journal.remark = (
                        f"a run that was cut off while it wrote {printable(output)} is started over; "
                        "with --resume it would have gone on"
                    )
                journal._start(settings)
        except BaseException:
            db.close()
            if is_new:
                _remove(place)
            raise
        return journal

    @classmethod
    def _without(cls, remark: str) -> Journal:
        journal = cls.temporary()
        journal.remark = remark
        return journal

    @property
    def is_kept(self) -> bool:
        """Whether another run can go on with it."""
        return self._place is not None

    @contextmanager
    def room(self) -> Iterator[None]:
        """Say in one sentence that its disk is full."""
        with room_for(self._name):
            yield

    def commit(self) -> None:
        """Let what was done so far outlive the process."""
        if self.is_kept:
            with self.room():
                self.db.commit()
            self._committed = True

    def note(self, name: str, value: object) -> None:
        """Keep a value, as JSON has them, for a run that goes on."""
        with self.room():
            self._set(name, value)

    def noted(self, name: str) -> Any:
        """What the run before has kept; None if it has not."""
        found = self._get(name) if self.resumed else None
        return None if found is None else json.loads(found)

    def outputs_are_written(self) -> None:
        """Nothing but deliveries remains to be done."""
        if self.is_kept:
            self.note(_WRITTEN, True)
            self.commit()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of it: it is there for another run only if this one has failed and committed anything."""
        kept = self.is_kept and error is not None and (self.resumed or self._committed)
        with suppress(sqlite3.Error):
            self.db.rollback()
            if not kept:
                self.db.execute("PRAGMA synchronous = OFF")  # there is nothing to wait for the disk for
        self.db.close()
        if kept and error is not None:
            error.add_note("what was scored is kept: --resume goes on with it")
        elif self._place is not None:
            _remove(self._place)

    def _start(self, settings: Settings) -> None:
        for (table,) in self.db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            self.db.execute(f'DROP TABLE "{table}"')
        self.db.execute("CREATE TABLE run (name PRIMARY KEY, value)")
        self._set(_SETTINGS, dict(settings))
        self.db.commit()

    def _set(self, name: str, value: object) -> None:
        self.db.execute("INSERT OR REPLACE INTO run VALUES (?, ?)", (name, json.dumps(value)))

    def _get(self, name: str) -> str | None:
        try:
            found = self.db.execute("SELECT value FROM run WHERE name = ?", (name,)).fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return None
            raise
        return None if found is None else str(found[0])


def journal_of(output: str) -> Path:
    """Where the journal of a file is: beside it, or beside what it is a link to."""
    target = Path(output).resolve()
    name = target.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return target.with_name(f".{name}.journal")


def can_be_kept(output: str | None) -> bool:
    """Whether a run that writes there can have a journal: not to a pipe, a device or a URL."""
    if output is None or is_url(output):
        return False
    return os.path.isfile(output) or not os.path.exists(output)


@contextmanager
def room_for(name: str) -> Iterator[None]:
    """Say in one sentence that a database has no room."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OutputError(f"cannot keep {name}: {error}") from error


def _opened(place: Path) -> sqlite3.Connection:
    """The database at ``place``, locked; one that is damaged is made anew."""
    db = sqlite3.connect(place, timeout=0)
    try:
        for line in ("locking_mode = EXCLUSIVE", "synchronous = OFF", "journal_mode = WAL"):
            db.execute(f"PRAGMA {line}").fetchone()
        db.execute("BEGIN IMMEDIATE")
        db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        db.commit()
        db.execute("PRAGMA synchronous = NORMAL")
    except sqlite3.OperationalError as error:
        db.close()
        if error.sqlite_errorname.startswith("SQLITE_BUSY"):
            raise _Busy from error
        raise
    except sqlite3.DatabaseError:  # nobody lives who could have written this
        db.close()
        _remove(place)
        return _opened(place)
    return db


def _remove(place: Path) -> None:
    for suffix in _BESIDE:
        place.with_name(place.name + suffix).unlink(missing_ok=True)


def _check(before: Settings, now: Settings, output: str) -> None:
    """Refuse to go on with a run that had other settings."""
    now = json.loads(json.dumps(dict(now)))
    other = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if other:
        raise UsageError(
            f"the run that was cut off while it wrote {printable(output)} had another "
            f"{' and another '.join(other)}; go on with the same, or start over without --resume"
        )
