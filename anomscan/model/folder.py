"""The model folder: several files that change together, atomically.

``model.json`` is the only file with a fixed name that is ever replaced, and it is replaced last. Every
other file has a piece of its SHA-256 in its name and is never changed once it has that name. So whoever
reads ``model.json`` sees the old model or the new one, never a mixture, whenever a writer dies. Writers keep
each other out, from reading the old model to committing the new one; readers wait for nobody.

A folder in a remote storage works alike, but for locks, which there are none of: a writer who finds another
model there than the one it began with gives up. Files are read from the cache of this machine.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from anomscan.errors import ModelBusy, ModelDamaged, ModelError, ModelNotFound, OutputError
from anomscan.files.atomic import sha256
from anomscan.files.lock import Busy, locked
from anomscan.files.storage import storage_of
from anomscan.files.urls import is_url
from anomscan.model.manifest import FILE_NAME, FileInfo, Manifest, parse_manifest

if TYPE_CHECKING:
    from anomscan.files.remote import Remote

MANIFEST = "model.json"
_PROBE = ".anomscan"
"""A file that is put into a remote folder and removed, to see whether that works."""
_LOCK, _STAGING, _CHECKPOINT = ".lock", ".staging-", ".checkpoint.safetensors"
_STALE_SECONDS = 24 * 3600.0
_LARGEST_MANIFEST = 100_000_000


def read_manifest(folder: str) -> Manifest:
    """Read ``model.json``.

    Raises:
        ModelNotFound: there is none.
        ModelTooNew, ModelDamaged: see ``parse_manifest``.
        ModelError: it cannot be read.
    """
    return parse_manifest(_manifest_text(folder), folder)


def _manifest_text(folder: str) -> bytes:
    """What stands in ``model.json``; raises as ``read_manifest``."""
    path = os.path.join(folder, MANIFEST)
    storage = storage_of(path)
    try:
        if not storage.identity(path).is_file:
            raise ModelDamaged(f"{path} is not a regular file")
        with storage.open(path) as file:
            text = file.read(_LARGEST_MANIFEST + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelNotFound(
            f"no model in {folder}; make one with 'anomscan adapt NORMAL_FOLDER', or name it with --model"
        ) from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    if len(text) > _LARGEST_MANIFEST:
        raise ModelDamaged(f"{path} is too large to be a manifest")
    return text


def verified(folder: str, manifest: Manifest, role: str) -> Path:
    """Path of the file with that role, after checking its SHA-256; raises ModelDamaged, ModelError."""
    if role not in manifest.files:
        raise ModelDamaged(f"the model in {folder} names no {role} file; adapt again")
    file = manifest.files[role]
    if is_url(folder):
        return _fetched(folder, file)
    path = Path(folder, file.name)
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ModelDamaged(f"{path} is not a regular file, as those of a model are")
        if sha256(path) == file.sha256:
            return path
    except OSError as error:
        raise ModelDamaged(f"the model in {folder} lacks {file.name}: {error.strerror}") from error
    raise ModelDamaged(f"{path} is not the file that was written: its checksum differs; adapt again")


def _fetched(folder: str, file: FileInfo) -> Path:
    """The same of a model in a remote storage: a copy on this machine."""
    from anomscan.files.cache import cached

    url = f"{folder.rstrip('/')}/{file.name}"
    try:
        path = cached(url, file.sha256)
    except FileNotFoundError as error:
        raise ModelDamaged(f"the model in {folder} lacks {file.name}: {error.strerror}") from error
    except OSError as error:
        raise ModelError(f"cannot read {error.filename or url}: {error.strerror}") from error
    if path is None:
        raise ModelDamaged(f"{url} is not the file that was written: its checksum differs; adapt again")
    return path


@dataclass
class ModelDraft:
    """A model being written: files are put into ``scratch`` and become the model of ``folder`` all at once.

    Args:
        folder: the model folder.
        scratch: a folder on the same file system, empty at first, gone at the end; for a remote folder a
            temporary one.
        alone: whether other writers are kept out; False where the file system has no locks.
        before: what stood in ``model.json`` of a remote folder at the beginning.
    """

    folder: str
    scratch: Path
    alone: bool
    before: bytes | None = None
    _files: dict[str, Path] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def begin(cls, folder: str, wait: float = 0.0) -> Iterator[ModelDraft]:
        """Keep other writers out, who may take ``wait`` seconds to finish, until the block ends.

        Nothing changes unless the block commits. What dead writers have left is removed.

        Raises:
            ModelBusy: another process is writing this model.
            OutputError: ``folder`` cannot be created or written.
        """
        if is_url(folder):
            with tempfile.TemporaryDirectory(prefix="anomscan-") as local:
                _check_writable(folder, Path(local))
                yield cls(folder, Path(local), alone=False, before=_text_if_any(folder))
            return
        place = Path(folder)
        with ExitStack() as held:
            try:
                alone = held.enter_context(_locked(place, wait))
                _remove_leftovers(place, alone)
                scratch = Path(tempfile.mkdtemp(prefix=_STAGING, dir=place))
            except Busy as busy:
                raise ModelBusy(
                    f"process {busy} is writing the model in {folder}; wait for it with --wait SECONDS"
                ) from busy
            except OSError as error:
                raise OutputError(f"cannot write the model folder {folder}: {error.strerror}") from error
            held.callback(_clear, place, scratch)
            try:
                yield cls(folder, scratch, alone)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise OutputError(f"cannot write the model folder {folder}: {error.strerror}") from error

    @property
    def checkpoint(self) -> Path:
        """Where the state of a training run may be kept: there until something is committed.

        Of a model in a remote storage it is gone with the draft.
        """
        return (self.scratch if is_url(self.folder) else Path(self.folder)) / _CHECKPOINT

    def base(self) -> Manifest | None:
        """The model that the folder holds now, if any."""
        try:
            return read_manifest(self.folder)
        except ModelNotFound:
            return None

    def put(self, files: dict[str, Path]) -> ModelDraft:
        """Let finished files, by role, be the model's; they lie in ``scratch`` and are moved."""
        self._files.update(files)
        return self

    def keep(self, manifest: Manifest, roles: Iterable[str]) -> ModelDraft:
        """Let files that the folder has already be those of the new model too; verified first."""
        return self.put(linked(self.folder, manifest, roles, self.scratch))

    def commit(self, manifest: Manifest) -> Manifest:
        """Make all files that were put the model; the old model's are deleted afterwards.

        Args:
            manifest: everything but ``files``, which is filled in here.

        Returns:
            The manifest as written.

        Raises:
            OutputError: the folder cannot be written; the old model stays.
            ModelBusy: another process has written the model in a remote folder meanwhile.
        """
        storage = storage_of(self.folder)
        files: dict[str, FileInfo] = {}
        try:
            for role, path in self._files.items():
                digest = sha256(path)
                name = f"{path.stem.partition('-')[0]}-{digest[:16]}{path.suffix}"
                files[role] = FileInfo(name, digest)
                path.chmod(0o644)
                storage.publish(path, os.path.join(self.folder, name))
            complete = replace(manifest, files=files, schema=manifest.least_schema)
            text = self.scratch / MANIFEST
            text.write_text(json.dumps(complete.to_json(), indent=2), encoding="utf-8")
            text.chmod(0o644)
            if is_url(self.folder) and _text_if_any(self.folder) != self.before:
                raise ModelBusy(
                    f"another process has written the model in {self.folder} meanwhile; run this again"
                )
            storage.publish(text, os.path.join(self.folder, MANIFEST))
        except OSError as error:
            raise OutputError(f"cannot write the model folder {self.folder}: {error.strerror}") from error
        self._remove_unreferenced(complete)
        self.checkpoint.unlink(missing_ok=True)
        return complete

    def _remove_unreferenced(self, manifest: Manifest) -> None:
        kept = {file.name for file in manifest.files.values()}
        if is_url(self.folder):
            self._remove_old(kept)
            return
        for path in Path(self.folder).iterdir():
            if re.fullmatch(FILE_NAME, path.name) and path.name not in kept and _is_over(path, self.alone):
                path.unlink(missing_ok=True)

    def _remove_old(self, kept: set[str]) -> None:
        """Remove the files of the model before from a remote folder; one that stays does no harm."""
        if self.before is None:
            return
        with suppress(ModelError):
            for file in parse_manifest(self.before, self.folder).files.values():
                if file.name not in kept:
                    with suppress(OSError):
                        _remote().remove(os.path.join(self.folder, file.name))


