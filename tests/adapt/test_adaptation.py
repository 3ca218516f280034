"""Training a small backbone; every preset on it is in ``test_make``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from anomscan.adapt.adaptation import Adapted, Resources, adapt_backbone
from anomscan.adapt.backbones import Backbone, load_backbone
from anomscan.adapt.folders import Folder, Material
from anomscan.adapt.onnx_export import FromPixels
from anomscan.adapt.options import BackboneChoice
from anomscan.adapt.presets import PRESETS
from anomscan.errors import InputError, UsageError
from anomscan.images.decode import Decoded
from anomscan.images.find import Unreadable
from anomscan.types import Pixels
from tests.conftest import draw, silent

PIXELS = [np.asarray(draw(seed, side=64)) for seed in range(12)]


def folder(*, classes: int = 0, flip: bool = False) -> Folder:
    images = [Decoded(f"{i}.png", pixels[::-1].copy() if flip else pixels) for i, pixels in enumerate(PIXELS)]
    return Folder(
        images, len(images), "normal", {f"{i}.png": i % classes for i in range(12)} if classes else {}
    )


def run(
    backbone: Backbone, name: str, scratch: Path, steps: int = 2, normals: Folder | None = None
) -> Adapted:
    preset = PRESETS[name]
    preset = replace(preset, optimisation=replace(preset.optimisation, steps=steps, batch=6))
    others = {need.option: folder(classes=3, flip=True) for need in preset.needs if need.required}
    material = Material(normals or folder(), others)
    resources = Resources(seed=0, device="cpu", time_budget=None, memory=1e9, scratch=scratch)
    return adapt_backbone(backbone, preset, material, resources, progress=silent)


def features(backbone: Backbone, adapted: Adapted, pixels: Pixels) -> torch.Tensor:
    module = FromPixels(backbone.preprocessing, *adapted.network)
    return module(torch.from_numpy(pixels.copy())).detach()


@pytest.fixture
def backbone(small: BackboneChoice) -> Backbone:
    return load_backbone(small.name, small.weights, small.size)


def test_sample_wise_puts_the_pretrained_features_first(backbone: Backbone, tmp_path: Path) -> None:
    plain = backbone.model(_normalised(backbone)).detach()
    adapted = run(backbone, "panda-ses", tmp_path, steps=3)
    checkpoints = int(adapted.learnt["checkpoints"][0])
    assert adapted.normalised
    assert checkpoints == 4
    first, *_, last = features(backbone, adapted, np.stack(PIXELS)).chunk(checkpoints, dim=1)
    torch.testing.assert_close(first, torch.nn.functional.normalize(plain, dim=1))
    assert (first - last).abs().max() > 1e-6


def _normalised(backbone: Backbone) -> torch.Tensor:
    pixels = torch.from_numpy(np.stack(PIXELS)).permute(0, 3, 1, 2).float() / 255
    mean, std = (
        torch.tensor(v).reshape(1, 3, 1, 1) for v in (backbone.preprocessing.mean, backbone.preprocessing.std)
    )
    return (pixels - mean) / std


def test_outlier_exposure_separates_and_tells_its_linear_layer(backbone: Backbone, tmp_path: Path) -> None:
    adapted = run(backbone, "adib", tmp_path, steps=25)
    weight, bias = adapted.learnt["weight"], adapted.learnt["bias"]
    pixels = np.stack(PIXELS)
    upright, flipped = (
        features(backbone, adapted, images).numpy() @ weight + bias for images in (pixels, pixels[:, ::-1])
    )
    assert (flipped > upright).mean() > 0.8


def test_consolidation_needs_the_classifier(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pretrained classifier"):
        run(replace(backbone, classifier=None), "panda-ewc", tmp_path)


def test_nothing_readable(backbone: Backbone, tmp_path: Path) -> None:
    broken = Folder([Unreadable("x", "broken")], 1, "normal")
    with pytest.raises(InputError, match="none of the 1 normal images"):
        run(backbone, "panda-es", tmp_path, normals=broken)


def test_a_run_leaves_the_preset_as_it_was(backbone: Backbone, tmp_path: Path) -> None:
    adapted = run(backbone, "adib", tmp_path)
    assert adapted.settings == {**vars(PRESETS["adib"].optimisation), "steps": 2, "batch": 6}
    assert (adapted.steps, adapted.selection, adapted.normalised) == (2, None, False)
    assert adapted.loss is not None
    objective = PRESETS["adib"].objective
    assert objective is not None
    assert not list(objective.parameters())
