from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from anomscan.adapt.options import AdaptOptions, BackboneChoice, FocusChoice
from anomscan.cli.console import message
from anomscan.fit import adapt as module
from anomscan.fit.build import Fitted
from anomscan.fit.look import Gathering
from anomscan.images.tiling import TileChoice
from anomscan.model.folder import read_manifest
from anomscan.model.manifest import HoldOut
from tests.conftest import Run


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["empty"], 1, "no images in empty"),
        (["textonly"], 1, "no images in textonly"),
        (["incoming", "--method", "panda"], 2, "there is no method called 'panda'; choose one of none"),
        (["incoming", "--method", "none", "--steps", "3"], 2, "does not train; leave --steps"),
        (["incoming", "--scorer", "nearest"], 2, "there is no scorer called 'nearest'; choose knn"),
        (["incoming", "--method", "none", "--scorer", "logit"], 2, "none does not learn what the scorer"),
        (["incoming", "--model", "textonly/a.txt"], 1, "cannot write the model folder"),
    ],
)
def test_what_goes_wrong_is_one_sentence(
    run: Run, incoming: Path, tmp_path: Path, arguments: list[str], code: int, sentence: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "textonly").mkdir()
    (tmp_path / "textonly" / "a.txt").touch()
    done = run("adapt", *arguments)
    text = done.stderr.decode()
    assert (done.returncode, done.stdout) == (code, b""), text
    assert sentence in text
    assert text.count("\n") == 1
    assert not (tmp_path / "anomscan-model").exists()


def test_every_option_arrives(
    run: Run, calibrated_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    taken: list[object] = []

    def fit(*arguments: object) -> Fitted:
        taken.extend(arguments)
        return Fitted(read_manifest(str(calibrated_folder)), [], ["mind the gap"])

    monkeypatch.setattr(module, "adapt", fit)
    given = {
        "--model": "m",
        "--method": "hsc",
        "--backbone": "resnet18",
        "--weights": "w.pth",
        "--size": "96",
        "--outliers": "o",
        "--reference": "r",
        "--scorer": "mean",
        "--steps": "7",
        "--time-budget": "9.5",
        "--seed": "3",
        "--device": "cpu",
        "--memory": "1.5",
        "--reduce": "coreset:9",
        "--holdout": "0.3",
        "--group-by": "folder",
        "--range": "0:4095",
        "--max-pixels": "123",
        "--region": "1,2,3,4",
        "--mask": "m.png",
        "--focus": "both",
        "--budget": "50",
        "--patches": "200",
        "--defect": "12px",
        "--decode-limit": "8",
        "--wait": "4",
    }
    excluded = ("--exclude", "a*", "--exclude", "b")
    done = run("adapt", "normal", *(part for pair in given.items() for part in pair), *excluded, "--isolate")
    assert done.returncode == 0
    options = AdaptOptions(
        "hsc", BackboneChoice("resnet18", "w.pth", 96), "o", "r", "mean", 7, 9.5, 3, "cpu", 1.5e9
    )
    options = replace(options, focus=FocusChoice("both", 50, 200), tiles=TileChoice(defect="12px"))
    root, folder, chosen, _, rule, reduce, wait, gathering, say = taken
    assert say is message
    assert (root, folder, chosen) == ("normal", "m", options)
    assert (rule, reduce, wait) == (HoldOut(0.3, "folder"), "coreset:9", 4.0)
    assert gathering == Gathering(("a*", "b"), "0:4095", 123, "1,2,3,4", "m.png", isolate=8.0)
    assert done.stderr.decode().splitlines() == [
        "wrote m: pretrained features, 10 normals",
        "10 more are held out: p-values from 0.091 up",
        "mind the gap",
    ]


def test_adapting_says_what_it_did(
    run: Run, small: BackboneChoice, normal_folder: Path, tmp_path: Path
) -> None:
    assert small.weights is not None
    backbone = ("--backbone", small.name, "--weights", small.weights, "--size", str(small.size))
    done = run("adapt", normal_folder, "--method", "panda-es", "--steps", "2", *backbone)
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.decode().splitlines() == [
        "wrote anomscan-model: panda-es, 2 steps, 16 normals",
        "4 more are held out: p-values from 0.2 up",
    ]
    assert json.loads((tmp_path / "anomscan-model" / "model.json").read_text())["method"]["steps"] == 2
