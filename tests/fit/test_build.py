from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import anomscan
from anomscan.errors import GalleryTooSmall, InputError
from anomscan.fit.build import HeldOut, Material, build, build_from, notes
from anomscan.fit.embed import Embedded
from anomscan.fit.normals import Normals
from anomscan.images.find import Unreadable
from anomscan.model.folder import ModelDraft, read_manifest
from anomscan.model.manifest import Change, DataInfo, HoldOut
from anomscan.model.model import read_model
from anomscan.scoring.reduction import Reduction
from anomscan.scoring.registry import make_scorer, parse_scorer
from anomscan.types import Outputs
from tests.conftest import silent
from tests.fakes import fake_network


def material(count: int, held_out: int = 0) -> Material:
    """Made features, of norm 1."""
    x = np.random.default_rng(0).normal(size=(count + held_out, 192)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    paths = [f"/n/{i}.png" for i in range(count + held_out)]
    others = None
    if held_out:
        images = Embedded("/n", paths[count:], Outputs(x[count:]), [], "f")
        others = HeldOut.of(images, HoldOut(0.5, "none"), {})
    return Material(Outputs(x[:count]), paths[:count], others, DataInfo("/n", count, 0, "f"))


def test_what_is_built_is_read_back(tmp_path: Path) -> None:
    given = replace(material(12, 5), changes=[Change("today", "added", ["/n/0.png"])])
    with ModelDraft.begin(str(tmp_path / "m")) as draft:
        network = fake_network(draft.scratch)
        manifest = build(draft, network, make_scorer(parse_scorer("knn")), given, silent).manifest
    model = read_model(str(tmp_path / "m"), threads=1)
    assert model.manifest == manifest == read_manifest(str(tmp_path / "m"))
    assert model.normals == given.paths
    np.testing.assert_array_equal(model.gallery.vectors(), given.outputs.image)
    assert model.calibration is not None
    np.testing.assert_allclose(
        model.calibration.scores, model.scorer.score(Outputs(model.calibration.features), 2), rtol=1e-6
    )
    assert (manifest.anomscan, manifest.changes) == (anomscan.__version__, given.changes)
    assert (manifest.backbone, manifest.method) == (network.backbone, network.method)
    assert manifest.calibration == given.held_out.info  # type: ignore[union-attr]
    assert "numpy" in manifest.versions


def test_a_reduced_gallery_names_the_normals_it_kept(tmp_path: Path) -> None:
    given = material(12)
    with ModelDraft.begin(str(tmp_path / "m")) as draft:
        scorer = make_scorer(parse_scorer("knn"))
        build(draft, fake_network(draft.scratch), scorer, given, silent, Reduction.parse("coreset:4"))
    model = read_model(str(tmp_path / "m"), threads=1)
    for path, vector in zip(model.normals, model.gallery.vectors(), strict=True):
        np.testing.assert_array_equal(vector, given.outputs.image[given.paths.index(path)])
    assert (len(model.normals), model.manifest.gallery.reduced) == (4, "coreset:4")


def test_nothing_is_written_of_what_cannot_be_built(tmp_path: Path) -> None:
    with pytest.raises(GalleryTooSmall), ModelDraft.begin(str(tmp_path / "m")) as draft:
        build(draft, fake_network(draft.scratch), make_scorer(parse_scorer("kmeans:2")), material(1), silent)
    unreadable = Normals("/n", [Unreadable("/n/x", "denied")], [], HoldOut())
    with pytest.raises(InputError, match="none of the 1"), ModelDraft.begin(str(tmp_path / "m")) as draft:
        build_from(draft, fake_network(draft.scratch), make_scorer(parse_scorer("knn")), unreadable, silent)
    assert not (tmp_path / "m").exists()


def test_held_out_groups_are_counted(tmp_path: Path) -> None:
    paths = [f"/n/{day}/{i}.png" for day in ("a", "b") for i in range(3)]
    images = Embedded("/n", paths, Outputs(np.eye(6, dtype=np.float32)), [], "f")
    info = HeldOut.of(images, HoldOut(0.5, "folder"), {}).info
    assert (info.images, info.groups, info.rule, info.root) == (6, 2, HoldOut(0.5, "folder"), "/n")
    assert HeldOut.of(images, HoldOut(0.5), {}).info.groups == 6
    assert HeldOut.of(images, HoldOut(0.5), {"/n/a/0.png": 0, "/n/b/2.png": 0}).info.groups == 5


def test_unreadable_normals_of_both_kinds_are_told(normal_folder: Path, tmp_path: Path) -> None:
    found = Normals.find(str(normal_folder)).split(HoldOut(0.5), seed=0)
    found = replace(
        found,
        sources=[*found.sources, Unreadable("a", "denied")],
        held_out=[*found.held_out, Unreadable("b", "denied")],
    )
    with ModelDraft.begin(str(tmp_path / "m")) as draft:
        scorer = make_scorer(parse_scorer("knn"))
        fitted = build_from(draft, fake_network(draft.scratch), scorer, found, silent)
    assert [image.path for image in fitted.unreadable] == ["a", "b"]
    assert (fitted.manifest.data.images, fitted.manifest.data.unreadable) == (10, 2)


def test_where_there_are_no_locks_it_is_said(tmp_path: Path) -> None:
    draft = ModelDraft("m", tmp_path, alone=False)
    assert notes(draft) == [
        "the file system of m has no locks: let nothing else write this model at the same time"
    ]
    assert notes(replace(draft, alone=True)) == []
