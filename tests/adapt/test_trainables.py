from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from anomscan.adapt.backbones import load_backbone
from anomscan.adapt.trainables import (
    AdaptedConvolution,
    Everything,
    LastStages,
    LastStagesOfASmallerInput,
    ResidualAdapters,
)
from anomscan.errors import UsageError
from tests.adapt.networks import random_backbone


@pytest.mark.parametrize(
    ("name", "size", "inside", "outside"),
    [
        ("resnet18", 64, "layer3.0.conv1.weight", "layer2.1.conv2.weight"),
        ("convnext_atto", 64, "stages.2.blocks.0.conv_dw.weight", "stages.1.blocks.1.conv_dw.weight"),
        ("vit_tiny_patch16_224", 64, "blocks.9.norm1.weight", "blocks.8.norm1.weight"),
        ("mobilenetv3_small_050", 64, "blocks.2.0.conv_pw.weight", "blocks.1.0.conv_pw.weight"),
        ("regnety_002", 64, "s3.b1.conv1.conv.weight", "s2.b1.conv1.conv.weight"),
    ],
)
def test_trunk_and_tail_make_the_whole(name: str, size: int, inside: str, outside: str) -> None:
    backbone = random_backbone(name, size)
    trunk, tail = LastStages().split(backbone)
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(tail(trunk(images)), backbone.model(images))
    learns = {name for name, parameter in tail.named_parameters() if parameter.requires_grad}
    assert inside in learns
    assert outside not in dict(tail.named_parameters())
    assert outside in dict(trunk.named_parameters())


@pytest.mark.parametrize(
    ("name", "side"), [("resnet18", 96), ("tf_efficientnet_lite0", 96), ("vit_tiny_patch16_224", 128)]
)
def test_a_smaller_input_is_one_that_the_network_takes(name: str, side: int) -> None:
    backbone = random_backbone(name, 128)
    trunk, tail = LastStagesOfASmallerInput().split(backbone)
    images = torch.rand(2, 3, 128, 128)
    shrunk = functional.interpolate(images, (side, side), mode="bilinear", align_corners=False)
    with torch.no_grad():
        torch.testing.assert_close(tail(trunk(images)), backbone.model(shrunk))
    plain = LastStages().split(random_backbone(name, 128))[1]
    learns, others = ([n for n, p in part.named_parameters() if p.requires_grad] for part in (tail, plain))
    assert learns == others


def test_the_default_backbone_learns_from_a_stride_of_sixteen() -> None:
    backbone = load_backbone(size=64)
    _, tail = LastStages().split(backbone)
    learns = {name.partition(".conv")[0] for name, p in tail.named_parameters() if p.requires_grad}
    assert {"blocks.3.0", "blocks.6.0"} <= learns
    assert not any(name.startswith(("blocks.2", "conv_stem")) for name in learns)


def test_learning_changes_the_backbone_itself() -> None:
    backbone = random_backbone("resnet18", 64)
    _, tail = LastStages().split(backbone)
    with torch.no_grad():
        dict(tail.named_parameters())["layer4.1.conv2.weight"].zero_()
    assert backbone.model.state_dict()["layer4.1.conv2.weight"].abs().sum() == 0


def test_everything_learns() -> None:
    backbone = random_backbone("resnet10t", 64)
    trunk, tail = Everything().split(backbone)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(trunk(images), images)
    assert tail is backbone.model
    assert all(parameter.requires_grad for parameter in tail.parameters())


@pytest.mark.parametrize(
    "name", ["resnet10t", "mobilenetv3_small_050", "convnext_atto", "tf_efficientnet_lite0"]
)
def test_adapters_begin_as_nothing_and_learn_alone(name: str) -> None:
    backbone = random_backbone(name, 64)
    images = torch.randn(2, 3, 65, 65)
    with torch.no_grad():
        before = backbone.model(images)
    backbone.model.requires_grad_(False)
    _, tail = ResidualAdapters().split(backbone)
    tail.eval()
    torch.testing.assert_close(tail(images).detach(), before)
    learns = [name for name, parameter in tail.named_parameters() if parameter.requires_grad]
    assert learns
    assert all(name.endswith("adapter.weight") for name in learns)
    with torch.no_grad():
        for name, parameter in tail.named_parameters():
            if name in learns or name.endswith("gamma"):
                parameter.normal_()
    assert (tail(images) - before).abs().max() > 1e-3


def test_a_transformer_has_nothing_to_adapt_beside() -> None:
    with pytest.raises(UsageError, match="no 3x3 convolutions"):
        ResidualAdapters().split(random_backbone("vit_tiny_patch16_224", 64))


def test_an_adapter_of_stride_2_is_a_1x1_convolution_of_stride_2() -> None:
    module = AdaptedConvolution(nn.Conv2d(3, 32, 3, 2, 1, bias=False)).to(memory_format=torch.channels_last)
    nn.init.normal_(module.adapter.weight)
    images = torch.randn(16, 3, 161, 160).contiguous(memory_format=torch.channels_last)
    weight = module.adapter.weight.detach().contiguous().requires_grad_()
    expected = module.frozen(images) + functional.conv2d(images.contiguous(), weight, stride=2)
    torch.testing.assert_close(module(images), expected)
    (gradient,) = torch.autograd.grad(module(images).square().mean(), module.adapter.weight)
    (by_stride,) = torch.autograd.grad(expected.square().mean(), weight)
    torch.testing.assert_close(gradient, by_stride)
