"""Files in a remote storage, by URL: what fsspec reaches, ``s3://``, ``gs://``, ``az://`` and others.

fsspec runs only here. A connection that drops is tried again, with longer and longer pauses; while a storage
stays away, what comes next is tried once. What fails in the end is an OSError with a sentence, as on a disk.
"""

from __future__ import annotations

import errno
import os
import posixpath
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from anomscan.errors import MissingExtra, OutputError, UsageError
from anomscan.extras import extra
from anomscan.files.storage import NOT_A_FILE, Identity

PAUSES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Seconds before each further attempt."""
IN_MEMORY = 64 << 20
"""Bytes up to which a file is read into memory; a larger one goes through the temporary folder."""
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "az", "abfss": "az"}
_FINAL: dict[type[OSError], int] = {
    FileNotFoundError: errno.ENOENT,
    PermissionError: errno.EACCES,
    IsADirectoryError: errno.EISDIR,
    NotADirectoryError: errno.ENOTDIR,
}
"""Errors that another attempt would not mend."""
_FOREIGN = (
    ("botocore.exceptions", "BotoCoreError"),
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
)
"""What the libraries below fsspec raise beside OSError, where they are in use."""
_OF_THIS_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError")
_WRITTEN = ("LastModified", "mtime", "last_modified", "updated", "created")
"""What storages call the time at which a file was last written."""
_BITS = 2**63 - 1

Result = TypeVar("Result")


class Remote:
    """A storage that is reached by URLs; see ``files.storage.Storage``."""

    def __init__(self) -> None:
        self._away = False

    def identity(self, path: str) -> Identity:
        """What ``path`` stands for now; a storage without folders has those in which something lies."""
        return _identity(path, self._info(path))

    def list(self, folder: str) -> Iterator[tuple[str, bool]]:
        """The names in ``folder``."""
        system, place = _reached(folder)
        for entry in self._tried(folder, lambda: system.ls(place, detail=True)):
            name = entry["name"].rstrip("/")
            if name != place:  # an object that stands for the folder
                yield posixpath.basename(name), entry["type"] == "directory"

    def open(self, path: str) -> BinaryIO:
        """All of the content of ``path``, brought here."""
        system, place = _reached(path)

        def content() -> BinaryIO:
            info = system.info(place)
            if info["type"] != "file":
                raise IsADirectoryError(errno.EISDIR, NOT_A_FILE)
            size = info["size"]
            small = (size or 0) <= IN_MEMORY
            file = BytesIO(system.cat_file(place)) if small else _brought(system, place)
            if file.seek(0, os.SEEK_END) != size is not None:
                system.invalidate_cache(posixpath.dirname(place))
                file.close()
                raise OSError(errno.EIO, "its content does not have the length that it should")
            file.seek(0)
            return file

        return self._tried(path, content)

    def publish(self, staged: Path, path: str) -> None:
        """Make ``staged`` the content of ``path``; on object storages at once, and for good."""
        system, place = _reached(path)
        self._tried(path, lambda: system.put_file(str(staged), place))

    def fetch(self, path: str, to: Path) -> None:
        """Write the content of ``path`` to a local file."""
        system, place = _reached(path)
        self._tried(path, lambda: system.get_file(place, str(to)))

    def remove(self, path: str) -> None:
        """Remove the file ``path``."""
        system, place = _reached(path)
        self._tried(path, lambda: system.rm_file(place))

    def _info(self, path: str) -> dict[str, Any]:
        system, place = _reached(path)
        found: dict[str, Any] = self._tried(path, lambda: system.info(place))
        return found

    def _tried(self, path: str, what: Callable[[], Result]) -> Result:
        """The result of ``what``; raises OSError where the last attempt fails, or more are of no use."""
        pauses = iter(() if self._away else PAUSES)
        while True:
            try:
                result = what()
            except tuple(_FINAL) as error:
                self._away = False
                raise _told(error, path) from error
            except _failures() as error:
                if getattr(error, "errno", None) in _OF_THIS_MACHINE:
                    raise
                useless = isinstance(error, ValueError) or type(error).__name__ in _NO_CREDENTIALS
                pause = None if useless else next(pauses, None)
                if pause is None:
                    self._away = True
                    raise OSError(errno.EIO, _reason(error), path) from error
                time.sleep(pause)
            else:
                self._away = False
                return result


REMOTE = Remote()
"""All of them: one that stays away is remembered."""


def _reached(path: str) -> tuple[Any, str]:
    """The file system of fsspec that holds ``path``, and what it calls it.

    Raises:
        MissingExtra: a package for it is not installed.
        UsageError: there is no such storage.
    """
    scheme = path.partition("://")[0]
    name = _EXTRAS.get(scheme, "remote")
    with extra(name, f"{scheme}://"):
        import fsspec
        from fsspec.config import conf
    for own in ("s3", "s3a"):  # attempts are made here; more below would take minutes
        conf.setdefault(own, {}).setdefault("config_kwargs", {}).setdefault("retries", {"max_attempts": 1})
    try:
        system, place = fsspec.url_to_fs(path)
    except ImportError as error:
        why = "" if scheme in _EXTRAS else f" and what reaches it ({error})"
        raise MissingExtra(
            f"{scheme}:// needs packages that are not installed: pip install 'anomscan[{name}]'{why}"
        ) from error
    except ValueError as error:
        raise UsageError(f"there is no storage {scheme}:// that {path} could be in: {error}") from error
    if hasattr(system, "retries"):
        system.retries = 1
    return system, place


def _failures() -> tuple[type[BaseException], ...]:
    """What may be raised for a connection, by the libraries that are in use."""
    loaded = ((sys.modules[module], name) for module, name in _FOREIGN if module in sys.modules)
    return (OSError, EOFError, ValueError, *(getattr(module, name) for module, name in loaded))


def _told(error: OSError, path: str) -> OSError:
    """A final error in the words of this machine, with the number that belongs to it."""
    number = next(number for kind, number in _FINAL.items() if isinstance(error, kind))
    return OSError(number, error.strerror or os.strerror(number), path)


def _reason(error: BaseException) -> str:
    """Why it failed, on one line."""
    first = (getattr(error, "strerror", None) or str(error)).strip().splitlines()
    return f"the storage cannot be reached ({first[0][:200] if first else type(error).__name__})"


def _identity(path: str, info: dict[str, Any]) -> Identity:
    kind = {"file": stat.S_IFREG, "directory": stat.S_IFDIR}.get(info["type"], 0)
    number = int.from_bytes(blake2b(os.fsencode(path.rstrip("/")), digest_size=8).digest())
    written = next((_nanoseconds(info[name]) for name in _WRITTEN if info.get(name)), 0)
    return Identity(0, number & _BITS, int(info["size"] or 0), written, kind, written)


def _nanoseconds(when: object) -> int:
    """A time, however a storage writes it; 0 where that is not known."""
    with suppress(ValueError):
        if isinstance(when, str):
            when = datetime.fromisoformat(when)
    if isinstance(when, datetime):
        when = when.timestamp()
    return int(when * 1e9) if isinstance(when, int | float) else 0


def _brought(system: Any, place: str) -> BinaryIO:
    """A large file, by way of one in the temporary folder that has no name any more."""
    with tempfile.NamedTemporaryFile(prefix="anomscan-") as local:
        system.get_file(place, local.name)
        return open(local.name, "rb")


@contextmanager
def whole_object(path: str) -> Iterator[Path]:
    """A local file that becomes the content of the URL ``path`` when the block ends without an error.

    Raises:
        OutputError: on entry, before any work, where ``path`` cannot be reached or is a folder; at the end
            where it cannot be written, and then the file is kept here, and named.
    """
    _check_place(path)
    with tempfile.TemporaryDirectory(prefix="anomscan-") as folder:
        staged = Path(folder, "staged")
        staged.touch()
        yield staged
        try:
            REMOTE.publish(staged, path)
        except OSError as error:
            descriptor, kept = tempfile.mkstemp(prefix="anomscan-", suffix=posixpath.basename(path)[-80:])
            os.close(descriptor)
            shutil.copyfile(staged, kept)
            raise OutputError(
                f"cannot write {path}: {error.strerror}; what was to be written there is in {kept}"
            ) from error


def _check_place(path: str) -> None:
    """Refuse a folder, and a place that is not there; who may write but not look is believed."""
    scheme, _, rest = path.partition("://")
    for place in (path, f"{scheme}://{rest.partition('/')[0]}"):
        try:
            if REMOTE.identity(place).is_folder and place == path:
                raise OutputError(f"cannot write {path}: it is a folder")
            return
        except FileNotFoundError as error:
            missing = error
        except PermissionError:
            return
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}") from error
    raise OutputError(f"cannot write {path}: there is no {place}") from missing
