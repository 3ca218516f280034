"""A new scorer is a class and a line in the registry: it is adapted for, scores, is shown and exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from anomscan.adapt.options import BackboneChoice
from anomscan.model.folder import read_manifest
from anomscan.model.model import read_model
from anomscan.scoring import registry
from anomscan.scoring.base import Scorer
from anomscan.scoring.info import ScorerInfo
from anomscan.scoring.registry import Entry
from anomscan.types import Features, Outputs
from tests.cli.rows import rows
from tests.conftest import Run, draw_odd


class Farthest(Scorer):
    """Distance to the k-th normal alone, over the largest such distance among the normals."""

    name = "farthest"
    uses_neighbours = True

    def learn(self, features: Features, seed: int) -> None:
        distances = 1 - features @ features.T
        self.arrays = {"scale": np.sort(distances, axis=1)[:, 2].max(keepdims=True)}

    def score(self, outputs: Outputs, k: int) -> Features:
        scores: Features = self.gallery.search(outputs.image, k)[0][:, -1] / self.arrays["scale"]
        return scores

    @classmethod
    def describe(cls, info: ScorerInfo) -> str:
        return f"the {info.k}nd nearest normal"


def test_it_is_adapted_for_scores_is_shown_and_exported(
    run: Run,
    small: BackboneChoice,
    normal_folder: Path,
    incoming: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(registry.SCORERS, "farthest", Entry("farthest", f"{__name__}:Farthest"))
    draw_odd(1).save(incoming / "odd.png")
    assert small.weights is not None
    backbone = ("--backbone", small.name, "--weights", small.weights, "--size", str(small.size))
    adapted = run("adapt", normal_folder, "--method", "none", "--scorer", "farthest", *backbone)
    assert adapted.returncode == 0, adapted.stderr.decode()
    assert read_manifest(str(tmp_path / "anomscan-model")).scorer == ScorerInfo("farthest")

    model = read_model(str(tmp_path / "anomscan-model"), threads=1)
    assert isinstance(model.scorer, Farthest)
    done = run("score", "incoming", "--fpr", "0.2")
    found = rows(done.stdout)
    assert (done.returncode, Path(found[0]["path"]).name) == (0, "odd.png")
    assert {row["p_value"] for row in found} <= {str(i / 5) for i in range(1, 6)}
    first = rows(run("score", "incoming/odd.png", "--k", "1").stdout)
    assert float(first[0]["score"]) < float(found[0]["score"])

    assert "the 2nd nearest normal" in run("info").stdout.decode()
    assert json.loads(run("info", "--json").stdout)["scorer"]["name"] == "farthest"
    assert run("export", "out.onnx").returncode == 0
    refused = run("export", "all.onnx", "--with-scorer").stderr.decode()
    assert "the scorer farthest cannot be written as ONNX; leave --with-scorer out" in refused
    evaluated = run("evaluate", "incoming", normal_folder, "--json")
    assert evaluated.returncode == 0
    added = run("index", "--add", "incoming/odd.png")
    assert added.returncode == 0, added.stderr.decode()
    assert "farthest" in run("index", normal_folder, "--scorer", "nearest").stderr.decode()


def test_without_its_line_the_model_is_too_new(
    run: Run, normal_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    text = (model_folder / "model.json").read_text().replace('"name": "knn"', '"name": "farthest"')
    shutil.copytree(model_folder, tmp_path / "m")
    (tmp_path / "m" / "model.json").write_text(text)
    done = run("score", normal_folder, "--model", "m")
    assert done.returncode == 1
    assert b"the model scores by 'farthest', which this version does not know" in done.stderr
    assert done.stderr.count(b"\n") == 1
