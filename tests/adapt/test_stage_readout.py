from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from anomscan.adapt.backbones import Backbone
from anomscan.adapt.stage_readout import Gate, RootedStageReadout, StageOutputs, StageReadout, measure_blocks
from anomscan.adapt.stages import deep_stages
from anomscan.errors import InputError
from anomscan.images.decode import Decoded
from anomscan.images.find import Unreadable
from tests.adapt.networks import random_backbone
from tests.conftest import draw


def hooked(backbone: Backbone, names: list[str], images: torch.Tensor) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    modules = dict(backbone.model.named_modules())
    hooks = [modules[name].register_forward_hook(lambda m, i, o: seen.append(o)) for name in names]
    with torch.no_grad():
        backbone.model(images)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", "resnet10t", "convnext_atto", "swin_tiny_patch4_window7_224"]
)
def test_the_outputs_are_those_of_the_stages(name: str) -> None:
    backbone = random_backbone(name, 224 if "swin" in name else 96)
    images = torch.randn(2, 3, backbone.preprocessing.height, backbone.preprocessing.width)
    names, middle = deep_stages(backbone)
    stages = [s.permute(0, 3, 1, 2) if "swin" in name else s for s in hooked(backbone, names, images)]
    with torch.no_grad():
        head, maxima, coarse, mean = StageOutputs(backbone).eval()(images)
        torch.testing.assert_close(head, backbone.model(images))
    for block, stage in zip(maxima, stages, strict=True):
        torch.testing.assert_close(block, stage.amax((2, 3)))
    torch.testing.assert_close(coarse, functional.adaptive_avg_pool2d(stages[middle], 5).flatten(1))
    torch.testing.assert_close(mean, stages[middle].mean((2, 3)))


def test_tokens_have_maxima_and_no_map() -> None:
    outputs = StageOutputs(random_backbone("vit_tiny_patch16_224", 64)).eval()
    head, maxima, _, _ = outputs(torch.randn(2, 3, 64, 64))
    assert not outputs.has_map
    assert [block.shape for block in maxima] == [head.shape] * 3


CLOSED, HALF = Gate(0.7, 500), Gate(0.8, 500)


def test_the_weight_is_a_squared_length() -> None:
    outputs = StageOutputs(random_backbone("resnet10t", 64)).eval()
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        features = StageReadout(outputs, HALF)(images)
        head, maxima, coarse, _ = outputs(images)
    head, *beside = [functional.normalize(block, dim=1) for block in (head, *maxima, coarse)]
    similarity = head @ head.T + 0.5 * sum(block @ block.T for block in beside)
    torch.testing.assert_close(features @ features.T, similarity / (1 + 0.5 * len(beside)))


def test_a_closed_gate_leaves_the_head() -> None:
    backbone = random_backbone("resnet10t", 64)
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        features = StageReadout(StageOutputs(backbone).eval(), CLOSED)(images)
        torch.testing.assert_close(features, functional.normalize(backbone.model(images), dim=1))


@pytest.mark.parametrize(
    ("gate", "weight"), [(CLOSED, 0), (HALF, 0.5), (Gate(0.9, 200), 1), (Gate(0.8, 50), 0.125)]
)
def test_the_gate(gate: Gate, weight: float) -> None:
    assert gate.weight == pytest.approx(weight)
    assert f"alignment of {gate.normals} normals is {gate.alignment:.2f}" in gate.record()["reason"]


def decoded(pixels: list[np.ndarray]) -> list[Decoded]:
    return [Decoded(str(i), image) for i, image in enumerate(pixels)]


def test_the_normals_decide(tmp_path: Path) -> None:
    backbone = random_backbone("resnet10t", 64)
    same = np.asarray(draw(1, side=64))
    gate = measure_blocks(backbone, [*decoded([same] * 10), Unreadable("x", "broken")], tmp_path).gate
    assert gate.alignment == pytest.approx(1, abs=1e-4)
    assert gate.normals == 10
    turned = [np.rot90(same * np.array([i % 2, 1, 1], np.uint8), i).copy() for i in range(8)]
    mixed = measure_blocks(backbone, decoded(turned), tmp_path).gate
    assert mixed.alignment < gate.alignment
    tokens = random_backbone("test_vit", 64)
    without = measure_blocks(tokens, decoded([same] * 2), tmp_path).gate
    assert (without.alignment, without.weight) == (None, 0)
    assert "no map" in without.record()["reason"]
    with pytest.raises(InputError, match="none of the 1 normal images"):
        measure_blocks(backbone, [Unreadable("x", "broken")], tmp_path)


def test_every_block_is_rooted_and_weighs_what_the_gate_says(tmp_path: Path) -> None:
    backbone = random_backbone("resnet10t", 64)
    images = [np.asarray(draw(seed, side=64)) for seed in range(8)]
    measured = measure_blocks(backbone, decoded(images), tmp_path)
    outputs = measured.outputs
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        plain = [
            torch.nn.functional.normalize(block.clamp_min(0).sqrt(), dim=1)
            for block in blocks(outputs, pixels)
        ]
        half = RootedStageReadout(outputs, Gate(0.8, 200), measured.blocks)
        closed = RootedStageReadout(outputs, Gate(0.5, 200), measured.blocks)
        found = half(pixels).split(outputs.lengths[:-1], dim=1)
        assert closed(pixels).shape[1] == outputs.lengths[0]
    assert Gate(0.8, 200).weight == pytest.approx(0.5)
    assert len(found) == len(plain)
    for i, (block, before) in enumerate(zip(found, measured.blocks, strict=True)):
        unit = np.sqrt(before) / np.linalg.norm(np.sqrt(before), axis=1, keepdims=True)
        spread = np.square(unit - unit.mean(axis=0)).sum(axis=1).mean()
        rooted = half.rooted[i]
        with torch.no_grad():
            of_normals = rooted(torch.from_numpy(before)).square().sum(dim=1).mean()
        assert of_normals == pytest.approx((1.0 if i == 0 else 0.5) * spread, rel=1e-3)
        assert block.shape == plain[i].shape


def blocks(outputs: StageOutputs, pixels: torch.Tensor) -> list[torch.Tensor]:
    head, maxima, coarse, _ = outputs(pixels)
    return [head, *maxima, coarse]
