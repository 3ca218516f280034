"""The model folder: several files that change together, atomically.

``model.json`` is the only file with a fixed name that is ever replaced, and it is replaced last. Every
other file has a piece of its SHA-256 in its name and is never changed once it has that name. So whoever
reads ``model.json`` sees the old model or the new one, never a mixture, whenever a writer dies.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from anomscan.atomic import sha256, sync
from anomscan.calibration import Calibration
from anomscan.config import SCHEMA, FileInfo, Manifest
from anomscan.errors import ModelDamaged, ModelError, ModelNotFound, ModelTooNew, OutputError
from anomscan.extractor import Extractor
from anomscan.gallery import Gallery
from anomscan.scorers import Scorer, load_scorer

MANIFEST = "model.json"
EXTRACTOR, WEIGHTS, INDEX, NORMALS, SCORER = "extractor", "weights", "index", "normals", "scorer"
CALIBRATION = "calibration"
_NAMES = {
    EXTRACTOR: "extractor-{}.onnx",
    WEIGHTS: "extractor-{}.safetensors",
    INDEX: "index-{}.faiss",
    NORMALS: "gallery-{}.json",
    SCORER: "scorer-{}.npz",
    CALIBRATION: "calibration-{}.npz",
}
_OURS = re.compile(
    r"(extractor|index|gallery|scorer|calibration)-[0-9a-f]{16}\.(onnx|safetensors|faiss|json|npz)"
)
_STAGING = ".staging-"
_STALE_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Model:
    """A loaded model: what ``score`` needs. ``normals[i]`` is the path of the gallery's i-th vector.

    ``calibration`` is None where no normals were held out; then there are no p-values.
    """

    manifest: Manifest
    extractor: Extractor
    gallery: Gallery
    scorer: Scorer
    normals: list[str]
    calibration: Calibration | None

    def calibrated(self, k: int) -> Calibration | None:
        """The calibration for scores by ``k`` neighbours."""
        if self.calibration is None or k == self.manifest.scorer.k:
            return self.calibration
        return self.calibration.rescored(self.scorer.score(self.calibration.features, self.gallery, k))


def read_manifest(folder: Path) -> Manifest:
    """Read ``model.json``.

    Raises:
        ModelNotFound: there is none.
        ModelTooNew: its schema is newer than this version knows.
        ModelDamaged: it is not a manifest.
    """
    try:
        data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if data["schema"] > SCHEMA:
            raise ModelTooNew(
                f"{folder} was written by a newer anomscan ({data.get('anomscan', 'unknown version')}); "
                "upgrade anomscan or adapt again"
            )
        return Manifest.from_json(data)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelNotFound(
            f"no model in {folder}; make one with 'anomscan adapt NORMAL_FOLDER', or name it with --model"
        ) from error
    except OSError as error:
        raise ModelError(f"cannot read {folder / MANIFEST}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelDamaged(f"{folder / MANIFEST} is not a manifest of anomscan") from error


def read_model(folder: Path, threads: int, device: str = "cpu") -> Model:
    """Load the model of ``folder`` for scoring; every file's checksum is verified.

    ``threads`` and ``device`` are the extractor's.

    A writer may replace the model meanwhile and delete the files of the old one; then the new is read.

    Raises:
        ModelError: see ``read_manifest``; also a missing or altered file.
    """
    while True:
        manifest = read_manifest(folder)
        try:
            return Model(
                manifest=manifest,
                extractor=Extractor(verified(folder, manifest, EXTRACTOR), threads, device),
                gallery=Gallery.load(verified(folder, manifest, INDEX)),
                scorer=load_scorer(manifest.scorer, verified(folder, manifest, SCORER)),
                normals=read_normals(folder, manifest),
                calibration=Calibration.load(verified(folder, manifest, CALIBRATION))
                if CALIBRATION in manifest.files
                else None,
            )
        except (ModelDamaged, FileNotFoundError):
            if read_manifest(folder) == manifest:
                raise


def write_normals(path: Path, normals: list[str]) -> None:
    """Write the gallery's paths as JSON; ASCII, so that names of any bytes come back exactly."""
    path.write_text(json.dumps(normals, indent=0), encoding="ascii")


def read_normals(folder: Path, manifest: Manifest) -> list[str]:
    """The gallery's paths; raises ModelDamaged."""
    normals: list[str] = json.loads(verified(folder, manifest, NORMALS).read_text(encoding="ascii"))
    return normals


def verified(folder: Path, manifest: Manifest, role: str) -> Path:
    """Path of the file with that role, after checking its SHA-256; raises ModelDamaged."""
    if role not in manifest.files:
        raise ModelDamaged(f"the model in {folder} names no {role} file; adapt again")
    file = manifest.files[role]
    path = folder / file.name
    try:
        if sha256(path) == file.sha256:
            return path
    except OSError as error:
        raise ModelDamaged(f"the model in {folder} lacks {file.name}: {error.strerror}") from error
    raise ModelDamaged(f"{path} is not the file that was written: its checksum differs; adapt again")


def linked(folder: Path, manifest: Manifest, roles: Iterable[str], stage: Path) -> dict[str, Path]:
    """Stage files that ``folder`` has already, to be committed again; verified first.

    Linked where the file system can, since an index may be large.
    """
    files = {}
    for role in roles:
        source = verified(folder, manifest, role)
        files[role] = stage / source.name
        try:
            os.link(source, files[role])
        except OSError:
            shutil.copyfile(source, files[role])
    return files


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """An empty folder inside ``folder`` to prepare a model in; gone when the block ends.

    Raises:
        OutputError: ``folder`` cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)
        stage = tempfile.mkdtemp(prefix=_STAGING, dir=folder)
    except OSError as error:
        raise OutputError(f"cannot write the model folder {folder}: {error.strerror}") from error
    try:
        yield Path(stage)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        with suppress(OSError):
            folder.rmdir()  # only where it is empty: nothing was committed


def _remove_stale(folder: Path) -> None:
    for stage in folder.glob(_STAGING + "*"):
        if time.time() - stage.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(stage, ignore_errors=True)


def commit(folder: Path, staged: dict[str, Path], manifest: Manifest) -> Manifest:
    """Make the staged files the model of ``folder``; the old model's files are deleted afterwards.

    Args:
        folder: the model folder.
        staged: role to file, on the same file system; the files are moved.
        manifest: everything but ``files``, which is filled in here.

    Returns:
        The manifest as written.

    Raises:
        OutputError: the folder cannot be written; the old model stays.
    """
    files: dict[str, FileInfo] = {}
    try:
        for role, path in staged.items():
            digest = sha256(path)
            files[role] = FileInfo(_NAMES[role].format(digest[:16]), digest)
            path.chmod(0o644)
            sync(path)
            path.replace(folder / files[role].name)
        sync(folder)
        complete = replace(manifest, files=files)
        with tempfile.NamedTemporaryFile("w", dir=folder, prefix=_STAGING, delete=False) as text:
            json.dump(complete.to_json(), text, indent=2)
        sync(Path(text.name))
        Path(text.name).chmod(0o644)
        os.replace(text.name, folder / MANIFEST)
        sync(folder)
    except OSError as error:
        raise OutputError(f"cannot write the model folder {folder}: {error.strerror}") from error
    _remove_unreferenced(folder, complete)
    return complete


def _remove_unreferenced(folder: Path, manifest: Manifest) -> None:
    kept = {file.name for file in manifest.files.values()}
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in kept:
            path.unlink(missing_ok=True)
