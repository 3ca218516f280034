"""A model in memory: all that scoring needs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from anomscan.errors import ModelDamaged
from anomscan.model.folder import read_manifest, verified
from anomscan.model.manifest import Manifest
from anomscan.network.extractor import Extractor
from anomscan.network.network import EXTRACTOR
from anomscan.scoring.base import INDEX, SCORER, Scorer
from anomscan.scoring.gallery import Gallery
from anomscan.scoring.registry import patched_class, scorer_class
from anomscan.stats.calibration import CALIBRATION, Calibration
from anomscan.types import Outputs

if TYPE_CHECKING:
    from anomscan.scoring.patches import NormalPatches
    from anomscan.scoring.rejects import Rejects

NORMALS = "normals"
"""Role of the file that says which normal each vector of the gallery came from."""


@dataclass(frozen=True)
class Model:
    """A loaded model: what ``score`` needs. ``normals[i]`` is the path of the gallery's i-th vector.

    ``calibration`` is None where no normals calibrate; then there are no p-values.
    """

    manifest: Manifest
    extractor: Extractor
    scorer: Scorer
    normals: list[str]
    calibration: Calibration | None

    @property
    def gallery(self) -> Gallery:
        """The scorer's, of whole images."""
        return self.scorer.gallery

    @property
    def patches(self) -> NormalPatches | None:
        """The patches of normals that the scorer compares with, if it looks at any."""
        return self.scorer.patches

    @property
    def rejects(self) -> Rejects | None:
        """The missed anomalies that the scorer compares with, if there are any."""
        return self.scorer.rejects

    def __post_init__(self) -> None:
        if len(self.normals) < len(self.gallery):
            raise ModelDamaged("the model names fewer normals than its gallery holds; adapt again")
        wide = self.gallery.dim * self.manifest.preprocessing.tile_count
        if self.calibration is not None and self.calibration.features.shape[1] != wide:
            raise ModelDamaged("the model's calibration does not go with its gallery; adapt again")
        groups = None if self.calibration is None else self.calibration.gallery
        if groups is not None and not len(groups) == len(self.gallery) == len(self.normals):
            raise ModelDamaged("the model's calibration does not go with its gallery; adapt again")

    def calibrated(self, k: int) -> Calibration | None:
        """The calibration for scores by ``k`` neighbours."""
        if self.calibration is None or k == self.manifest.scorer.k:
            return self.calibration
        outputs = Outputs(self.calibration.features)
        if self.calibration.gallery is None:
            return self.calibration.rescored(self.scorer.score(outputs, k))
        return self.calibration.rescored(self.scorer.apart(outputs, k, self.calibration.apart(self.normals)))


def read_model(folder: str, threads: int, device: str = "cpu") -> Model:
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
                scorer=read_scorer(folder, manifest),
                normals=read_normals(folder, manifest),
                calibration=Calibration.load(verified(folder, manifest, CALIBRATION))
                if CALIBRATION in manifest.files
                else None,
            )
        except (ModelDamaged, FileNotFoundError):
            if read_manifest(folder) == manifest:
                raise


def read_scorer(folder: str, manifest: Manifest) -> Scorer:
    """The scorer with its galleries; raises ModelDamaged."""
    files = {role: verified(folder, manifest, role) for role in (INDEX, SCORER)}
    image: Scorer = scorer_class(manifest.scorer.name).load(manifest.scorer, files)
    tiles, scorer = manifest.preprocessing.tiles, image
    if manifest.patches is not None:
        patched = patched_class(manifest.focus.procedure)
        places = {role: verified(folder, manifest, role) for role in patched.roles}
        scorer = patched.over(image, manifest.patches, places)
    if tiles is not None:
        from anomscan.scoring.tiled import Tiled

        scorer = Tiled(scorer, tiles)
    if manifest.rejects is not None:
        from anomscan.scoring.rejects import REJECTS, Rejects

        if scorer.why_no_rejects() is not None:
            raise ModelDamaged("the model has rejects and a scorer that knows none; adapt again")
        scorer.reject(Rejects.load(verified(folder, manifest, REJECTS)))
    return scorer


def write_normals(folder: Path, normals: list[str]) -> dict[str, Path]:
    """Write the gallery's paths as JSON; ASCII, so that names of any bytes come back exactly."""
    file = folder / "gallery.json"
    file.write_text(json.dumps(normals, indent=0), encoding="ascii")
    return {NORMALS: file}


def read_normals(folder: str, manifest: Manifest) -> list[str]:
    """The gallery's paths; raises ModelDamaged."""
    path = verified(folder, manifest, NORMALS)
    try:
        normals = json.loads(path.read_text(encoding="ascii"))
    except (ValueError, RecursionError) as error:
        raise ModelDamaged(f"{path} is not a list of paths; adapt again") from error
    if not isinstance(normals, list) or not all(isinstance(normal, str) for normal in normals):
        raise ModelDamaged(f"{path} is not a list of paths; adapt again")
    return normals
