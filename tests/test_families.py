"""Networks of three families, random weights, from a folder of images to scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import ImageOps

from anomscan.adapt.adaptation import Resources, adapt_backbone
from anomscan.adapt.backbones import load_backbone
from anomscan.adapt.beside import Beside
from anomscan.adapt.folders import Folder, Material
from anomscan.adapt.objectives import Compactness
from anomscan.adapt.options import AdaptOptions, BackboneChoice, FocusChoice
from anomscan.adapt.presets import PRESETS
from anomscan.adapt.readouts import Head
from anomscan.adapt.trainer import Optimisation
from anomscan.fit.adapt import adapt
from anomscan.fit.export import export
from anomscan.images.decode import Decoded
from anomscan.images.find import find
from anomscan.model.model import read_model
from anomscan.screen.run import ScoreJob, run
from tests.conftest import draw, silent

HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
# Input size, mean and std, and a rate that collapses random weights within a few steps.
FAMILIES = {
    "test_resnet": (64, HALF, 10.0),
    "test_convnext": (96, HALF, 0.01),
    "test_vit": (80, HALF, 0.01),
}


@pytest.fixture(scope="module", params=FAMILIES)
def choice(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BackboneChoice:
    """A backbone of that family with weights from a file."""
    name = str(request.param)
    size, *_ = FAMILIES[name]
    torch.manual_seed(0)
    fixed = {"img_size": size} if "vit" in name else {}
    weights = tmp_path_factory.mktemp("weights") / "random.safetensors"
    safetensors.torch.save_file(timm.create_model(name, **fixed).state_dict(), weights)
    return BackboneChoice(name, str(weights), size)


def test_adapt_score_and_export(
    choice: BackboneChoice, normal_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Beside, "against", lambda *_, **__: None)
    size, (mean, std), _ = FAMILIES[choice.name]
    options = AdaptOptions(method="auto", backbone=choice, steps=5, focus=FocusChoice("image"))
    folder = str(tmp_path / "m")
    preprocessing = adapt(str(normal_folder), folder, options, silent).manifest.preprocessing
    assert (preprocessing.height, preprocessing.width) == (size, size)
    assert (preprocessing.mean, preprocessing.std) == (mean, std)
    for seed in range(3):
        (draw(seed) if seed else ImageOps.invert(draw(seed))).save(tmp_path / f"{seed}.png")
    found = find([str(tmp_path / f"{seed}.png") for seed in range(3)])
    with run(ScoreJob(found, read_model(folder, 1)), silent) as outcome:
        rows = list(outcome.ranking.rows())
    assert Path(rows[0].path).name == "0.png"
    assert rows[0].score is not None
    assert rows[1].score is not None
    assert rows[0].score > 2 * rows[1].score
    assert export(folder, str(tmp_path / "x.onnx"), [], silent) < 1e-4


def test_collapse_is_noticed_whatever_the_network(choice: BackboneChoice, tmp_path: Path) -> None:
    backbone = load_backbone(choice.name, choice.weights, choice.size)
    side = backbone.preprocessing.height
    images = [Decoded(str(seed), np.asarray(draw(seed, side=side))) for seed in range(24)]
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    rate = FAMILIES[choice.name][2]
    adapted = adapt_backbone(
        backbone,
        replace(
            PRESETS["auto"],
            objective=Compactness(),
            readout=Head(),
            optimisation=Optimisation(
                steps=30, batch=16, rate=rate, momentum=0.9, weight_decay=0.0, clip=10.0
            ),
        ),
        Material(Folder(images, len(images), "normal")),
        Resources(0, "cpu", None, 1e9, tmp_path),
        silent,
    )
    assert adapted.selection is not None
    first, last = adapted.selection["curve"][0], adapted.selection["curve"][-1]
    assert last["spread"] < 0.5 * first["spread"] or last["effective_rank"] < 0.8 * first["effective_rank"]
    assert adapted.selection["chosen_step"] < last["step"]
    if adapted.selection["chosen_step"] == 0:
        after = backbone.model.state_dict()
        assert all((after[name] == value).all() for name, value in before.items())
