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

from anomscan.adapt import extraction
from anomscan.adapt.adaptation import Folder, Resources, adapt_backbone
from anomscan.adapt.backbones import load_backbone
from anomscan.adapt.objectives import Compactness
from anomscan.adapt.presets import PRESETS, Optimisation
from anomscan.bundle import read_model
from anomscan.exporting import export
from anomscan.fitting import adapt
from anomscan.images import Decoded, find
from anomscan.options import AdaptOptions, BackboneChoice
from anomscan.screening import Ranking, score
from tests.conftest import draw, silent

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
# Input size, mean and std, and a rate that collapses random weights within a few steps.
FAMILIES = {
    "resnet18": (64, IMAGENET, 1.0),
    "convnext_atto": (96, IMAGENET, 0.01),
    "vit_tiny_patch16_224.augreg_in21k_ft_in1k": (80, HALF, 0.01),
}


@pytest.fixture(scope="module", params=FAMILIES)
def choice(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BackboneChoice:
    """A backbone of that family with weights from a file."""
    name = str(request.param)
    size, *_ = FAMILIES[name]
    torch.manual_seed(0)
    fixed = {"img_size": size} if name.startswith("vit") else {}
    weights = tmp_path_factory.mktemp("weights") / "random.safetensors"
    safetensors.torch.save_file(timm.create_model(name, **fixed).state_dict(), weights)
    return BackboneChoice(name, weights, size)


def test_adapt_score_and_export(
    choice: BackboneChoice, normal_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "FEWEST_TO_SPLIT", 10)
    size, (mean, std), _ = FAMILIES[choice.name]
    options = AdaptOptions(method="auto", backbone=choice, steps=5)
    preprocessing = adapt(str(normal_folder), tmp_path / "m", options, silent).manifest.preprocessing
    assert (preprocessing.height, preprocessing.width) == (size, size)
    assert (preprocessing.mean, preprocessing.std) == (mean, std)
    for seed in range(3):
        (draw(seed) if seed else ImageOps.invert(draw(seed))).save(tmp_path / f"{seed}.png")
    with Ranking() as ranking:
        model = read_model(tmp_path / "m", 1)
        score(find([str(tmp_path / f"{seed}.png") for seed in range(3)]), model, ranking,
              k=None, threads=1, progress=silent)  # fmt: skip
        rows = list(ranking.rows())
    assert Path(rows[0].path).name == "0.png"
    assert rows[0].score is not None
    assert rows[1].score is not None
    assert rows[0].score > 2 * rows[1].score
    assert export(tmp_path / "m", tmp_path / "x.onnx", [], silent) < 1e-4


def test_collapse_is_noticed_whatever_the_network(choice: BackboneChoice, tmp_path: Path) -> None:
    backbone = load_backbone(choice.name, choice.weights, choice.size)
    side = backbone.preprocessing.height
    images = [Decoded(str(seed), np.asarray(draw(seed, side=side))) for seed in range(24)]
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    adapted = adapt_backbone(
        backbone,
        replace(PRESETS["auto"], objective=Compactness, readout="head"),
        Optimisation(
            steps=30, batch=16, rate=FAMILIES[choice.name][2], momentum=0.9, weight_decay=0.0, clip=10.0
        ),
        Folder(images[:16], 16, "normal"),
        None,
        Folder(images[16:], 8, "held-out normal"),
        normalise=True,
        resources=Resources(0, "cpu", None, 1e9, tmp_path),
        progress=silent,
    )
    assert adapted.selection is not None
    first, last = adapted.selection["curve"][0], adapted.selection["curve"][-1]
    assert last["spread"] < 0.5 * first["spread"] or last["effective_rank"] < 0.8 * first["effective_rank"]
    assert adapted.selection["chosen_step"] < last["step"]
    if adapted.selection["chosen_step"] == 0:
        after = backbone.model.state_dict()
        assert all((after[name] == value).all() for name, value in before.items())
