"""What a watch has done and has still to do: an embedded SQLite file that outlives a killed process.

One transaction says everything of a batch: which files it is about, the rows as they will stand in the
output and where, and what is to be done with the anomalous ones. From then on the batch is reported, whatever
happens: a process that dies leaves rows to append, which the next one completes, and duties, which it does.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anomscan.errors import StateError
from anomscan.files.append import Place
from anomscan.files.lock import Busy, locked
from anomscan.files.storage import Identity
from anomscan.text import printable

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS known (path BLOB PRIMARY KEY, inode, size, modified_ns) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS appending (output BLOB, inode, size, text BLOB, rows, anomalous, unreadable);
CREATE TABLE IF NOT EXISTS duty (id INTEGER PRIMARY KEY, path BLOB, identity, score, p_value, called);
CREATE TABLE IF NOT EXISTS number (name, slot, value, PRIMARY KEY (name, slot)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS note (name PRIMARY KEY, text) WITHOUT ROWID;
"""
_CHUNK = 256
_CACHE = 500
"""KiB of the file that SQLite holds; it is filled soon, and then the memory is what it will always be."""
_BITS = 2**63 - 1


@dataclass(frozen=True)
class Appending:
    """Rows that are to stand at ``place`` of ``output``: how many, how many anomalous, how many errors."""

    output: str | None
    place: Place
    text: bytes
    rows: int = 0
    anomalous: int = 0
    unreadable: int = 0


@dataclass(frozen=True)
class Duty:
    """An anomalous file with which something is to be done; ``called`` says that the command was."""

    path: str
    identity: Identity
    score: float | None
    p_value: float | None
    called: bool = False
    number: int = 0


