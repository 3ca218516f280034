from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomscan.errors import ModelDamaged, ModelTooNew
from anomscan.images.part import part_of
from anomscan.model.folder import MANIFEST, read_manifest
from anomscan.model.manifest import SCHEMA, Change, FileInfo, Manifest, RejectInfo, parse_manifest
from anomscan.network.network import Int8Info, MethodInfo
from anomscan.scoring.info import GalleryInfo
from anomscan.types import Tiles

Data = dict[str, Any]
MASK = np.ones((8, 9), np.bool_)


@pytest.fixture
def data(calibrated_folder: Path) -> Data:
    """What the manifest of a model says."""
    loaded: Data = json.loads((calibrated_folder / MANIFEST).read_text())
    return loaded


def parsed(data: object) -> Manifest:
    return parse_manifest(json.dumps(data).encode(), "m")


def test_the_manifest_is_plain_json_with_checksums(data: Data) -> None:
    assert (data["schema"], SCHEMA) == (1, 3)
    assert data["preprocessing"]["height"] == 64
    assert {len(file["sha256"]) for file in data["files"].values()} == {64}
    assert data["versions"].keys() >= {"python", "onnxruntime", "torch", "timm"}


def test_it_comes_back_as_it_was_written(calibrated_folder: Path, data: Data) -> None:
    manifest = read_manifest(str(calibrated_folder))
    full = replace(
        manifest,
        method=MethodInfo("auto", 3, 40, 0.5, {"lr": 0.01, "x": [1]}, {"chosen": 20, "why": None}),
        int8=Int8Info(2.0, 0.99, 0.001),
        gallery=GalleryInfo("IVF", 0.97, "coreset:5", 5, 0.2),
        changes=[Change("2026-11-25", "removed", ["/a/\udcff.png"])],
        preprocessing=replace(
            manifest.preprocessing,
            reading=replace(manifest.preprocessing.reading, part=part_of((9, 8), (1, 2, 3, 4), MASK)),
            tiles=Tiles(2, 3, 1 / 7, (3, 4), 2),
        ),
    )
    for one in (manifest, full):
        assert parsed(one.to_json()) == one
    assert json.loads(json.dumps(manifest.to_json())) == data


def test_a_model_of_before_there_were_regions_looks_at_the_whole(data: Data) -> None:
    del data["preprocessing"]["reading"]["part"]
    del data["preprocessing"]["tiles"]
    assert parsed(data).preprocessing.reading.part is None
    assert parsed(data).preprocessing.tiles is None


def test_what_a_reader_of_0_2_0_would_pass_over_asks_for_schema_2(data: Data, fake_patch_model: Path) -> None:
    manifest = parsed(data)
    assert manifest.least_schema == 1
    reading = replace(manifest.preprocessing.reading, part=part_of((9, 8), (1, 2, 3, 4), None))
    preprocessing = replace(manifest.preprocessing, reading=reading)
    assert replace(manifest, preprocessing=preprocessing).least_schema == 2
    written = json.loads((fake_patch_model / MANIFEST).read_text())
    assert (written["schema"], read_manifest(str(fake_patch_model)).least_schema) == (2, 2)
    assert (
        parsed({**written, "schema": 1}).patches == parsed(written).patches
    )  # as written before there was a 2


def test_rejects_ask_for_schema_3_and_are_not_spoken_of_where_there_are_none(data: Data) -> None:
    manifest = parsed(data)
    assert "rejects" not in manifest.to_json()
    missed = replace(manifest, rejects=RejectInfo(2, 5))
    assert missed.least_schema == 3
    assert missed.id != manifest.id
    assert parsed(json.loads(json.dumps(missed.to_json()))) == missed
    for action, schema in (("rejected", 3), ("unrejected", 3), ("removed", 1)):
        changes = [Change("2026", action, ["/a"])]  # type: ignore[arg-type]
        assert replace(manifest, changes=changes).least_schema == schema
    with pytest.raises(ModelDamaged):
        parsed({**data, "rejects": {"images": -1}})


def test_a_procedure_for_patches_asks_for_schema_2_and_for_patches(
    data: Data, fake_patch_model: Path
) -> None:
    manifest = read_manifest(str(fake_patch_model))
    by_spade = replace(manifest, focus=replace(manifest.focus, procedure="spade"))
    assert by_spade.least_schema == 2
    assert parsed(by_spade.to_json()) == by_spade
    data["focus"]["procedure"] = "spade"
    with pytest.raises(ModelDamaged, match="compared by a procedure, and there are none"):
        parsed(data)


def test_an_id_names_this_very_model(data: Data) -> None:
    manifest = parsed(data)
    assert manifest.id == parsed(json.loads(json.dumps(data))).id
    other = FileInfo("index-" + "0" * 16 + ".faiss", "0" * 64)
    assert replace(manifest, files={**manifest.files, "index": other}).id != manifest.id
    assert replace(manifest, created="2000").id != manifest.id


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        b'{"schema": 1}',
        b'{"schema": "x"}',
        b"\xff",
        b'{"schema": 1',
        b"[" * 100_000,
    ],
)
def test_a_broken_manifest(content: bytes) -> None:
    with pytest.raises(ModelDamaged, match=r"^m/model\.json is not a manifest of anomscan: "):
        parse_manifest(content, "m")