def _remote() -> Remote:
    from anomscan.files.remote import REMOTE

    return REMOTE


def _text_if_any(folder: str) -> bytes | None:
    """What stands in ``model.json``, if there is one."""
    try:
        return _manifest_text(folder)
    except ModelNotFound:
        return None


def _check_writable(folder: str, scratch: Path) -> None:
    """Raise OutputError, before any work, where nothing can be put into a remote folder."""
    probe, place = scratch / _PROBE, os.path.join(folder, _PROBE)
    probe.touch()
    try:
        _remote().publish(probe, place)
    except OSError as error:
        raise OutputError(f"cannot write the model folder {folder}: {error.strerror}") from error
    with suppress(OSError):
        _remote().remove(place)


def linked(folder: str, manifest: Manifest, roles: Iterable[str], into: Path) -> dict[str, Path]:
    """Files of the model, by role, verified and brought ``into`` a folder; as links where that works."""
    files = {}
    for role in roles:
        source = verified(folder, manifest, role)
        files[role] = into / manifest.files[role].name
        try:
            os.link(source, files[role])
        except OSError:
            shutil.copyfile(source, files[role])
    return files


@contextmanager
def _locked(place: Path, wait: float) -> Iterator[bool]:
    """Hold the lock of a folder, which is made: a writer who was waited for may have removed it."""
    with ExitStack() as held:
        while True:
            place.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                alone = held.enter_context(locked(place / _LOCK, wait))
                break
        yield alone


def _clear(place: Path, scratch: Path) -> None:
    """End a draft; where nothing was ever committed, no trace of it is left."""
    shutil.rmtree(scratch, ignore_errors=True)
    if not (place / MANIFEST).exists():
        (place / _LOCK).unlink(missing_ok=True)
        with suppress(OSError):
            place.rmdir()


def _remove_leftovers(place: Path, alone: bool) -> None:
    for path in place.glob(_STAGING + "*"):
        if _is_over(path, alone):
            shutil.rmtree(path, ignore_errors=True)


def _is_over(path: Path, alone: bool) -> bool:
    """Whether no writer that lives can still want ``path``: known with a lock, else by its age."""
    with suppress(FileNotFoundError):
        return alone or time.time() - path.stat().st_mtime > _STALE_SECONDS
    return False