@dataclass
class Batch:
    """What one transaction says; ``numbers`` are values by name and slot, ``notes`` texts by name."""

    known: list[tuple[str, Identity | None]] = field(default_factory=list)
    appending: Appending | None = None
    duties: list[Duty] = field(default_factory=list)
    numbers: dict[str, dict[int, float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


class Ledger:
    """The open file; see ``Ledger.open``. Every method raises StateError where SQLite cannot go on."""

    def __init__(self, path: str, db: sqlite3.Connection) -> None:
        self._path = path
        self._db = db

    @classmethod
    @contextmanager
    def open(cls, path: str, folder: str) -> Iterator[Ledger]:
        """The ledger in the file ``path``, made if it is not there, of a watch of ``folder``; held alone.

        Raises:
            StateError: another process has it, it is of another folder or version, or is none.
        """
        where = printable(path)
        with ExitStack() as held:
            try:
                held.enter_context(locked(Path(path + ".lock"), 0.0))
                db = sqlite3.connect(path, isolation_level=None)
            except Busy as busy:
                raise StateError(f"process {busy} is watching with {where}; name another --state") from busy
            except OSError as error:
                raise StateError(f"cannot use {where}: {error.strerror}") from error
            except sqlite3.Error as error:
                raise StateError(f"cannot use {where}: {error}") from error
            held.callback(db.close)
            ledger = cls(path, db)
            ledger._begin(folder)
            yield ledger

    def _begin(self, folder: str) -> None:
        self._run("PRAGMA journal_mode = WAL")
        self._run("PRAGMA synchronous = FULL")
        self._run(f"PRAGMA cache_size = -{_CACHE}")
        version = self._run("PRAGMA user_version").fetchone()[0]
        if version not in (0, _VERSION):
            raise StateError(f"{printable(self._path)} was written by another version of anomscan")
        for statement in _SCHEMA.split(";\n"):
            self._run(statement)
        self._run(f"PRAGMA user_version = {_VERSION}")
        mine = json.dumps(os.path.realpath(folder))
        known = self.note("folder")
        if known is None:
            self.commit(Batch(notes={"folder": mine}))
        elif known != mine:
            other = printable(json.loads(known))
            raise StateError(f"{printable(self._path)} is of a watch of {other}; name another --state")

    def _run(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        try:
            return self._db.execute(sql, values)
        except sqlite3.Error as error:
            raise StateError(f"cannot use {printable(self._path)}: {error}") from error

    def knows(self, path: str, identity: Identity | None) -> bool:
        """Whether the file was reported in this state; None is one that has no state."""
        found = self._run(
            "SELECT inode, size, modified_ns FROM known WHERE path = ?", (os.fsencode(path),)
        ).fetchone()
        return found is not None and found == _state(identity)

    def commit(self, batch: Batch) -> None:
        """Write all of ``batch`` or nothing, down to the disk."""
        self._run("BEGIN IMMEDIATE")
        try:
            for path, identity in batch.known:
                self._run(
                    "INSERT OR REPLACE INTO known VALUES (?, ?, ?, ?)",
                    (os.fsencode(path), *_state(identity)),
                )
            if (rows := batch.appending) is not None:
                output = None if rows.output is None else os.fsencode(rows.output)
                place = (rows.place.inode & _BITS, rows.place.size)
                self._run(
                    "INSERT INTO appending VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (output, *place, rows.text, rows.rows, rows.anomalous, rows.unreadable),
                )
            for duty in batch.duties:
                self._run(
                    "INSERT INTO duty (path, identity, score, p_value, called) VALUES (?, ?, ?, ?, ?)",
                    (
                        os.fsencode(duty.path),
                        json.dumps(duty.identity.values),
                        duty.score,
                        duty.p_value,
                        duty.called,
                    ),
                )
            self._put(batch.numbers)
            for name, text in batch.notes.items():
                self._run("INSERT OR REPLACE INTO note VALUES (?, ?)", (name, text))
            self._run("COMMIT")
        except BaseException:
            self._db.rollback()
            raise

    def _put(self, numbers: Mapping[str, Mapping[int, float]]) -> None:
        for name, values in numbers.items():
            for slot, value in values.items():
                self._run("INSERT OR REPLACE INTO number VALUES (?, ?, ?)", (name, slot, value))

    def begin_anew(self, names: Iterable[str], batch: Batch) -> None:
        """Forget the numbers and notes of these names; those of ``batch`` take their place."""
        for name in names:
            self._run("DELETE FROM number WHERE name = ?", (name,))
            self._run("DELETE FROM note WHERE name = ?", (name,))
        self.commit(batch)

    def appending(self) -> Appending | None:
        """Rows that may not be in the output yet, or not all of them."""
        found = self._run("SELECT * FROM appending").fetchone()
        if found is None:
            return None
        output, inode, size, *counted = found
        return Appending(None if output is None else os.fsdecode(output), Place(inode, size), *counted)

    def appended(self) -> None:
        """Those rows are safe."""
        self._run("DELETE FROM appending")

    def duties(self, *, uncalled: bool = False) -> Iterator[list[Duty]]:
        """All that is to be done, the oldest first, some at a time; or where the command was not called."""
        last = 0
        while True:
            found = self._run(
                "SELECT path, identity, score, p_value, called, id FROM duty WHERE id > ? AND called <= ? "
                "ORDER BY id LIMIT ?",
                (last, not uncalled, _CHUNK),
            ).fetchall()
            if not found:
                return
            last = found[-1][-1]
            yield [
                Duty(os.fsdecode(path), Identity(*json.loads(identity)), score, p_value, bool(called), number)
                for path, identity, score, p_value, called, number in found
            ]

    def called(self, duty: Duty) -> None:
        """The command was called for it."""
        self._run("UPDATE duty SET called = 1 WHERE id = ?", (duty.number,))

    def done(self, duties: Iterable[Duty]) -> None:
        """Nothing is left to do with them."""
        self._run("BEGIN IMMEDIATE")
        for duty in duties:
            self._run("DELETE FROM duty WHERE id = ?", (duty.number,))
        self._run("COMMIT")

    def numbers(self, name: str) -> list[float]:
        """The values of that name, in the order of their slots."""
        found = self._run("SELECT value FROM number WHERE name = ? ORDER BY slot", (name,))
        return [value for (value,) in found]

    def note(self, name: str) -> str | None:
        """The text of that name."""
        found = self._run("SELECT text FROM note WHERE name = ?", (name,)).fetchone()
        return None if found is None else str(found[0])


def _state(identity: Identity | None) -> tuple[int, int, int]:
    """Its columns; an inode may have 64 bits, of which SQLite has 63."""
    return (0, 0, 0) if identity is None else (identity.inode & _BITS, identity.size, identity.modified_ns)