def test_a_newer_model(data: Data) -> None:
    with pytest.raises(ModelTooNew, match=r"^m was written by a newer anomscan \(9\.0\); upgrade"):
        parsed({"schema": 4, "anomscan": "9.0", "else": data})
    with pytest.raises(ModelTooNew, match="of unknown version"):
        parsed({"schema": 4})


def test_what_a_newer_version_of_this_schema_adds_is_passed_over(data: Data) -> None:
    assert parsed(data | {"more": [1, 2]}) == parsed(data)


def test_a_model_of_before_there_were_calibrations(data: Data) -> None:
    for name in ("calibration", "changes", "gallery", "int8"):
        del data[name]
    old = parsed(data)
    assert (old.calibration, old.changes, old.int8, old.gallery) == (None, [], None, GalleryInfo())


def edited(*keys: str, to: object) -> Callable[[Data], None]:
    """A change of one field, however deep."""

    def edit(data: Data) -> None:
        *above, last = keys
        for key in above:
            data = data[key]
        data[last] = to

    return edit


WRONG = {
    "a number as text": edited("preprocessing", "height", to="64"),
    "a fraction of a pixel": edited("preprocessing", "height", to=64.5),
    "no pixel": edited("preprocessing", "width", to=0),
    "more pixels than fit": edited("preprocessing", "width", to=10**6),
    "a mean of text": edited("preprocessing", "mean", to=["0", "0", "0"]),
    "a region that sticks out": edited(
        "preprocessing", "reading", "part", to={"source": [9, 8], "box": [5, 0, 5, 8]}
    ),
    "a region of three numbers": edited(
        "preprocessing", "reading", "part", to={"source": [9, 8], "box": [5, 0, 5]}
    ),
    "a mask that is none": edited(
        "preprocessing", "reading", "part", to={"source": [9, 8], "box": [0, 0, 9, 8], "mask": "x"}
    ),
    "no tile": edited(
        "preprocessing", "tiles", to={"rows": 0, "columns": 3, "overlap": 0.1, "source": [9, 8], "defect": 0}
    ),
    "tiles beyond number": edited(
        "preprocessing",
        "tiles",
        to={"rows": 99, "columns": 99, "overlap": 0.1, "source": [9, 8], "defect": 0},
    ),
    "no image is small enough": edited("preprocessing", "reading", "max_pixels", to=0),
    "a range of nothing": edited("preprocessing", "reading", "levels", to={"low": 5, "high": 5}),
    "a filter that is none": edited("preprocessing", "resample", to="evil"),
    "no neighbour": edited("scorer", "k", to=0),
    "a yes as number": edited("scorer", "k", to=True),
    "another metric": edited("scorer", "metric", to="manhattan"),
    "no feature": edited("backbone", "dim", to=-1),
    "a name that is none": edited("backbone", "name", to=None),
    "fewer than no images": edited("data", "images", to=-1),
    "files that are a list": edited("files", to=[]),
    "a file that is a text": edited("files", "index", to="index.faiss"),
    "a path upwards": edited("files", "index", "name", to="../index-0123456789abcdef.faiss"),
    "a path from the root": edited("files", "index", "name", to="/etc/passwd"),
    "a path downwards": edited("files", "index", "name", to="x/index-0123456789abcdef.faiss"),
    "a name with a new line": edited("files", "index", "name", to="index-0123456789abcdef.faiss\n"),
    "a hidden name": edited("files", "index", "name", to=".lock"),
    "the manifest itself": edited("files", "index", "name", to="model.json"),
    "half a checksum": edited("files", "index", "sha256", to="0" * 32),
    "a rule that is none": edited("calibration", "rule", "group_by", to="colour"),
    "an action that is none": edited("changes", to=[{"date": "", "action": "moved", "paths": []}]),
    "paths that are one": edited("changes", to=[{"date": "", "action": "added", "paths": "/a"}]),
    "a schema below all": edited("schema", to="1"),
}


@pytest.mark.parametrize("edit", WRONG.values(), ids=list(WRONG))
def test_what_makes_no_sense_is_one_sentence(data: Data, edit: Callable[[Data], None]) -> None:
    edit(data)
    with pytest.raises(ModelDamaged, match=r"^m/model\.json is not a manifest of anomscan: [^\n]+$"):
        parsed(data)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_no_number_is_refused(data: Data, number: str) -> None:
    for place in (("method", "final_loss"), ("gallery", "recall_at_2"), ("calibration", "rule", "share")):
        copy = json.loads(json.dumps(data))
        edited(*place, to="HERE")(copy)
        text = json.dumps(copy).replace('"HERE"', number)
        with pytest.raises(ModelDamaged, match=r"^m/model\.json is not a manifest"):
            parse_manifest(text.encode(), "m")
