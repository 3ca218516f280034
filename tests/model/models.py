"""Model folders to change."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anomscan.model.folder import ModelDraft, read_manifest
from anomscan.model.manifest import Manifest
from anomscan.model.model import write_normals
from anomscan.network.network import EXTRACTOR, WEIGHTS
from anomscan.scoring.base import INDEX, SCORER
from anomscan.scoring.gallery import Gallery


def put_normals(draft: ModelDraft, count: int) -> Manifest:
    """Put the files of the draft's folder, with a gallery of that many random vectors."""
    manifest = read_manifest(draft.folder)
    draft.keep(manifest, (EXTRACTOR, WEIGHTS, SCORER))
    vectors = np.random.default_rng(count).normal(size=(count, manifest.backbone.dim)).astype(np.float32)
    index = draft.scratch / "index.faiss"
    Gallery.build(vectors).save(index)
    draft.put({INDEX: index})
    draft.put(write_normals(draft.scratch, [f"/{count}/{i}.png" for i in range(count)]))
    return manifest


def replace_model(folder: Path, count: int, wait: float = 0.0) -> Manifest:
    """Commit a model of that many normals."""
    with ModelDraft.begin(str(folder), wait) as draft:
        return draft.commit(put_normals(draft, count))
