"""Every preset on a small backbone: what it learns, and that the graph gives what torch gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from anomscan.adapt.adaptation import Adapted, Folder, Resources, adapt_backbone
from anomscan.adapt.backbones import Backbone, load_backbone
from anomscan.adapt.onnx_export import check_parity, write_onnx
from anomscan.adapt.presets import PRESETS
from anomscan.errors import InputError, UsageError
from anomscan.extractor import Extractor
from anomscan.images import Decoded
from anomscan.options import BackboneChoice
from tests.conftest import draw

PIXELS = [np.asarray(draw(seed, side=64)) for seed in range(12)]
TRAINED = [name for name, preset in PRESETS.items() if preset.objective]


def folder(*, classes: int = 0, flip: bool = False) -> Folder:
    images = [Decoded(f"{i}.png", pixels[::-1].copy() if flip else pixels) for i, pixels in enumerate(PIXELS)]
    return Folder(
        images, len(images), "normal", {f"{i}.png": i % classes for i in range(12)} if classes else {}
    )


def run(
    backbone: Backbone, name: str, scratch: Path, steps: int = 2, normals: Folder | None = None
) -> Adapted:
    preset = PRESETS[name]
    needs = preset.objective().needs if preset.objective else None
    others = folder(classes=3, flip=True) if needs else None
    optimisation = replace(preset.optimisation, steps=steps, batch=6)
    resources = Resources(seed=0, device="cpu", time_budget=None, memory=1e9, scratch=scratch)
    return adapt_backbone(
        backbone,
        preset,
        optimisation,
        normals or folder(),
        others,
        folder() if preset.stopping == "label-free" else None,
        normalise=preset.scorer in ("knn", "samplewise"),
        resources=resources,
        progress=lambda *_: None,
    )


@pytest.fixture
def backbone(small: BackboneChoice) -> Backbone:
    return load_backbone(small.name, small.weights, small.size)


@pytest.mark.parametrize("name", TRAINED)
def test_the_exported_graph_gives_what_torch_gives(backbone: Backbone, name: str, tmp_path: Path) -> None:
    start = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    adapted = run(backbone, name, tmp_path)
    assert adapted.steps == 2
    assert adapted.loss is not None
    write_onnx(adapted.module, tmp_path / "x.onnx", backbone.preprocessing, backbone.info)
    extractor = Extractor(tmp_path / "x.onnx", threads=1)
    check_parity(adapted.module, extractor, np.stack(PIXELS))
    features = extractor.run(np.stack(PIXELS))
    if PRESETS[name].scorer == "knn":
        np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    end = backbone.model.state_dict()
    changed = [key for key in end if key not in start or (end[key] != start[key]).any()]
    assert changed or PRESETS[name].stopping == "label-free"
    if PRESETS[name].trainable == "last stage":
        assert all(key.startswith("layer4") for key in changed)
    if PRESETS[name].trainable == "last stages":
        assert all(key.startswith(("layer3", "layer4")) for key in changed)
    assert not any("running" in key for key in changed), "batch norm keeps the pretrained statistics"


def test_sample_wise_puts_the_pretrained_features_first(backbone: Backbone, tmp_path: Path) -> None:
    plain = backbone.model(_normalised(backbone)).detach()
    adapted = run(backbone, "panda-ses", tmp_path, steps=3)
    checkpoints = int(adapted.scorer_state["checkpoints"][0])
    features = adapted.module(torch.from_numpy(np.stack(PIXELS))).detach()
    assert checkpoints == 4
    first, *_, last = features.chunk(checkpoints, dim=1)
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
    weight, bias = adapted.scorer_state["weight"], adapted.scorer_state["bias"]
    upright = adapted.module(torch.from_numpy(np.stack(PIXELS))).detach().numpy() @ weight + bias
    flipped = (
        adapted.module(torch.from_numpy(np.stack(PIXELS)[:, ::-1].copy())).detach().numpy() @ weight + bias
    )
    assert (flipped > upright).mean() > 0.8


def test_consolidation_needs_the_classifier(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pretrained classifier"):
        run(replace(backbone, classifier=None), "panda-ewc", tmp_path)


def test_nothing_readable(backbone: Backbone, tmp_path: Path) -> None:
    broken = Folder([Decoded("x", None, "broken")], 1, "normal")
    with pytest.raises(InputError, match="none of the 1 normal images"):
        run(backbone, "panda-es", tmp_path, normals=broken)
